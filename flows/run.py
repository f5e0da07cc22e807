"""`tidemill run`: the whole chain on a real Prefect server, then a forecast from the built Bento over HTTP, then the page."""

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from flows.server import prefect_environment, prefect_server
from flows.service import ask, serving
from tasks.core.errors import StageError
from tasks.edges.artifacts import read_json
from tasks.edges.params import read_dataset
from tasks.edges.processes import mark, start, stop
from tasks.edges.settings import ROOT, settings

FLOWS = ("training", "promotion", "monitoring", "retraining")
Say = Callable[[str], None]


def run(dataset: str | None, say: Say) -> dict[str, Any]:
    """Run the chain on *dataset* (None: the current one). Returns decision, forecast, page and seconds; raises what a person can mend."""
    started = time.monotonic()
    with _alone(say):
        if dataset is not None:
            from tasks.ingest.wizard.use import use  # noqa: PLC0415  (only when asked to change it)

            use(dataset)
        say(f"Dataset: {read_dataset()}")
        turn(FLOWS, say)
        bento = ROOT / "models/release/bento"
        say("Service: starting the Bento")
        with serving(bento) as address:
            forecast = ask(address)
        return {
            "dataset": read_dataset(),
            "decision": read_json(ROOT / "data/decisions/promote/decision.json"),
            "forecast": forecast,
            "page": _page(),
            "seconds": round(time.monotonic() - started, 1),
        }


def turn(names: tuple[str, ...], say: Say) -> None:
    """Run the flows *names*, one after the other, in one process on a real Prefect server. Raises StageError when one fails."""
    children: list[subprocess.Popen[str]] = []

    def begin(url: str) -> None:
        quiet = {"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL"}  # its log is in the UI; the terminal has a line per stage
        children.append(start("The flows", [sys.executable, "-m", "flows.turn", *names], 2, prefect_environment(url) | quiet))

    try:
        with prefect_server(say, meanwhile=begin):
            if code := children[0].wait():
                raise StageError(
                    f"The flows ended with code {code}; the reason stands above. After mending it, `tidemill run` goes on where it stopped."
                )
    finally:
        for child in children:
            if child.poll() is None:
                stop(mark("turn", child.pid))
                child.wait()


@contextmanager
def _alone(say: Say) -> Iterator[None]:
    """One `tidemill run` at a time in a home: the second would use a Prefect server that the first one stops."""
    path = settings().home / "run.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            say(f"Waiting for the run of process {handle.read()} in {settings().home}.")
            fcntl.flock(handle, fcntl.LOCK_EX)
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        yield


def _page() -> str:
    from flows.page import write_page  # noqa: PLC0415  (matplotlib)

    return str(write_page())
