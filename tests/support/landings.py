"""Landings as processes of their own, for tests that do something to them.

What one prints is appended to landing.log next to its table.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

from ledger import check

from tasks.edges import parent_watch

PROGRAM = Path(__file__).with_name("landing_process.py")


def land(
    address: str, topic: str, folder: Path, *more: object, under: tuple[str, ...] = (), environment=None
) -> subprocess.Popen:
    """Start a landing that ends with this process.

    more: arguments of landing_process.py. under: a program that starts it.
    """
    ends_with_us = (sys.executable, parent_watch.__file__, "--parent", str(os.getpid()))
    with (folder.parent / "landing.log").open("a") as log:
        return subprocess.Popen(
            [
                *ends_with_us,
                *under,
                sys.executable,
                str(PROGRAM),
                address,
                topic,
                str(folder),
                *map(str, more),
            ],
            stderr=log,
            env=environment,
        )


def ended(process: subprocess.Popen, within_s: float = 60, code: int = 0) -> None:
    """Wait for its end, which must be the one with *code*."""
    assert process.wait(within_s) == code


def stopped(*processes: subprocess.Popen) -> None:
    """Ask them to end, and wait."""
    for process in processes:
        process.terminate()
    for process in processes:
        ended(process)


def landed_within(seconds: float, folder: Path, ledger: Path) -> float:
    """Seconds until ledger and table agree; raises the last difference when it is too late."""
    began = time.monotonic()
    while True:
        try:
            check(folder, ledger)
        except (AssertionError, OSError):
            if time.monotonic() - began > seconds:
                raise
            time.sleep(0.2)
        else:
            return time.monotonic() - began


def read_log(folder: Path) -> str:
    """What the landings of this table printed."""
    return (folder.parent / "landing.log").read_text()


def until(condition, seconds: float = 30) -> None:
    """Wait until it holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.02)


def print_check(fault: str, table: Path, ledger: Path, more: str = "") -> None:
    """Compare table and ledger once more and print the figures."""
    n_refused = read_log(table).count("refused:")
    print(f"\n{fault}: {check(table, ledger)}; {n_refused} commits refused. {more}", flush=True)
