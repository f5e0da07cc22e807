"""`python -m tasks.refresh.run_loop`: refresh whenever the source changes, until stopped.

`tidemill up` starts it.
"""

import signal
import threading
import time
from pathlib import Path

from tasks.core.errors import TidemillError
from tasks.edges.command import run_or_exit
from tasks.edges.params import read_document
from tasks.edges.refreshed import Stamp
from tasks.edges.registry import get_rows_path
from tasks.edges.settings import ROOT
from tasks.ingest.params import IngestParams
from tasks.refresh.source import build_stamp, read_stamp
from tasks.refresh.stage import refresh_rows

_POLL_S = 0.25
_RETRY_S = 30.0  # after a fault, unless something changes before


def main(root: Path = ROOT) -> None:
    """Refresh until SIGTERM or SIGINT; a fault is printed once, and what is published stays."""
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    seen: Stamp | None = None
    fault, tried_at = "", 0.0
    while not stopping.wait(_POLL_S):
        try:
            if (now := _read_all_stamps(root)) == seen and not (fault and _is_over(tried_at)):
                continue
            seen, tried_at = now, time.monotonic()
            refresh = refresh_rows(root, report=lambda _: None)
            # What it wrote itself is no news
            seen |= build_stamp([get_rows_path(refresh.dataset)])
            fault = ""
        except (TidemillError, OSError) as error:
            if str(error) != fault:
                fault = str(error)
                print(f"refresh: {type(error).__name__}: {fault}", flush=True)
            continue
        took_s = time.monotonic() - tried_at
        if refresh.is_changed:
            print(
                f"refresh: {refresh.n_new:+,} rows, {refresh.n_rows:,} now, in {took_s:.2f} s, as of"
                f" {refresh.as_of:%F %T} UTC",
                flush=True,
            )
        stopping.wait(took_s)  # at most half of a core's time goes into it


def _read_all_stamps(root: Path) -> Stamp:
    """Of params.yaml, of the current dataset's source, and of its published rows."""
    document = read_document(root)
    source = document.parse_stage("ingest", IngestParams).source
    of_checkout = build_stamp([root / "params.yaml", get_rows_path(document.dataset)])
    return of_checkout | read_stamp(source, document.dataset, root)


def _is_over(tried_at: float) -> bool:
    return time.monotonic() - tried_at > _RETRY_S


if __name__ == "__main__":
    run_or_exit(main)
