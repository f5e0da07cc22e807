"""A killed run leaves nobody writing: processes that we start end when the one that started them
does.

`python -m tasks.edges.lifeline [--parent ID] PROGRAM ARGUMENTS...` becomes PROGRAM with that
promise, which an exec keeps. Light on imports, so that little time passes in which the parent could
end unnoticed; a shell that knows its own parent says so with `--parent $PPID`.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def stop_with_parent(parent: int | None = None) -> None:
    """Have the kernel kill this process when its parent ends. Linux only; elsewhere nothing.

    parent: the process that must still be our parent; None: whoever is it now.
    """
    if sys.platform != "linux":
        return
    parent = os.getppid() if parent is None else parent
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended in between
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    program = sys.argv[1:]
    known = int(program[1]) if program[0] == "--parent" else None
    stop_with_parent(known)
    program = program if known is None else program[2:]
    os.execvp(program[0], program)  # noqa: S606  (becoming the program is the point)
