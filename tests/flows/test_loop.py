"""The loop as delivered: rows of another regime arrive, and the served model changes by itself,
also when what works on it is killed in between.

One small checkout that reads a CSV file, on a real server, worker and service.
"""

import itertools
import json
import subprocess
import sys
from datetime import timedelta

import httpx
import pytest
import yaml
from loop_runs import (
    NAME,
    START,
    build_loop_checkout,
    fetch_forecast,
    find_working_process,
    is_as_of,
    kill_part,
    read_retrain_lines,
    run_flow,
    run_refresh,
    wait_for,
    write_rows,
)

from flows._events import RetrainDue


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    found = build_loop_checkout(tmp_path_factory.mktemp("loop"))
    yield found
    found.tidemill("down")


@pytest.fixture(scope="module")
def up(checkout):
    return json.loads(checkout.tidemill("up", "--json").stdout)["addresses"]


@pytest.fixture(scope="module")
def api(up):
    with httpx.Client(base_url=f"{up['prefect']}/api", timeout=30) as client:
        yield client


def test_rows_that_are_as_before_reach_the_forecast_and_change_no_model(checkout, up, api):
    first = fetch_forecast(up)["model"]["digest"]
    write_rows(checkout.root.parent / "meters.csv", 735)
    wait_for(lambda: is_as_of(up, 735), 30)
    decision = run_refresh(checkout, api)
    assert not decision["due"], decision["reason"]
    assert decision["facts"]["n_known"] > 100
    assert fetch_forecast(up)["model"]["digest"] == first
    assert not (checkout.home / "retrain").exists()


def test_another_regime_changes_the_served_model_and_the_journal_says_why(checkout, up, api):
    first = fetch_forecast(up)["model"]["digest"]
    write_rows(checkout.root.parent / "meters.csv", 735, 300)
    wait_for(lambda: is_as_of(up, 1035), 30)
    decision = run_refresh(checkout, api)
    assert decision["due"], decision["reason"]
    assert "error" in decision["triggers"]
    assert decision["recipe"] == "window"
    body = {"filter": {"event": {"name": [RetrainDue.NAME]}}}
    event, *_ = wait_for(lambda: api.post("/events/filter", json=body).json()["events"])
    assert RetrainDue.model_validate(event["payload"]).triggers == tuple(decision["triggers"])
    wait_for(lambda: find_working_process(checkout))
    kill_part(checkout, "worker")
    wait_for(lambda: fetch_forecast(up)["model"]["digest"] != first)
    killed, again, ended = wait_for(lambda: lines if len(lines := read_retrain_lines(checkout)) > 2 else None)
    assert killed["triggers"] == decision["triggers"]
    assert "times the gate's" in killed["reason"]
    assert (again["triggers"], again["recipe"]) == (["interrupted"], "window")
    assert ended["verdict"].startswith("promote: the challenger takes over")
    assert (again["digest"], ended["new_digest"]) == (first, fetch_forecast(up)["model"]["digest"])
    after = run_refresh(checkout, api)
    assert (after["due"], after["facts"]["digest"]) == (False, ended["new_digest"])
    assert len(read_retrain_lines(checkout)) == 3


def test_a_bad_challenger_changes_nothing_and_the_journal_says_why(checkout, up, api):
    first, params = fetch_forecast(up)["model"]["digest"], checkout.root / "params.yaml"
    before = params.read_text()
    document = yaml.safe_load(before)
    document["models"] = ["last_value"]
    document["datasets"][NAME]["models"] = {"last_value": {}}
    params.write_text(yaml.safe_dump(document, sort_keys=False))
    run_flow(checkout, api, "retraining", "--param", "reason=only the last value")
    params.write_text(before)
    started, ended = read_retrain_lines(checkout)[-2:]
    assert (started["triggers"], started["reason"]) == (["operator"], "only the last value")
    assert ended["new_digest"] == started["digest"] == first == fetch_forecast(up)["model"]["digest"]
    assert ended["verdict"].startswith(
        "keep: the champion stays, since the challenger is not shown to be better"
    )


def test_the_flow_simulate_compares_policies_and_changes_no_release(checkout, up, api):
    first = fetch_forecast(up)["model"]["digest"]
    options = ("--param", 'policies=["never"]', "--param", "every_steps=150")
    run_flow(checkout, api, "simulate", *options)
    report = json.loads((checkout.home / "simulate" / NAME / "report.json").read_text())
    assert [result["policy"] for result in report["policies"]] == ["never"]
    found = api.post("/artifacts/filter", json={"artifacts": {"key": {"like_": "meters-simulate-%"}}}).json()
    assert {artifact["type"] for artifact in found} == {"table", "markdown"}
    assert fetch_forecast(up)["model"]["digest"] == first


def test_what_the_loop_did_is_on_the_command_line(checkout, up):
    found = json.loads(checkout.tidemill("status", "--json").stdout)
    assert found["champion"]["digest"] == fetch_forecast(up)["model"]["digest"]
    assert "refresh" in found["running"]
    loop = found["loop"]
    assert loop["freshness"]["as_of"] == f"{START + timedelta(days=1035):%Y-%m-%dT%H:%M:%S+00:00}"
    assert loop["levels"][0]["name"] == "loss"
    last = loop["last_retraining"]
    assert (last["result"], last["triggers"], last["recipe"]) == ("in vain", ["operator"], "window")
    assert loop["next_due"]["age_left_steps"] >= 0
    assert {"refresh", "retraining"} <= set(loop["next_due"]["runs"])
    shown = checkout.tidemill("status").stdout
    assert all(
        name in shown for name in ("data as of", "levels", "alarms", "in vain", "retraining by age in")
    )
    with checkout.start(
        [sys.executable, "-m", "deployments.cli", "status", "--watch", "--json"],
        stdout=subprocess.PIPE,
        text=True,
    ) as watching:
        assert list(itertools.islice(filter("{\n".__eq__, watching.stdout), 2)) == ["{\n"] * 2
        watching.terminate()
    done = json.loads(checkout.tidemill("refresh", "--json").stdout)
    assert (done["n_new"], done["n_rows"]) == (0, 2 * 1035)
