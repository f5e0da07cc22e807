"""`python -m deployments.ops.flow_process training promotion`: run flows, for `tidemill run`.

Progress goes to stderr, the name of each flow that has ended to stdout. The process starts while
the Prefect server still starts, since both take seconds to import, and waits for it.
"""

import sys
from collections.abc import Callable

from rich.console import Console

from deployments.ops.progress import TerminalProgress
from flows._stages import watchers
from tasks.core.errors import SettingsError
from tasks.edges.command import run_or_exit
from tasks.edges.params import read_dataset
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
    if read_settings().log_level in {"debug", "info"}:
        watchers.append(TerminalProgress(read_dataset(), Console(stderr=True)).show)
    for name in sys.argv[1:]:
        flows[name]()
        print(name, flush=True)


if __name__ == "__main__":
    run_or_exit(main)
