"""A real Prometheus scrapes the real service; rules and dashboard name metrics that exist."""

import json
import re
import shutil
import subprocess
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import httpx
import pytest
import yaml
from servers import DATASET, crown, publish, serving
from small_release import build_small_release, small_rows

from deployments.forecaster.metrics import BATCH_ROUTE, FORECAST_ROUTE, ServiceMetrics
from tasks.core.objectives import BURN_RULES, WINDOWS_S, LevelName, ServiceTargets
from tasks.edges.processes import find_free_port, wait_for
from tasks.edges.settings import ROOT
from tasks.feed.watch import _LandingMetrics

FOLDER = ROOT / "infra/prometheus"
GROUPS = yaml.safe_load((FOLDER / "rules.yml").read_text())["groups"]
RULES = [rule for group in GROUPS for rule in group["rules"]]
DASHBOARD = ROOT / "infra/grafana/dashboards/tidemill.json"
METRIC = re.compile(r"\btidemill(?:_\w+|:[\w:]+)")


def list_known_metrics():
    """What service and feed expose, and what the rules record."""
    exposed = {
        sample
        for registry in (ServiceMetrics().registry, _LandingMetrics().registry)
        for family in registry.collect()
        for sample in (family.name, f"{family.name}_total", f"{family.name}_bucket")
    }
    return exposed | {rule["record"] for rule in RULES if "record" in rule}


@pytest.fixture(scope="module")
def scraped(tmp_path_factory):
    """(service, how to query Prometheus): rules and jobs of infra/, on ports of the test."""
    folder = tmp_path_factory.mktemp("prometheus")
    build_small_release(folder / "release", dataset=DATASET)
    crown(folder / "home", folder / "release")
    publish(folder / "home", small_rows(400))
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    port = find_free_port("127.0.0.1")
    with serving(folder / "home") as service:
        service.client.get("/api/v1/metrics")
        config["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
        config["scrape_configs"][0]["static_configs"][0]["targets"] = [
            service.client.base_url.netloc.decode()
        ]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        shutil.copy(FOLDER / "rules.yml", folder)
        command = [
            "prometheus",
            f"--config.file={folder}/prometheus.yml",
            f"--storage.tsdb.path={folder}/tsdb",
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            yield service, lambda text: query(port, text)
        finally:
            process.kill()
            process.wait()


def query(port, text):
    """Labels and value of each series; empty while Prometheus starts."""
    try:
        answer = httpx.get(f"http://127.0.0.1:{port}/api/v1/query", params={"query": text})
    except httpx.TransportError:
        return []
    found = answer.json()["data"]["result"] if answer.status_code == 200 else ()
    return [(one["metric"], float(one["value"][1])) for one in found]


def test_prometheus_computes_burn_rates_of_the_real_service(scraped):
    service, ask = scraped
    assert wait_for(lambda: ask('up{job="tidemill-service"} == 1'), 60)
    for _ in range(3):
        for _ in range(10):
            assert service.predict(series_id="north").status_code == 200
        time.sleep(0.7)
    rate = f'tidemill:service_level_burn:rate5m{{dataset="{DATASET}",level="errors"}}'
    assert wait_for(lambda: ask(rate), 30)
    assert ask(rate)[0][1] == 0
    levels = {labels["level"]: value for labels, value in ask("tidemill_service_level_target")}
    assert levels == {"latency_p95": 0.25, "latency_p99": 1.0, "errors": 0.001}
    assert wait_for(lambda: ask("tidemill_service_level_events_total")[0][1] == 30, 10)
    assert {labels["alertname"] for labels, _ in ask('ALERTS{severity="critical",alertstate="firing"}')} <= {
        "TidemillFeedDown"
    }


@pytest.mark.parametrize(
    "path", [FOLDER / "rules.yml", FOLDER / "tests.yml", DASHBOARD], ids=lambda p: p.name
)
def test_each_metric_that_is_named_exists(path):
    named = set(METRIC.findall(re.sub(r"^#.*", "", path.read_text(), flags=re.MULTILINE)))
    assert len(named) > 5
    assert named - list_known_metrics() == set()


def test_the_rules_of_prometheus_hold():
    done = subprocess.run(
        ["promtool", "test", "rules", "tests.yml"], cwd=FOLDER, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rules_have_the_windows_and_rates_of_the_loop_and_runbooks_that_exist():
    alerts = [rule for rule in RULES if "alert" in rule]
    of_levels = [rule for rule in alerts if "service_level_burn" in rule["expr"]]
    found = set(re.findall(r"burn:rate(\w+)\{.*?\} > ([\d.]+)", " ".join(rule["expr"] for rule in of_levels)))
    assert {(w, float(r)) for w, r in found} == {
        (w, rule.rate) for rule in BURN_RULES for w in (rule.long, rule.short)
    }
    levels = {
        level for rule in of_levels for level in re.search(r'level=~"(.*?)"', rule["expr"])[1].split("|")
    }
    assert levels == set(LevelName.__args__)
    recorded = {rule["record"].rpartition("rate")[2] for rule in RULES if "burn" in rule.get("record", "")}
    assert recorded == set(WINDOWS_S)
    for rule in alerts:
        runbook = rule["annotations"]["runbook"]
        assert "{{" in runbook or (ROOT / runbook).is_file(), runbook


def test_the_dashboard_is_provisioned_from_its_folder_with_its_source():
    provisioning = ROOT / "infra/grafana/provisioning"
    (provider,) = yaml.safe_load((provisioning / "dashboards/tidemill.yaml").read_text())["providers"]
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yaml").read_text())["datasources"]
    dashboard = json.loads(DASHBOARD.read_text())
    assert ROOT / provider["options"]["path"] == DASHBOARD.parent
    assert {panel["datasource"]["uid"] for panel in dashboard["panels"]} == {source["uid"]}
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"]) > 10


def test_answers_count_against_each_level_and_time_against_the_others(monkeypatch):
    now = 1_700_000_000.0
    clock = SimpleNamespace(time=lambda: now, monotonic=lambda: now)
    monkeypatch.setattr("deployments.forecaster.metrics.time", clock)
    metrics, known = ServiceMetrics(), datetime.fromtimestamp(now - 100, UTC)
    manifest = SimpleNamespace(dataset="d", seen_until=known - timedelta(seconds=5))
    loaded = SimpleNamespace(manifest=manifest, newest_known=known)
    targets = ServiceTargets(latency_p95_s=0.1, latency_p99_s=0.2, freshness_s=150, model_age_s=4)
    metrics.levels.update(loaded, targets)
    for status, seconds in [(200, 0.05), (200, 0.15), (422, 0.25), (503, 9.0)]:
        metrics.observe(FORECAST_ROUTE, status, seconds)
    metrics.observe(BATCH_ROUTE, 200, 30.0)
    metrics.observe(BATCH_ROUTE, 503, 9.0)
    metrics.observe("/api/v1/health/ready", 503, 9.0)
    for passed_s in (40, 20):  # the rows are 140, then 160 s old
        now += passed_s
        metrics.levels.update(loaded, targets)
    assert read_levels(metrics) == {
        "errors": (6, 2),
        "latency_p95": (3, 2),
        "latency_p99": (3, 1),
        "freshness": (60, 20),
        "model_age": (60, 60),
    }


def read_levels(metrics):
    def read(counter):
        return {s.labels["level"]: s.value for f in counter.collect() for s in f.samples}

    bad = read(metrics.levels.bad)
    return {level: (n, bad[level]) for level, n in read(metrics.levels.events).items() if n}
