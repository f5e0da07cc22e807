"""The forecaster as a process: the built Bento under `bentoml serve`, and what it answers over HTTP."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from deployments.ops.prefect_server import log_path
from tasks.core.errors import SettingsError
from tasks.edges.params import read_dataset
from tasks.edges.processes import answers, fetch, free_port, is_free, start, stop, wait_for, wait_healthy
from tasks.edges.registry import champion_folder, read_champion
from tasks.edges.settings import ROOT, settings

FROM_CHECKOUT = "deployments.forecaster.service:Forecaster"
SWITCH_S = 10.0  # a small release takes over within one; one with many series takes longer to load
MAX_ASKED = 1_000  # what the service takes in one request


def serve_command(target: str, port: int) -> list[str]:
    """The command that serves *target* (a Bento's folder, or the service in this checkout) on *port*."""
    return ["bentoml", "serve", target, "--host", settings().host, "--port", str(port)]


def service_environment(*, follows: bool = False) -> dict[str, str]:
    """Where the service finds champion and rows, where BentoML keeps its files; no log line per request: metrics count them.

    follows: it serves this checkout's current dataset, also when another one becomes current.
    """
    home = settings().home.absolute()
    quiet = "api_server.logging.access.enabled=false"
    checkout = {"TIDEMILL_CHECKOUT": str(ROOT)} if follows else {}
    return {"TIDEMILL_HOME": str(home), "BENTOML_HOME": str(home / "bentoml"), "BENTOML_CONFIG_OPTIONS": quiet, **checkout}


def served_dataset() -> str | None:
    """The dataset that the service on our port answers for; None when none answers, or it is not ready.

    It changes to the current one when it is asked, so it is asked again for SWITCH_S where there is one to change to.
    """
    served, current = _ask_dataset(), read_dataset()
    if served in {None, current} or settings().release is not None or read_champion(current) is None:
        return served
    wait_for(lambda: _ask_dataset() == current, SWITCH_S)
    return _ask_dataset()


def explain_served(served: str | None, current: str) -> str:
    """Which dataset the service answers for, and how it changes to *current* where that is another one."""
    ready = f"http://{settings().host}:{settings().service_port}/api/v1/health/ready"
    if served is None:
        return f"the service is not ready, {ready} says why; without a champion of {current!r} `tidemill run` makes one"
    if served == current:
        return f"the service serves {served!r}"
    if settings().release is not None:
        way = f"TIDEMILL_RELEASE names a release of {served!r}: unset it, then `tidemill down` and `tidemill up`"
    elif read_champion(current) is not None:
        way = f"{ready} says why it does not change to the champion of {current!r}; `tidemill down` and `tidemill up` start that one"
    else:
        way = f"`tidemill run` makes a champion of {current!r}, and the service changes to it by itself; `tidemill use {served}` goes back"
    return f"the service serves {served!r}, and the current dataset is {current!r}; {way}"


def _ask_dataset() -> str | None:
    said = fetch(f"http://{settings().host}:{settings().service_port}/api/v1/models")
    try:
        return str(json.loads(said)["champion"]["dataset"]) if said else None
    except (ValueError, KeyError, TypeError):
        return None  # another program has the port


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
