"""`tidemill up` and `tidemill down`: start the supervisor and wait for its parts; stop them."""

import subprocess
import sys
import time
from typing import NamedTuple

from deployments.ops.forecaster_process import describe_served_dataset, find_served_dataset
from deployments.ops.prefect_server import ReportLine, get_log_path
from deployments.ops.supervisor import KAFKA, list_parts, list_ports
from deployments.ops.supervisor_state import SupervisorState, get_state_path, read_state
from tasks.alerts.send import list_addresses
from tasks.core.errors import SettingsError
from tasks.edges.params import read_dataset
from tasks.edges.processes import (
    START_S,
    find_port_holder,
    is_alive,
    is_free,
    is_running,
    read_last_lines,
    stop_process,
    wait_for,
)
from tasks.edges.settings import ROOT, build_child_environment, check_home_is_writable, read_settings

STOP_S = 20.0  # the supervisor gives each part 5 s before it uses force


class StartedParts(NamedTuple):
    """What runs. addresses: by part. log: the supervisor's file. supervisor: its process id."""

    addresses: dict[str, str]
    log: str
    supervisor: int


def start_parts(report_line: ReportLine, kafka: bool = False) -> StartedParts:
    """Start everything that is not up (*kafka*: a broker too), wait until it answers.

    report: gets a line of progress.
    kafka: start a broker, too.
    Raises SettingsError that names the part that failed, or an address of TIDEMILL_ALERTS.
    """
    state = read_state()
    if state is not None and is_running(state.supervisor):
        report_line(f"Already up; {describe_served_dataset(find_served_dataset(), read_dataset())}.")
        if (advice := describe_feed_dataset(state, read_dataset())) is not None:
            report_line(f"{advice}.")
        return _describe_state(state)
    check_home_is_writable()
    list_addresses()
    _check_ports_are_free(kafka)
    log = get_log_path("up")
    report_line(f"Starting; the log is {log}")
    with log.open("a") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", "deployments.ops.supervisor", *([KAFKA] if kafka else [])],
            cwd=ROOT,
            env=build_child_environment(TIDEMILL_HOME=str(read_settings().home.absolute())),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # it goes on when this terminal closes
        )
    try:
        _wait_for_parts(child, report_line, kafka)
    except BaseException:
        stop_parts(lambda _: None)
        child.wait()
        raise
    state = read_state()
    assert state is not None, "it answers, so it has written its state"
    return _describe_state(state)


def stop_parts(report_line: ReportLine) -> list[str]:
    """Stop what `up` started, and nothing else. Returns the names."""
    state = read_state()
    if state is None:
        report_line("Nothing is up.")
        return []
    names = [part.name for part in (*state.parts, state.supervisor) if is_alive(part)]
    stop_process(state.supervisor, STOP_S)
    for part in state.parts:  # after a kill -9 of the supervisor
        stop_process(part)
    get_state_path().unlink(missing_ok=True)
    report_line(f"Stopped: {', '.join(names) or 'nothing was running any more'}.")
    return names


def describe_feed_dataset(state: SupervisorState, current: str) -> str | None:
    """Which dataset the feed lands and how to change to *current*; None when it is that one."""
    if state.feed_dataset in {None, current}:
        return None
    return (
        f"the feed lands {state.feed_dataset!r}, and the current dataset is {current!r}; `tidemill down` and"
        " `tidemill up` start that of the current one, if it has a section `feed`"
    )


def _wait_for_parts(child: "subprocess.Popen[bytes]", report_line: ReportLine, kafka: bool) -> None:
    deadline = time.monotonic() + START_S
    for part in list_parts(kafka):
        if not wait_for(
            lambda part=part: child.poll() is not None or part.ready(),  # type: ignore[misc]
            max(deadline - time.monotonic(), 1.0),
        ):
            raise SettingsError(
                f"{part.name} did not get ready within {START_S:.0f} s."
                f" {read_last_lines(get_log_path('up'), containing=f' {part.name} | ')}"
            )
        if child.poll() is not None:
            raise SettingsError(
                f"The supervisor ended with code {child.returncode}. {read_last_lines(get_log_path('up'))}"
            )
        report_line(f"  {part.name:<8} {part.address}")
    if not wait_for(_is_deployed, max(deadline - time.monotonic(), 1.0)):
        raise SettingsError(
            "The deployments could not be made."
            f" {read_last_lines(get_log_path('up'), containing=' deploy | ')}"
        )


def _is_deployed() -> bool:
    state = read_state()
    return state is not None and state.deployed


def _check_ports_are_free(kafka: bool) -> None:
    taken = {
        name: port for name, port in list_ports(kafka).items() if not is_free(read_settings().host, port)
    }
    if taken:
        holders = "; ".join(
            f"{name}'s port {port} is held by {find_port_holder(port)}" for name, port in taken.items()
        )
        variables = ", ".join(f"TIDEMILL_{name.upper()}_PORT" for name in taken)
        raise SettingsError(
            f"{holders}. End that program or `tidemill run`, or choose other ports with {variables}."
        )


def _describe_state(state: SupervisorState) -> StartedParts:
    return StartedParts(state.addresses, str(get_log_path("up")), state.supervisor.pid)
