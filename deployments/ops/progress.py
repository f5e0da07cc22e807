"""Progress of `tidemill run` for people: a line per stage and per model, the time, what is left."""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from rich.console import Console

from flows._stages import StageProgress
from tasks.edges.artifacts import write_json
from tasks.edges.params import STAGES
from tasks.edges.safe_names import encode_name
from tasks.edges.settings import read_settings


class TerminalProgress:
    """A line per stage that has ended, a clock next to the one that runs if it is a terminal.

    What is left is estimated by how long each stage took when it last ran for the dataset; without
    such a run there is no estimate.
    """

    def __init__(self, dataset: str, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self.console, self.clock = console, clock
        self.path = read_settings().home / "progress" / f"{encode_name(dataset)}.json"
        self.last_seconds = read_last_seconds(self.path)
        self.started, self.seconds = clock(), dict[str, float]()
        self.status = console.status("")

    def show(self, progress: StageProgress) -> None:
        """Show that a stage has started or ended, or a model of it has."""
        position = f"[{STAGES.index(progress.stage) + 1:>2} of {len(STAGES)}]"
        if progress.model is not None:
            ended = _format_end(progress.model.ran, progress.model.seconds)
            self._print(f"            {progress.model.model:<20}{ended:>10}")
        elif progress.result is None:
            self.status.update(f"{position} {progress.stage} ... (since {time.strftime('%H:%M:%S')})")
            self.status.start()
        else:
            self.status.stop()
            if progress.result["ran"]:
                self.seconds[progress.stage] = progress.result["seconds"]
            ended = _format_end(progress.result["ran"], progress.result["seconds"])
            self._print(
                f"  {position} {progress.stage:<10}{ended:>10}   {self._format_times(progress.stage)}"
            )
            self._write_seconds()

    def _format_times(self, stage: str) -> str:
        left = STAGES[STAGES.index(stage) + 1 :]
        elapsed = f"{format_duration(self.clock() - self.started)} so far"
        if not left or not all(name in self.last_seconds for name in left):
            return elapsed
        return f"{elapsed}, up to {format_duration(sum(self.last_seconds[name] for name in left))} left"

    def _print(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False)

    def _write_seconds(self) -> None:
        with suppress(OSError):  # an estimate is worth no failed run
            write_json(self.path, self.last_seconds | self.seconds)


def read_last_seconds(path: Path) -> dict[str, float]:
    """Seconds of each stage when it last ran; empty when none has, or the file cannot be read."""
    try:
        content = json.loads(path.read_text())
        return {str(stage): float(seconds) for stage, seconds in content.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def format_duration(seconds: float) -> str:
    """`4 s` or `2:05 min` or `1:02:05 h`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes}:{rest:02} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02}:{rest:02} h"


def _format_end(ran: bool, seconds: float) -> str:
    return f"{seconds:.1f} s" if ran else "unchanged"
