"""How every stage command starts and ends."""

import sys
from collections.abc import Callable

from tasks.core.errors import TidemillError
from tasks.edges.parent_watch import stop_with_parent
from tasks.edges.settings import ROOT, read_settings


def run_stage_command(main: Callable[[], None]) -> None:
    """Run a stage's *main* as a DVC command.

    The process ends with its parent, and what killed runs left is removed first.
    """
    # polars is imported here, since `run_or_exit` alone does not need it
    from tasks.edges.artifacts import delete_leftovers

    stop_with_parent()
    delete_leftovers(ROOT / "data", ROOT / "models", read_settings().home)
    run_or_exit(main)


def run_or_exit(main: Callable[[], None]) -> None:
    """Run *main*; an error that a person can fix prints its message alone and exits with code 2."""
    try:
        main()
    except TidemillError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        raise SystemExit(2) from error
