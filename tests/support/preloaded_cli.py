"""The command line of a small checkout in processes that have loaded its libraries already."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields

from small_checkout import SmallCheckout

# A process of its own for each command, as `python -m deployments.cli` would be; nothing is run
# before the fork, so no library has threads yet
_PROGRAM = """
import json, os, sys
import deployments.ops.check_datasets, deployments.ops.doctor, dvc.rwlock, dvc.schema, exchange_calendars
from deployments.cli.app import app
for line in sys.stdin:
    arguments, out, err = json.loads(line)
    if (child := os.fork()) == 0:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
        os.dup2(os.open(err, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        app(arguments, prog_name="tidemill")
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@dataclass(frozen=True)
class PreloadedCheckout(SmallCheckout):
    """A small checkout whose command line starts in hundredths of a second."""

    server: subprocess.Popen

    def tidemill(self, *arguments, code=0) -> subprocess.CompletedProcess:
        """Run the command line in the checkout."""
        out, err = (self.root.with_name(name) for name in ("out", "err"))
        self.server.stdin.write(json.dumps([arguments, str(out), str(err)]) + "\n")
        self.server.stdin.flush()
        done = subprocess.CompletedProcess(
            arguments, int(self.server.stdout.readline()), out.read_text(), err.read_text()
        )
        assert done.returncode == code, f"{arguments} ended with {done}"
        return done


@contextmanager
def preload_cli(checkout: SmallCheckout) -> Iterator[PreloadedCheckout]:
    """*checkout* with such a command line until the block ends."""
    command = [sys.executable, "-W", "ignore:Using fork:RuntimeWarning", "-c", _PROGRAM]
    with checkout.start(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        yield PreloadedCheckout(*(getattr(checkout, f.name) for f in fields(checkout)), server)
        server.stdin.close()
