"""A real Prefect server: the one that is named, the one that is up, or one of our own.

Never an ephemeral one: it takes longer and fails under load. Everything that calls Prefect gets
`build_prefect_environment`: its home and database in TIDEMILL_HOME, results as JSON.
"""

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.core.errors import SettingsError
from tasks.edges.processes import (
    fetch_url,
    find_free_port,
    is_answering,
    is_free,
    start_process,
    stop_process,
    wait_healthy,
)
from tasks.edges.settings import ROOT, read_settings

POOL = "tidemill"
# What a server that only records one run need not do. It is less work, and it is needed: these
# services write into the same SQLite file, and sometimes one of them made an artifact of the run
# wait for 60 s, SQLite's time limit in Prefect.
ONLY_RECORDING = {
    f"PREFECT_SERVER_SERVICES_{name}_ENABLED": "false"
    for name in ("SCHEDULER", "LATE_RUNS", "FOREMAN", "CANCELLATION_CLEANUP", "PAUSE_EXPIRATIONS", "TRIGGERS")
}
ReportLine = Callable[[str], None]


def build_prefect_environment(api_url: str) -> dict[str, str]:
    """Environment of Prefect's server, workers, flow runs and command line."""
    return {
        "PREFECT_API_URL": api_url,
        "PREFECT_HOME": str(read_settings().home.absolute() / "prefect"),
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
        "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",  # pickle otherwise
        "PREFECT_WORKER_QUERY_SECONDS": "2",  # 10 by default; a person who presses Run waits for it
        "PREFECT_CLI_PROMPT": "false",
        # In files: in memory, the default, a restarted server ends every run that holds a slot
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        # Flow runs start in folders of their own, and import this checkout's packages
        "PYTHONPATH": str(ROOT),
    }


def build_server_command(port: int) -> list[str]:
    """The command that serves Prefect's API and UI on *port*."""
    return ["prefect", "server", "start", "--host", read_settings().host, "--port", str(port)]


def build_api_url(port: int) -> str:
    """Address of Prefect's API on one of our ports."""
    return f"http://{read_settings().host}:{port}/api"


def build_ui_url(api_url: str) -> str:
    """Where people look."""
    return api_url.removesuffix("/api")


def is_prefect(api_url: str) -> bool:
    """Whether a Prefect server of our version's API answers there."""
    version = fetch_url(f"{api_url}/admin/version")
    try:
        return version is not None and str(json.loads(version)).startswith("3.")
    except ValueError:
        return False


def find_running_server() -> str | None:
    """Address of the API that PREFECT_API_URL names, or of the server that is up on our port.

    None when there is none.
    Raises SettingsError when the named one does not answer.
    """
    named = read_settings().prefect_api_url
    if named and not is_answering(f"{named}/health"):
        raise SettingsError(
            f"PREFECT_API_URL is {named}, and nothing answers there. Start that server or unset the variable;"
            " `dvc repro` does the same without Prefect."
        )
    ours = build_api_url(read_settings().prefect_port)
    return named or (ours if is_prefect(ours) else None)


@contextmanager
def run_prefect_server(
    report_line: ReportLine, meanwhile: Callable[[str], None] = lambda _: None
) -> Iterator[str]:
    """Address of a Prefect API.

    Starts a server when none is up, and stops exactly that one at the end.
    meanwhile: gets the address before a server answers there, so that others can start in the
    meantime. Raises SettingsError that says why Prefect cannot start.
    """
    if (found := find_running_server()) is not None:
        report_line(f"Prefect server: {build_ui_url(found)} (was up)")
        meanwhile(found)
        yield found
        return
    settled = read_settings()
    port = (
        settled.prefect_port if is_free(settled.host, settled.prefect_port) else find_free_port(settled.host)
    )
    url, log = build_api_url(port), get_log_path("prefect-server")
    with log.open("w") as output:
        child, marked = start_process(
            "Prefect's server",
            build_server_command(port),
            output,
            build_prefect_environment(url) | ONLY_RECORDING,
        )
    try:
        meanwhile(url)
        _wait_for_server(child, url, log)
        report_line(f"Prefect server: {build_ui_url(url)} (stopped at the end; `tidemill up` shows the run)")
        yield url
    finally:
        stop_process(marked)
        child.wait()


def get_log_path(name: str) -> Path:
    """The file in TIDEMILL_HOME where a program that we start writes."""
    path = read_settings().home / "logs" / f"{name}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _wait_for_server(child: "subprocess.Popen[str]", url: str, log: Path) -> None:
    try:
        wait_healthy(child, "Prefect's server", lambda: is_answering(f"{url}/health"), log)
    except SettingsError as error:
        raise SettingsError(f"{error}\n`dvc repro` does the same work without Prefect.") from error
