"""The door of every stage command: telemetry off, dies with its parent, prints one clean message on an error that a person can mend."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable

from tasks.core.errors import TidemillError
from tasks.edges.settings import settings

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends, so that a killed run leaves nobody writing. Linux only; elsewhere nothing."""
    if sys.platform != "linux":
        return
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended in between
        os.kill(os.getpid(), signal.SIGKILL)


def open_door(main: Callable[[], None]) -> None:
    """Run a stage's *main* as a DVC command."""
    die_with_parent()
    settings()
    try:
        main()
    except TidemillError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        raise SystemExit(2) from error
