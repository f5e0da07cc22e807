"""Processes that we start end when the process that started them ends, also after kill -9.

`python -m tasks.edges.parent_watch [--parent ID] PROGRAM ARGUMENTS...` becomes PROGRAM with that
property, which an exec keeps. It imports little, so that the parent can hardly end unnoticed
before; a shell, which knows its own parent, names it with `--parent $PPID`.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def stop_with_parent(parent: int | None = None) -> None:
    """Have the kernel kill this process when its parent ends. On Linux; elsewhere nothing.

    parent: the process that must still be our parent; None: the one that is it now.
    """
    if sys.platform != "linux":
        return
    parent = os.getppid() if parent is None else parent
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended in between
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    program = sys.argv[1:]
    parent_id = int(program[1]) if program[0] == "--parent" else None
    stop_with_parent(parent_id)
    program = program if parent_id is None else program[2:]
    os.execvp(program[0], program)  # noqa: S606  (becoming the program is the point)
