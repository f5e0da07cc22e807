"""The forecaster as a process (the built Bento under `bentoml serve`), and requests to it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from deployments.forecaster.shapes import Models, Prediction
from deployments.ops.prefect_server import get_log_path
from tasks.core.errors import SettingsError
from tasks.edges.api_keys import read_own_key
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
MAX_SERIES = 1_000  # that the service takes in one request


def build_serve_command(target: str, port: int) -> list[str]:
    """The command that serves *target* on *port*.

    target: a Bento's folder, or the service in this checkout.
    """
    return ["bentoml", "serve", target, "--host", read_settings().host, "--port", str(port)]


def build_service_environment(*, follows: bool = False) -> dict[str, str]:
    """The service's environment: the folders of champion, rows and BentoML.

    Requests are not logged; metrics count them.
    follows: serve this checkout's current dataset, also when another one becomes current.
    """
    home = read_settings().home.absolute()
    quiet = "services.logging.access.enabled=false"
    checkout = {"TIDEMILL_CHECKOUT": str(ROOT)} if follows else {}
    return {
        "TIDEMILL_HOME": str(home),
        "BENTOML_HOME": str(home / "bentoml"),
        "BENTOML_CONFIG_OPTIONS": quiet,
        **checkout,
    }


def build_key_headers() -> dict[str, str]:
    """What our own requests to the service are sent with."""
    return {"X-API-Key": read_own_key()} if read_settings().auth == "on" else {}


def find_served_dataset() -> str | None:
    """The dataset of the service on our port; None when none answers or is ready.

    A request makes the service change to the current dataset, so requests are repeated for SWITCH_S
    where there is a champion to change to.
    """
    current = read_dataset()
    served = fetch_served_dataset(current)
    is_fixed = read_settings().release is not None or read_settings().served_datasets
    if served in {None, current} or is_fixed or read_champion(current) is None:
        return served
    wait_for(lambda: fetch_served_dataset(current) == current, SWITCH_S)
    return fetch_served_dataset(current)


def describe_served_dataset(served: str | None, current: str) -> str:
    """Describe which dataset the service serves, and how to change to *current*."""
    ready = f"http://{read_settings().host}:{read_settings().service_port}/api/v1/health/ready"
    if served is None:
        return (
            f"the service is not ready, {ready} has the reason; without a champion of {current!r}"
            " `tidemill run` makes one"
        )
    if served == current:
        return f"the service serves {served!r}"
    if read_settings().release is not None or read_settings().served_datasets:
        name = "TIDEMILL_DATASETS" if read_settings().release is None else "TIDEMILL_RELEASE"
        advice = f"{name} says so: correct or unset it, then `tidemill down` and `tidemill up`"
    elif read_champion(current) is not None:
        advice = (
            f"{ready} has the reason why it does not change to the champion of {current!r};"
            " `tidemill down` and `tidemill up` start that one"
        )
    else:
        advice = (
            f"`tidemill run` makes a champion of {current!r}, and the service changes to it automatically;"
            f" `tidemill use {served}` goes back"
        )
    return f"the service serves {served!r}, and the current dataset is {current!r}; {advice}"


def fetch_of_dataset(path: str, dataset: str) -> bytes | None:
    """What our service answers at *path*, of *dataset* where it has several; None: no answer."""
    address = f"http://{read_settings().host}:{read_settings().service_port}{path}"
    headers = build_key_headers()
    answer = fetch_url(address, headers=headers)
    return answer or fetch_url(f"{address}?dataset={quote(dataset)}", headers=headers)


def fetch_served_dataset(wanted: str) -> str | None:
    """The dataset that our service has, *wanted* where it has several; None: none, or no answer."""
    body = fetch_of_dataset("/api/v1/models", wanted)
    try:
        return str(json.loads(body)["champion"]["dataset"]) if body else None
    except (ValueError, KeyError, TypeError):
        return None  # another program has the port


def find_champion_target(root: Path = ROOT) -> str:
    """What to serve: the champion's own Bento, which no later run changes.

    This checkout's code when the champion has no Bento.
    """
    champion = read_champion(read_dataset(root))
    bento = get_champion_folder(champion).absolute() / "bento" if champion else None
    return str(bento) if bento and bento.is_dir() else FROM_CHECKOUT


@contextmanager
def run_service(bento: Path) -> Iterator[str]:
    """Address of a service that runs *bento* until the block ends.

    Raises SettingsError with its last lines when it does not get ready.
    """
    host, service_port = read_settings().host, read_settings().service_port
    port = service_port if is_free(host, service_port) else find_free_port(host)
    address, log = f"http://{host}:{port}", get_log_path("service")
    environment = build_service_environment() | {"TIDEMILL_DATASETS": ""}  # of the current dataset alone
    with log.open("w") as output:
        child, identity = start_process(
            "The service", build_serve_command(str(bento), port), output, environment
        )
    try:
        wait_healthy(child, "The service", lambda: is_answering(f"{address}/readyz"), log)
        yield address
    finally:
        stop_process(identity)
        child.wait()


def fetch_forecast(address: str) -> Prediction:
    """The service's forecast of its series, at most MAX_SERIES of them.

    Raises SettingsError with the service's answer when it has no forecast.
    """
    with httpx.Client(base_url=address, timeout=60, trust_env=False, headers=build_key_headers()) as client:
        models: Models = _parse_content(client.get("/api/v1/models"))
        series = models["champion"]["series"][:MAX_SERIES]
        prediction: Prediction = _parse_content(client.post("/api/v1/predict", json={"series_id": series}))
        return prediction


def _parse_content(response: httpx.Response) -> Any:
    if not response.is_success:
        raise SettingsError(
            f"{response.url} answered {response.status_code}: {response.text[:500]}. The log of the"
            f" service is {get_log_path('service')}."
        )
    return json.loads(response.content)
