"""The service under real BentoML, and what it does not need."""

import socket
import subprocess
import sys
import time

import psutil
import pytest
from pydantic import TypeAdapter
from servers import at, serving, serving_bento
from small_release import build_small_release

from deployments.forecaster import connections, shapes
from tasks.edges.served import read_served
from tasks.edges.settings import ROOT, build_child_environment

NOT_IN_THE_BENTO = (
    "prefect",
    "dvc",
    "torch",
    "lightning",
    "mlflow",
    "pandas",
    "great_expectations",
    "evidently",
    "lightgbm",
    "shap",
    "scipy",
    "matplotlib",
)


@pytest.fixture(scope="module")
def bento(releases, tmp_path_factory):
    with serving_bento(tmp_path_factory.mktemp("bento"), TIDEMILL_RELEASE=str(releases / "first")) as running:
        yield running


def test_under_bentoml_the_answers_are_the_same_and_recorded(bento, server):
    client, home = bento.client, bento.home
    ask = {"series_id": ["north", "south"], "as_of": "2021-01-30T00:00:00Z"}
    reply = client.post("/api/v1/predict", json=ask)
    assert TypeAdapter(shapes.Prediction).validate_python(reply.json())["series"]
    assert reply.json()["series"] == server.client.post("/api/v1/predict", json=ask).json()["series"]
    with at(home):
        assert reply.json()["prediction_id"] in set(read_served(reply.json()["dataset"])["prediction_id"])


def test_under_bentoml_strictness_and_pages_are_ours(bento):
    client = bento.client
    assert client.post("/api/v1/predict", content=b'{"series_id": "north", "as_of": NaN}').status_code == 400
    assert client.post("/api/v1/predict", content=b" " * 2_000_000).status_code == 413
    assert "swagger-ui-bundle.js" in client.get("/docs").text
    assert client.get("/docs/assets/swagger-ui-bundle.js").status_code == 200
    assert "/api/v1/predict" in client.get("/openapi.json").json()["paths"]
    assert client.get("/readyz").status_code == 200


def test_bentomls_own_metrics_are_off_and_no_figure_is_kept_in_a_file(bento):
    """They had a label for each path, in memory-mapped files of home: 5,000 paths cost 220 MB."""
    bento.client.get("/some/path")
    assert bento.client.get("/metrics").status_code == 404
    assert list((bento.home / "bentoml" / "prometheus_multiproc_dir").iterdir()) == []


def list_processes(server):
    parent = psutil.Process(server.process.pid)
    return [parent, *parent.children(recursive=True)]


def test_it_listens_on_its_own_port_alone(bento):
    """BentoML's process manager opens two more, which anybody on the machine may command."""
    ports = {
        connection.laddr.port
        for process in list_processes(bento)
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert ports == {bento.client.base_url.port}


def test_all_but_the_probes_is_answered_before_bentomls_layers(bento):
    """They have pages of their own, write a line for each request and keep a timer for it."""
    assert bento.predict(series_id="north").status_code == 200
    assert bento.client.get("/docs").status_code == 200
    reply = bento.client.get("/docs.json")
    assert (reply.status_code, reply.headers["content-type"]) == (404, "application/problem+json")
    assert "path=" not in (bento.home / "log").read_text()
    for path in ("/livez", "/readyz", "/healthz"):
        assert bento.client.get(path).content.strip() == b""


def open_silent(server, sent=b""):
    address = server.client.base_url
    connection = socket.create_connection((address.host, address.port), timeout=60)
    connection.sendall(sent)
    return connection


def test_a_connection_that_sends_no_whole_head_or_body_is_closed(bento):
    began = time.monotonic()
    halves = (b"", b"POST /api/v1/predict HTTP/1.1\r\nHost: x\r\nX-Slow: ")
    head = b"POST /api/v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with (
        open_silent(bento, halves[0]) as silent,
        open_silent(bento, halves[1]) as slow,
        open_silent(bento, head + b'Content-Length: 99\r\n\r\n{"series_id": ') as half,
    ):
        answer = b"".join(iter(lambda: half.recv(4096), b""))  # until the service closes it
        assert answer.startswith(b"HTTP/1.1 408 ")
        for connection in (silent, slow):
            try:
                rest = connection.recv(1)
            except ConnectionResetError:
                rest = b""
            assert rest == b""
    assert connections.HEAD_S - 1 < time.monotonic() - began < connections.HEAD_S + 10


def test_the_service_needs_nothing_of_the_chain(releases, tmp_path):
    """Imports and answers in a process where the chain's libraries cannot be imported."""
    script = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {NOT_IN_THE_BENTO!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
from datetime import UTC, datetime
from deployments.forecaster import service
from deployments.forecaster.response import build_response
from deployments.forecaster.request import parse_request
from tasks.edges.served import write_answers
source = service.all_parts[0].source
source.load_initial()
made = build_response(source.loaded, parse_request(b'{{"series_id": "north"}}'), datetime.now(UTC))
write_answers([made.stored])
print(made.stored.prediction_id)
"""
    env = build_child_environment(TIDEMILL_HOME=str(tmp_path), TIDEMILL_RELEASE=str(releases / "first"))
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert len(ended.stdout.strip()) == 36


def test_requirements_are_ranges_of_the_project_and_nothing_of_the_chain():
    import tomllib

    wanted = [
        line
        for line in (ROOT / "deployments/forecaster/requirements.txt").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert set(wanted) <= set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"])
    assert not {name.partition(">")[0] for name in wanted} & set(NOT_IN_THE_BENTO)


def test_a_release_embedded_beside_the_code_speaks_when_there_is_no_champion(tmp_path):
    """As in a Bento: the code of ours that the service imports, `release/` beside it, and no
    params.yaml."""
    import shutil

    for package in ("tasks", "deployments"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    manifest = build_small_release(tmp_path / "release", dataset="travelling")
    with serving(tmp_path / "home", root=tmp_path) as running:
        said = running.wait_for(lambda said: said["ready"])
        assert (said["chosen_by"], said["digest"]) == ("embedded", manifest.digest)
        assert running.predict(series_id="north").json()["dataset"] == "travelling"
