"""The forecaster as a process: the built Bento under `bentoml serve`, and what it answers over HTTP."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from flows.server import log_path
from tasks.core.errors import SettingsError
from tasks.edges.params import read_dataset
from tasks.edges.processes import answers, free_port, is_free, start, stop, wait_healthy
from tasks.edges.registry import champion_folder, read_champion
from tasks.edges.settings import ROOT, settings

FROM_CHECKOUT = "deployments.forecaster.service:Forecaster"
MAX_ASKED = 1_000  # what the service takes in one request


def serve_command(target: str, port: int) -> list[str]:
    """The command that serves *target* (a Bento's folder, or the service in this checkout) on *port*."""
    return ["bentoml", "serve", target, "--host", settings().host, "--port", str(port)]


def service_environment() -> dict[str, str]:
    """Where the service finds champion and rows, where BentoML keeps its own files, and no log line per request: the metrics count them."""
    home = settings().home.absolute()
    quiet = "api_server.logging.access.enabled=false"
    return {"TIDEMILL_HOME": str(home), "BENTOML_HOME": str(home / "bentoml"), "BENTOML_CONFIG_OPTIONS": quiet}


def champions_target(root: Path = ROOT) -> str:
    """What to serve for long: the champion's own Bento, which no later run touches; this checkout's code when the champion has none."""
    champion = read_champion(read_dataset(root))
    bento = champion_folder(champion).absolute() / "bento" if champion else None
    return str(bento) if bento and bento.is_dir() else FROM_CHECKOUT


@contextmanager
def serving(bento: Path) -> Iterator[str]:
    """Address of a service that runs *bento* until the block ends. Raises SettingsError with its last lines when it does not get ready."""
    settled = settings()
    port = settled.service_port if is_free(settled.host, settled.service_port) else free_port(settled.host)
    address, log = f"http://{settled.host}:{port}", log_path("service")
    with log.open("w") as output:
        child, marked = start("The service", serve_command(str(bento), port), output, service_environment())
    try:
        wait_healthy(child, "The service", lambda: answers(f"{address}/api/v1/health/ready"), log)
        yield address
    finally:
        stop(marked)
        child.wait()


def ask(address: str) -> dict[str, Any]:
    """POST for a forecast of the service's series, at most MAX_ASKED of them; its answer. Raises SettingsError with what it said instead."""
    with httpx.Client(base_url=address, timeout=60, trust_env=False) as client:
        series = _content(client.get("/api/v1/models"))["champion"]["series"]
        return _content(client.post("/api/v1/predict", json={"series_id": series[:MAX_ASKED]}))


def _content(answer: httpx.Response) -> dict[str, Any]:
    if not answer.is_success:
        raise SettingsError(f"{answer.url} answered {answer.status_code}: {answer.text[:500]}. The log of the service is {log_path('service')}.")
    content: dict[str, Any] = json.loads(answer.content)
    return content
