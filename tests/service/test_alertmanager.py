"""A real Alertmanager groups alerts by dataset; a service that is down silences its latencies."""

import json
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import pytest
import yaml

from tasks.edges.processes import find_free_port, wait_for
from tasks.edges.settings import ROOT

CONFIG = ROOT / "infra/alertmanager/alertmanager.yml"
RULES = yaml.safe_load((ROOT / "infra/prometheus/rules.yml").read_text())["groups"][0]["rules"]


def run_amtool(*arguments):
    done = subprocess.run(["amtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_configuration_is_valid_and_names_alerts_that_exist():
    run_amtool("check-config", str(CONFIG))
    names = {rule["alert"] for rule in RULES if "alert" in rule}
    text = CONFIG.read_text()
    inhibited = {
        word.strip('"]') for word in text.replace("|", " ").replace('"', " ").split() if "Tidemill" in word
    }
    assert inhibited <= names
    assert len(inhibited) == 4


@pytest.fixture
def delivered(tmp_path):
    """(address of an Alertmanager with this configuration, but faster, what its webhook got)."""
    got = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self):
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    config = yaml.safe_load(CONFIG.read_text())
    config["receivers"][0]["webhook_configs"][0]["url"] = f"http://127.0.0.1:{server.server_port}/alerts"
    for route in (config["route"], *config["route"]["routes"]):
        route["group_wait"] = "500ms"
    (tmp_path / "alertmanager.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{find_free_port('127.0.0.1')}"
    command = [
        "prometheus-alertmanager",
        f"--config.file={tmp_path}/alertmanager.yml",
        f"--storage.path={tmp_path}/data",
        f"--web.listen-address={address}",
        "--cluster.listen-address=",
    ]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        assert wait_for(lambda: is_ready(address), 20)
        yield f"http://{address}/api/v2", got
    finally:
        process.kill()
        process.wait()
        server.shutdown()
        server.server_close()


def is_ready(address):
    try:
        return httpx.get(f"http://{address}/-/ready").is_success
    except httpx.TransportError:
        return False


def build_alert(name, severity="critical", **labels):
    return {"labels": {"alertname": name, "severity": severity, **labels}}


def test_alerts_come_together_by_dataset_and_without_those_of_a_service_that_is_down(delivered):
    address, got = delivered
    alerts = [
        build_alert("TidemillRowsStale", dataset="meters", level="freshness"),
        build_alert("TidemillModelOld", dataset="meters", level="model_age"),
        build_alert("TidemillRowsStale", dataset="bars", level="freshness"),
        build_alert("TidemillRowsStale", "warning", dataset="bars", level="freshness"),
        build_alert("TidemillServiceDown", instance="127.0.0.1:3000", checkout="one"),
        build_alert("TidemillLatencyHigh", dataset="meters", level="latency_p95", checkout="one"),
        build_alert("TidemillLatencyHigh", dataset="meters", level="latency_p95", checkout="two"),
    ]
    httpx.post(f"{address}/alerts", json=alerts).raise_for_status()
    assert wait_for(lambda: len(got) == 4, 20)
    messages = sorted(sorted(alert["labels"]["alertname"] for alert in message["alerts"]) for message in got)
    assert messages == [
        ["TidemillLatencyHigh"],
        ["TidemillModelOld", "TidemillRowsStale"],
        ["TidemillRowsStale"],
        ["TidemillServiceDown"],
    ]
    found = httpx.get(f"{address}/alerts", params={"inhibited": True}).json()
    inhibited = [alert["labels"] for alert in found if alert["status"]["inhibitedBy"]]
    assert sorted((labels["alertname"], labels["severity"]) for labels in inhibited) == [
        ("TidemillLatencyHigh", "critical"),
        ("TidemillRowsStale", "warning"),
    ]
