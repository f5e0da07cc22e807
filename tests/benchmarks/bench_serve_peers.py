"""Rate and latency compared with MLflow's scoring server, MLServer and a plain BentoML service.

The peers answer with one ONNX graph of 20 weights from numbers in the request; ours looks up a
series, and has its forecast with intervals, its record and its audit on disk before it is sent.
One worker each, `wrk` as the client, taking turns in one run.
"""

import json
import os
import re
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import numpy as np
import onnx
import pytest
from servers import DATASET, serving_bento
from skl2onnx import to_onnx
from sklearn.linear_model import Ridge
from small_release import build_small_release

from tasks.edges.processes import find_free_port
from tasks.edges.settings import ROOT, build_child_environment

pytestmark = pytest.mark.bench

N_FEATURES, N_TURNS, SECONDS = 20, 3, 5
_ONNX = """
import numpy as np, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession({path!r}, options)
"""
_BENTO = """
import bentoml
@bentoml.service(workers=1)
class Ridge:
    @bentoml.api
    def predict(self, x: list[list[float]]) -> list[list[float]]:
        return session.run(None, {"X": np.array(x, dtype=np.float32)})[0].tolist()
"""
_MLSERVER = """
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse
class Ridge(MLModel):
    async def predict(self, payload):
        x = NumpyCodec.decode_input(payload.inputs[0]).astype(np.float32)
        outputs = [NumpyCodec.encode_output("y", session.run(None, {"X": x})[0])]
        return InferenceResponse(model_name=self.name, outputs=outputs)
"""


@contextmanager
def running(command, port, path, body, cwd):
    """The server of *command*, when it answers; the address of its route."""
    path_of_programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # MLflow starts `uvicorn`
    env = build_child_environment(OMP_NUM_THREADS="1", PATH=path_of_programs)
    with (cwd / "server.log").open("wb") as log:
        process = subprocess.Popen([str(c) for c in command], cwd=cwd, env=env, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}{path}"
    try:
        for _ in range(600):
            try:
                httpx.post(address, json=body, timeout=5).raise_for_status()
                break
            except httpx.TransportError:
                subprocess.run(["sleep", ".1"], check=True)
        yield address
    finally:
        process.terminate()
        process.wait(30)


def run_wrk(address, body, script, connections, seconds=SECONDS):
    """Good answers a second and the 50th and 99th percentile of all answers' milliseconds."""
    lines = ['wrk.method = "POST"', 'wrk.headers["Content-Type"] = "application/json"']
    script.write_text("\n".join([*lines, f"wrk.body = [==[{json.dumps(body)}]==]"]))
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", str(script), address]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    n_all = int(re.search(r"(\d+) requests in", said)[1])
    n_bad = int((re.search(r"Non-2xx or 3xx responses: (\d+)", said) or [0, 0])[1])
    unit_ms = {"us": 1e-3, "ms": 1.0, "s": 1e3}
    p50, p99 = (
        float(number) * unit_ms[unit]
        for q in ("50", "99")
        for number, unit in re.findall(rf"{q}%\s+([\d.]+)(us|ms|s)", said)
    )
    return float(re.search(r"Requests/sec:\s+([\d.]+)", said)[1]) * (1 - n_bad / n_all), p50, p99


@contextmanager
def start_all(folder):
    """Name -> address and body of each server."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(200, N_FEATURES)).astype(np.float32)
    graph = folder / "ridge.onnx"
    onnx.save(to_onnx(Ridge().fit(x, x.sum(axis=1)), x[:1]), graph)
    row = x[:1].round(3).tolist()
    of_graph = _ONNX.format(path=str(graph))
    ports = [find_free_port("127.0.0.1") for _ in range(5)]
    for name in ("bento", "mlflow", "mlserver", "home"):
        (folder / name).mkdir()
    (folder / "bento/service.py").write_text(of_graph + _BENTO)
    bento = [sys.executable, "-m", "bentoml", "serve", "service:Ridge", "--port", ports[0]]
    model = f"import mlflow, onnx; mlflow.onnx.save_model(onnx.load({str(graph)!r}), 'model')"
    subprocess.run([sys.executable, "-c", model], cwd=folder / "mlflow", check=True, capture_output=True)
    mlflow = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "model", "--env-manager", "local"]
    mlflow += ["--port", ports[1], "--workers", 1]
    (folder / "mlserver/ridge.py").write_text(of_graph + _MLSERVER)
    (folder / "mlserver/model-settings.json").write_text(
        json.dumps({"name": "ridge", "implementation": "ridge.Ridge"})
    )
    ports_of = {"http_port": ports[2], "grpc_port": ports[3], "metrics_port": ports[4]}
    (folder / "mlserver/settings.json").write_text(json.dumps({**ports_of, "parallel_workers": 0}))
    mlserver = [ROOT / ".venv-peers/serving/bin/mlserver", "start", "."]
    tensor = {"name": "x", "shape": [1, N_FEATURES], "datatype": "FP32", "data": row[0]}
    bodies = {"bento": {"x": row}, "mlflow": {"inputs": row}, "mlserver": {"inputs": [tensor]}}
    build_small_release(folder / "release", dataset=DATASET)
    with ExitStack() as stack:

        def start(name, command, port, path):
            body = bodies[name]
            return stack.enter_context(running(command, port, path, body, folder / name)), body

        ours = stack.enter_context(serving_bento(folder / "home", TIDEMILL_RELEASE=str(folder / "release")))
        yield {
            "ours, recorded": (f"{ours.client.base_url}/api/v1/predict", {"series_id": "north"}),
            "bentoml serve": start("bento", bento, ports[0], "/predict"),
            "mlflow models serve": start("mlflow", mlflow, ports[1], "/invocations"),
            "mlserver": start("mlserver", mlserver, ports[2], "/v2/models/ridge/infer"),
        }


def test_rate_and_latency_beside_other_servers(tmp_path):
    found = {}
    with start_all(tmp_path) as servers:
        for _ in range(N_TURNS):
            for connections in (1, 16):
                for name, (address, body) in servers.items():
                    made = run_wrk(address, body, tmp_path / "post.lua", connections)
                    found.setdefault((connections, name), []).append(made)
    print(f"\nmedian of {N_TURNS} turns of {SECONDS} s:")
    for (connections, name), turns in found.items():
        rate, p50, p99 = np.median(turns, axis=0)
        facts = f"{rate:,.0f} requests/s, p50 {p50:.2f} ms, p99 {p99:.2f} ms"
        print(f"  {connections:2} connections, {name}: {facts}")


@pytest.mark.timeout(300)
def test_goodput_under_ten_times_the_load_and_after_it(tmp_path):
    """A minute of 160 and one of 1,600 connections that ask as fast as they are answered."""
    (tmp_path / "home").mkdir()
    build_small_release(tmp_path / "release", dataset=DATASET)
    body, script = {"series_id": "north"}, tmp_path / "post.lua"
    with serving_bento(tmp_path / "home", TIDEMILL_RELEASE=str(tmp_path / "release")) as server:
        address = f"{server.client.base_url}/api/v1/predict"
        usual_s = np.median([server.predict(**body).elapsed.total_seconds() for _ in range(200)])
        print(f"\none client's median {usual_s * 1e3:.1f} ms")
        for connections in (160, 1600):
            peak = run_wrk(address, body, script, 16, 20)[0]
            rate, p50, p99 = run_wrk(address, body, script, connections, 60)
            ended, n_quick = time.monotonic(), 0
            while n_quick < 10:
                n_quick = n_quick + 1 if server.predict(**body).elapsed.total_seconds() < 3 * usual_s else 0
            after_s = time.monotonic() - ended
            print(f"  16 connections: {peak:,.0f} good answers/s")
            print(f"  {connections:,}: {rate:,.0f} ({rate / peak:.0%}), p50 {p50:.0f} ms, p99 {p99:.0f} ms")
            print(f"  ten answers within three times the median {after_s:.1f} s after the end")
