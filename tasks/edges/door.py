"""The door of every stage command: telemetry off, what a killed run left is swept, it dies with
its parent, prints one clean message on an error that a person can mend.
"""

import sys
from collections.abc import Callable

from tasks.core.errors import TidemillError
from tasks.edges.lifeline import stop_with_parent
from tasks.edges.settings import ROOT, read_settings


def run_stage_command(main: Callable[[], None]) -> None:
    """Run a stage's *main* as a DVC command."""
    # polars: who only ends by its message need not have it
    from tasks.edges.artifacts import delete_leftovers

    stop_with_parent()
    delete_leftovers(ROOT / "data", ROOT / "models", read_settings().home)
    run_or_exit(main)


def run_or_exit(main: Callable[[], None]) -> None:
    """Run *main*; an error that a person can mend ends the process with its message alone and
    exit code 2.
    """
    try:
        main()
    except TidemillError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        raise SystemExit(2) from error
