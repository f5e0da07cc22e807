"""`tidemill run`: the whole chain on a Prefect server, a forecast over HTTP, and the page.

The forecast comes from the built Bento.
"""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from deployments.forecaster.shapes import Prediction
from deployments.ops.forecaster_process import fetch_forecast, run_service
from deployments.ops.prefect_server import ReportLine, build_prefect_environment, run_prefect_server
from tasks.core.errors import StageError
from tasks.core.reports.promote import GateDecision
from tasks.edges.artifacts import read_report
from tasks.edges.files import hold_lock
from tasks.edges.params import read_dataset
from tasks.edges.processes import allow_interrupts, start_process, stop_process
from tasks.edges.settings import ROOT, check_home_is_writable, read_settings

FLOWS = ("training", "promotion", "monitoring", "retraining")
INTERRUPT_S = 3.5  # for the flows to end and to report it after Ctrl-C: all is over within 5 s


# Of Prefect's log on the terminal, by our own level
_CONSOLE_LEVELS = {"debug": "DEBUG", "info": "CRITICAL", "warning": "WARNING", "error": "ERROR"}


class ChainRun(NamedTuple):
    """Result of a run. page: its file. seconds: wall-clock time."""

    dataset: str
    decision: GateDecision
    forecast: Prediction
    page: str
    seconds: float


def run_chain(dataset: str | None, report_line: ReportLine) -> ChainRun:
    """Run the chain on *dataset* (None: the current one).

    report: gets a line of progress.
    Raises TidemillError for what people can fix.
    """
    started = time.monotonic()
    allow_interrupts()
    check_home_is_writable()
    with _open_run_lock(report_line):
        if dataset is not None:
            from tasks.ingest.wizard.use import apply_dataset

            apply_dataset(dataset)
        _check_dataset()
        report_line(f"Dataset: {read_dataset()}")
        forecast = _run_flows_and_service(report_line)
        decision = read_report(ROOT / GateDecision.PATH, GateDecision)
        from deployments.console.report import (
            write_pages,
        )  # matplotlib: imported after the servers have ended

        page = str(write_pages(ROOT)[0])
        return ChainRun(read_dataset(), decision, forecast, page, round(time.monotonic() - started, 1))


def _check_dataset() -> None:
    """Raise ParamsError for what would stop a stage minutes later."""
    # The parameters of every stage: not before Ctrl-C works
    from deployments.ops.check_datasets import check_current_dataset

    check_current_dataset()


def _run_flows_and_service(report_line: ReportLine) -> Prediction:
    """Run all flows on a Prefect server, and return what the built Bento answers.

    The Bento starts when promotion is over, while the flows that follow run.
    """
    with ExitStack() as stack:
        flows = stack.enter_context(ExitStack())
        started: list[subprocess.Popen[str]] = []
        stack.enter_context(
            run_prefect_server(
                report_line, meanwhile=lambda url: started.append(flows.enter_context(_start_flows(url)))
            )
        )
        stack.callback(flows.close)  # before their server, so that they can report their end there
        (child,) = started
        if not _wait_for_flow(child, "promotion"):
            _check_exit_code(child.wait())
        with run_service(ROOT / "models/release/bento") as address:
            _wait_for_flow(child, FLOWS[-1])
            _check_exit_code(child.wait())
            report_line(f"Service: the Bento answers at {address}")
            return fetch_forecast(address)


@contextmanager
def _start_flows(url: str) -> Iterator["subprocess.Popen[str]"]:
    """A process that runs all flows in order, and prints each that has ended.

    It ends with the block.
    """
    # Its log is in the UI; the terminal has a line per stage, and the log at the level `debug`
    quiet = {"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": _CONSOLE_LEVELS[read_settings().log_level]}
    command = [sys.executable, "-m", "deployments.ops.flow_process", *FLOWS]
    child, identity = start_process(
        "The flows", command, subprocess.PIPE, build_prefect_environment(url) | quiet, errors=2
    )
    try:
        yield child
    finally:
        stop_process(identity, INTERRUPT_S)
        child.wait()


def _wait_for_flow(child: "subprocess.Popen[str]", flow: str) -> bool:
    """Wait until *flow* has succeeded; False when the process ends before."""
    assert child.stdout is not None
    return any(line.strip() == flow for line in child.stdout)


def _check_exit_code(code: int) -> None:
    if code:
        raise StageError(
            f"The flows ended with code {code}; the reason is above. After fixing it, `tidemill run`"
            " goes on where it stopped."
        )


@contextmanager
def _open_run_lock(report_line: ReportLine) -> Iterator[None]:
    """Allow one `tidemill run` at a time in a home.

    A second one would use a Prefect server that the first one stops.
    """
    home = read_settings().home
    with hold_lock(
        home / "run.lock", lambda holder: report_line(f"Waiting for the run of process {holder} in {home}.")
    ):
        yield
