"""The feed for ever: `python -m tasks.feed.forever`, which `tidemill feed` and `tidemill up` start.

SIGTERM ends it after the commit under way.
"""

import json
import signal
import threading
import time

from tasks.edges.door import run_or_exit
from tasks.feed.land import LandedCommit
from tasks.feed.service import run_feed


def main() -> None:
    """Land records until asked to stop; a line on stdout for each ten seconds in which something
    landed.
    """
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    run_feed(stop=stopping.is_set, until_drained=False, say=_ProgressReporter().tell)


class _ProgressReporter:
    """Sums what landed, and says it every ten seconds."""

    def __init__(self) -> None:
        self._since, self._counts = time.monotonic(), dict[str, int]()

    def tell(self, landed: LandedCommit) -> None:
        for place, n in landed.counts.items():
            self._counts[place] = self._counts.get(place, 0) + n
        if (passed := time.monotonic() - self._since) >= 10.0:
            total = sum(self._counts.values())
            print(
                f"feed: {total:,} records in {passed:.0f} s ({total / passed:,.0f}/s), version"
                f" {landed.version}: {json.dumps(self._counts)}",
                flush=True,
            )
            self._since, self._counts = time.monotonic(), {}


if __name__ == "__main__":
    run_or_exit(main)
