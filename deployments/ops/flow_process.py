"""`python -m deployments.ops.flow_process training promotion`: run flows, for `tidemill run`.

Progress goes to stderr, the name of each flow that has ended to stdout. The process starts while
the Prefect server still starts, since both take seconds to import, and waits for it.
"""

import sys
import time
from collections.abc import Callable

from rich.console import Console

from flows._stages import StageProgress, watchers
from tasks.core.errors import SettingsError
from tasks.edges.command import run_or_exit
from tasks.edges.parent_watch import stop_with_parent
from tasks.edges.processes import is_answering, wait_for
from tasks.edges.settings import read_settings

WAIT_S = 180.0  # longer than `tidemill run` waits for its server


def main() -> None:
    """Run the flows that the arguments name, in order; stop at the first that fails."""
    stop_with_parent()
    # Imported here: Prefect takes 3 s, and a process whose parent is gone should not start it
    from flows.monitoring import monitoring
    from flows.promotion import promotion
    from flows.retraining import retraining
    from flows.training import training

    flows: dict[str, Callable[[], object]] = {
        "training": lambda: training("tidemill run"),
        "promotion": promotion,
        "monitoring": monitoring,
        "retraining": lambda: retraining(start=False),
    }
    api = read_settings().prefect_api_url
    if not wait_for(lambda: is_answering(f"{api}/health"), WAIT_S):
        raise SettingsError(f"No Prefect server answers at {api}. `dvc repro` does the same without it.")
    watchers.append(TerminalProgress().show)
    for name in sys.argv[1:]:
        flows[name]()
        print(name, flush=True)


class TerminalProgress:
    """Progress for people: a line per stage.

    On a terminal, there is a clock next to the stage that runs.
    """

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self.status = self.console.status("")

    def show(self, progress: StageProgress) -> None:
        """Show that a stage has started or ended."""
        if progress.result is None:
            self.status.update(f"{progress.stage} ... (since {time.strftime('%H:%M:%S')})")
            self.status.start()
            return
        self.status.stop()
        seconds = f"{progress.result['seconds']:6.1f} s"
        self.console.print(
            f"  {progress.stage:<10}{seconds if progress.result['ran'] else 'unchanged':>10}", highlight=False
        )


if __name__ == "__main__":
    run_or_exit(main)
