"""`tidemill run`: the whole chain on a real Prefect server, then a forecast from the built Bento
over HTTP, then the page.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from deployments.forecaster.shapes import Prediction
from deployments.ops.forecaster_process import fetch_forecast, run_service
from deployments.ops.prefect_server import build_prefect_environment, run_prefect_server
from tasks.core.errors import StageError
from tasks.core.reports.promote import GateDecision
from tasks.edges.artifacts import read_report
from tasks.edges.files import hold_lock
from tasks.edges.params import read_dataset
from tasks.edges.processes import allow_interrupts, start_process, stop_process
from tasks.edges.settings import ROOT, read_settings

FLOWS = ("training", "promotion", "monitoring", "retraining")
INTERRUPT_S = 3.5  # for the flows to end and to report it after Ctrl-C: all is over within 5 s
Say = Callable[[str], None]


class ChainRun(NamedTuple):
    """What came of a run. page: its file. seconds: of the wall clock."""

    dataset: str
    decision: GateDecision
    forecast: Prediction
    page: str
    seconds: float


def run_chain(dataset: str | None, say: Say) -> ChainRun:
    """Run the chain on *dataset* (None: the current one).

    Raises what a person can fix.
    """
    started = time.monotonic()
    allow_interrupts()
    with _open_run_lock(say):
        if dataset is not None:
            from tasks.ingest.wizard.use import apply_dataset

            apply_dataset(dataset)
        say(f"Dataset: {read_dataset()}")
        forecast = _run_flows_and_service(say)
        decision = read_report(ROOT / GateDecision.PATH, GateDecision)
        from deployments.console.report import write_pages  # matplotlib: the servers need not wait for it

        page = str(write_pages(ROOT)[0])
        return ChainRun(read_dataset(), decision, forecast, page, round(time.monotonic() - started, 1))


def _run_flows_and_service(say: Say) -> Prediction:
    """All flows on a Prefect server, and what the built Bento answers; it starts when promotion
    is over, beside the flows that follow.
    """
    with ExitStack() as stack:
        flows = stack.enter_context(ExitStack())
        started: list[subprocess.Popen[str]] = []
        stack.enter_context(
            run_prefect_server(
                say, meanwhile=lambda url: started.append(flows.enter_context(_start_flows(url)))
            )
        )
        stack.callback(flows.close)  # before their server, so that they report there how they ended
        (child,) = started
        if not _wait_for_flow(child, "promotion"):
            _check_exit_code(child.wait())
        with run_service(ROOT / "models/release/bento") as address:
            _wait_for_flow(child, FLOWS[-1])
            _check_exit_code(child.wait())
            say(f"Service: the Bento answers at {address}")
            return fetch_forecast(address)


@contextmanager
def _start_flows(url: str) -> Iterator["subprocess.Popen[str]"]:
    """A process that runs all flows, one after the other, and says on stdout which has ended.

    It does not outlive the block.
    """
    # Its log is in the UI; the terminal has a line per stage
    quiet = {"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL"}
    command = [sys.executable, "-m", "deployments.ops.flow_process", *FLOWS]
    child, marked = start_process(
        "The flows", command, subprocess.PIPE, build_prefect_environment(url) | quiet, errors=2
    )
    try:
        yield child
    finally:
        stop_process(marked, INTERRUPT_S)
        child.wait()


def _wait_for_flow(child: "subprocess.Popen[str]", flow: str) -> bool:
    """Wait until *flow* has ended well; False when the process ends before."""
    assert child.stdout is not None
    return any(line.strip() == flow for line in child.stdout)


def _check_exit_code(code: int) -> None:
    if code:
        raise StageError(
            f"The flows ended with code {code}; the reason is above. After fixing it, `tidemill run`"
            " goes on where it stopped."
        )


@contextmanager
def _open_run_lock(say: Say) -> Iterator[None]:
    """One `tidemill run` at a time in a home: the second would use a Prefect server that the
    first one stops.
    """
    home = read_settings().home
    with hold_lock(
        home / "run.lock", lambda holder: say(f"Waiting for the run of process {holder} in {home}.")
    ):
        yield
