"""`tidemill run`: the whole chain on a real Prefect server, then a forecast from the built Bento over HTTP, then the page."""

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from deployments.ops.forecaster_process import ask, serving
from deployments.ops.prefect_server import prefect_environment, prefect_server
from tasks.core.errors import StageError
from tasks.edges.artifacts import read_json
from tasks.edges.params import read_dataset
from tasks.edges.processes import start, stop
from tasks.edges.settings import ROOT, settings

FLOWS = ("training", "promotion", "monitoring", "retraining")
Say = Callable[[str], None]


def run(dataset: str | None, say: Say) -> dict[str, Any]:
    """Run the chain on *dataset* (None: the current one). Returns decision, forecast, page and seconds; raises what a person can mend."""
    started = time.monotonic()
    with _alone(say):
        if dataset is not None:
            from tasks.ingest.wizard.use import use  # noqa: PLC0415  (only when asked to change it)

            use(dataset)
        say(f"Dataset: {read_dataset()}")
        forecast = _turn(say)
        return {
            "dataset": read_dataset(),
            "decision": read_json(ROOT / "data/decisions/promote/decision.json"),
            "forecast": forecast,
            "page": _page(),
            "seconds": round(time.monotonic() - started, 1),
        }


def _turn(say: Say) -> dict[str, Any]:
    """All flows on a Prefect server, and what the built Bento answers; it starts when promotion is over, beside the flows that follow."""
    with ExitStack() as stack:
        begun: list[subprocess.Popen[str]] = []
        stack.enter_context(prefect_server(say, meanwhile=lambda url: begun.append(stack.enter_context(_flows(url)))))
        if not _until(begun[0], "promotion"):
            _refuse(begun[0].wait())
        with serving(ROOT / "models/release/bento") as address:
            _until(begun[0], FLOWS[-1])
            _refuse(begun[0].wait())
            say(f"Service: the Bento answers at {address}")
            return ask(address)


@contextmanager
def _flows(url: str) -> Iterator["subprocess.Popen[str]"]:
    """A process that runs all flows, one after the other, and says on stdout which has ended. It does not outlive the block."""
    quiet = {"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL"}  # its log is in the UI; the terminal has a line per stage
    command = [sys.executable, "-m", "deployments.ops.flow_process", *FLOWS]
    child, marked = start("The flows", command, subprocess.PIPE, prefect_environment(url) | quiet, errors=2)
    try:
        yield child
    finally:
        stop(marked)
        child.wait()


def _until(child: "subprocess.Popen[str]", flow: str) -> bool:
    """Wait until *flow* has ended well; False when the process ends before."""
    assert child.stdout is not None
    return any(line.strip() == flow for line in child.stdout)


def _refuse(code: int) -> None:
    if code:
        raise StageError(f"The flows ended with code {code}; the reason stands above. After mending it, `tidemill run` goes on where it stopped.")


@contextmanager
def _alone(say: Say) -> Iterator[None]:
    """One `tidemill run` at a time in a home: the second would use a Prefect server that the first one stops."""
    path = settings().home / "run.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            say(f"Waiting for the run of process {handle.read()} in {settings().home}.")
            fcntl.flock(handle, fcntl.LOCK_EX)
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        yield


def _page() -> str:
    from deployments.console.pages.run import write_page  # noqa: PLC0415  (matplotlib)

    return str(write_page())
