"""The forecaster as a process: the built Bento under `bentoml serve`, and what it answers over
HTTP.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from deployments.forecaster.shapes import Models, Prediction
from deployments.ops.prefect_server import get_log_path
from tasks.core.errors import SettingsError
from tasks.edges.params import read_dataset
from tasks.edges.processes import (
    fetch_url,
    find_free_port,
    is_answering,
    is_free,
    start_process,
    stop_process,
    wait_for,
    wait_healthy,
)
from tasks.edges.registry import get_champion_folder, read_champion
from tasks.edges.settings import ROOT, read_settings

FROM_CHECKOUT = "deployments.forecaster.service:ForecasterService"
SWITCH_S = 10.0  # a small release takes over within one; one with many series takes longer to load
MAX_ASKED = 1_000  # what the service takes in one request


def build_serve_command(target: str, port: int) -> list[str]:
    """The command that serves *target* (a Bento's folder, or the service in this checkout) on
    *port*.
    """
    return ["bentoml", "serve", target, "--host", read_settings().host, "--port", str(port)]


def build_service_environment(*, follows: bool = False) -> dict[str, str]:
    """Where the service finds champion and rows, where BentoML keeps its files; no log line per
    request: metrics count them.

    follows: it serves this checkout's current dataset, also when another one becomes current.
    """
    home = read_settings().home.absolute()
    quiet = "api_server.logging.access.enabled=false"
    checkout = {"TIDEMILL_CHECKOUT": str(ROOT)} if follows else {}
    return {
        "TIDEMILL_HOME": str(home),
        "BENTOML_HOME": str(home / "bentoml"),
        "BENTOML_CONFIG_OPTIONS": quiet,
        **checkout,
    }


def find_served_dataset() -> str | None:
    """The dataset that the service on our port answers for; None when none answers, or it is not
    ready.

    It changes to the current one when it is asked, so it is asked again for SWITCH_S where there is
    one to change to.
    """
    served, current = _fetch_dataset(), read_dataset()
    if served in {None, current} or read_settings().release is not None or read_champion(current) is None:
        return served
    wait_for(lambda: _fetch_dataset() == current, SWITCH_S)
    return _fetch_dataset()


def describe_served_dataset(served: str | None, current: str) -> str:
    """Which dataset the service answers for, and how it changes to *current* where that is
    another one.
    """
    ready = f"http://{read_settings().host}:{read_settings().service_port}/api/v1/health/ready"
    if served is None:
        return (
            f"the service is not ready, {ready} says why; without a champion of {current!r} `tidemill run`"
            " makes one"
        )
    if served == current:
        return f"the service serves {served!r}"
    if read_settings().release is not None:
        way = (
            f"TIDEMILL_RELEASE names a release of {served!r}: unset it, then `tidemill down` and"
            " `tidemill up`"
        )
    elif read_champion(current) is not None:
        way = (
            f"{ready} says why it does not change to the champion of {current!r}; `tidemill down` and"
            " `tidemill up` start that one"
        )
    else:
        way = (
            f"`tidemill run` makes a champion of {current!r}, and the service changes to it by itself;"
            f" `tidemill use {served}` goes back"
        )
    return f"the service serves {served!r}, and the current dataset is {current!r}; {way}"


def _fetch_dataset() -> str | None:
    said = fetch_url(f"http://{read_settings().host}:{read_settings().service_port}/api/v1/models")
    try:
        return str(json.loads(said)["champion"]["dataset"]) if said else None
    except (ValueError, KeyError, TypeError):
        return None  # another program has the port


def find_champion_target(root: Path = ROOT) -> str:
    """What to serve for long: the champion's own Bento, which no later run touches; this
    checkout's code when the champion has none.
    """
    champion = read_champion(read_dataset(root))
    bento = get_champion_folder(champion).absolute() / "bento" if champion else None
    return str(bento) if bento and bento.is_dir() else FROM_CHECKOUT


@contextmanager
def run_service(bento: Path) -> Iterator[str]:
    """Address of a service that runs *bento* until the block ends.

    Raises SettingsError with its last lines when it does not get ready.
    """
    settled = read_settings()
    port = (
        settled.service_port if is_free(settled.host, settled.service_port) else find_free_port(settled.host)
    )
    address, log = f"http://{settled.host}:{port}", get_log_path("service")
    with log.open("w") as output:
        child, marked = start_process(
            "The service", build_serve_command(str(bento), port), output, build_service_environment()
        )
    try:
        wait_healthy(child, "The service", lambda: is_answering(f"{address}/api/v1/health/ready"), log)
        yield address
    finally:
        stop_process(marked)
        child.wait()


def fetch_forecast(address: str) -> Prediction:
    """POST for a forecast of the service's series, at most MAX_ASKED of them; its answer.

    Raises SettingsError with what it said instead.
    """
    with httpx.Client(base_url=address, timeout=60, trust_env=False) as client:
        models: Models = _parse_content(client.get("/api/v1/models"))
        series = models["champion"]["series"][:MAX_ASKED]
        prediction: Prediction = _parse_content(client.post("/api/v1/predict", json={"series_id": series}))
        return prediction


def _parse_content(answer: httpx.Response) -> Any:
    if not answer.is_success:
        raise SettingsError(
            f"{answer.url} answered {answer.status_code}: {answer.text[:500]}. The log of the service is"
            f" {get_log_path('service')}."
        )
    return json.loads(answer.content)
