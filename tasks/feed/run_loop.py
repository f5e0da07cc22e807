"""`python -m tasks.feed.run_loop`: a feed that lands until it is stopped.

`tidemill feed` and `tidemill up` start it. SIGTERM ends it after the current commit.
"""

import json
import signal
import threading
import time

from tasks.edges.command import run_or_exit
from tasks.feed.land import LandedCommit
from tasks.feed.service import run_feed

_REPORT_S = 10.0


def main() -> None:
    """Land records until a signal; a line on stdout for each ten seconds with commits."""
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    run_feed(stop=stopping.is_set, until_caught_up=False, report=_ProgressReporter().report_commit)


class _ProgressReporter:
    """Sums what landed, and prints it every ten seconds."""

    def __init__(self) -> None:
        self._since, self._counts = time.monotonic(), dict[str, int]()

    def report_commit(self, landed: LandedCommit) -> None:
        for disposition, n in landed.counts.items():
            self._counts[disposition] = self._counts.get(disposition, 0) + n
        if (passed_s := time.monotonic() - self._since) >= _REPORT_S:
            total = sum(self._counts.values())
            print(
                f"feed: {total:,} records in {passed_s:.0f} s ({total / passed_s:,.0f}/s), version"
                f" {landed.version}: {json.dumps(self._counts)}",
                flush=True,
            )
            self._since, self._counts = time.monotonic(), {}


if __name__ == "__main__":
    run_or_exit(main)
