"""A process that ends as by kill -9 before its n-th change of a file, seen from outside the code.

Python reports each change to an audit hook before it is made: a file opened for writing, a rename,
a link, a deletion, a truncation, a new folder. A kill before the n-th leaves the first n - 1, so
the campaign over all n has a kill after each of them, too.
"""

import os
import signal
import sys
import traceback

CHANGES = ("os.rename", "os.link", "os.symlink", "os.remove", "os.truncate", "os.mkdir", "os.rmdir")


def run_killed(action, n, within):
    """Run *action* in a fork that is killed before its *n*-th change in *within*.

    Returns whether it was killed: False when it ended before.
    """
    child = os.fork()
    if not child:
        status = 1
        try:
            _install(n, str(within))
            action()
            status = 0
        except Exception:  # noqa: BLE001  (its status says so)
            traceback.print_exc()
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "it failed by itself"
    return os.WIFSIGNALED(status)


def _install(n, within):
    left = n

    def count(event, arguments):
        nonlocal left
        flags = arguments[2] if event == "open" else 0
        writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)
        if (writes or event in CHANGES) and any(within in str(a) for a in arguments[:2]):
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
