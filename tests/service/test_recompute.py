"""A recorded answer is explained and computed again, or what it needs is said to be gone."""

import sqlite3
import time
from contextlib import closing

import pytest
from servers import DATASET, at, crown, digest_of, publish, serving
from small_release import build_small_release, small_rows

from tasks.edges.api_keys import create_key
from tasks.edges.registry import find_release_deletion
from tasks.edges.row_versions import get_rows_versions_folder
from tasks.edges.served_store import get_served_path


@pytest.fixture(scope="module")
def operated(releases, tmp_path_factory):
    """A service of a champion, with published rows and keys of two tenants and an operator."""
    home = tmp_path_factory.mktemp("recompute")
    publish(home, small_rows(seed=3))
    crown(home, releases / "first")
    with at(home):
        keys = {name: create_key(name, name, ["predict"], [DATASET]) for name in ("acme", "other")}
        keys["operator"] = create_key("operator", "us", ["predict", "operate"], [DATASET])
    environment = {"TIDEMILL_AUTH": "on", "TIDEMILL_KEEP_RELEASES": "2"}
    with serving(home, **environment) as server:
        yield server, keys


def ask(operated, key="acme", **body):
    server, keys = operated
    reply = server.client.post("/api/v1/predict", json=body, headers={"X-API-Key": keys[key]})
    assert reply.status_code == 200, reply.text
    return reply.json()


def ask_until(operated, digest):
    """The first answer of the release *digest*."""
    deadline = time.monotonic() + 30
    while (answer := ask(operated, series_id="north"))["model"]["digest"] != digest:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return answer


def get(operated, prediction_id, key="acme"):
    server, keys = operated
    return server.client.get(f"/api/v1/predictions/{prediction_id}", headers={"X-API-Key": keys[key]})


def own_history(n=60):
    rows = small_rows(seed=5)
    rows = rows.filter(rows["series_id"] == "north").unique("event_time", keep="last").sort("event_time")
    columns = [c for c, dtype in rows.schema.items() if dtype.is_float()]
    return [
        {"event_time": row["event_time"].isoformat(), **{c: row[c] for c in columns}}
        for row in rows.tail(n).iter_rows(named=True)
    ]


def check_same(operated, answer):
    found = get(operated, answer["prediction_id"]).json()
    names = ("prediction_id", "made_at", "dataset", "data_version", "rows_version")
    assert {name: found[name] for name in names} == {name: answer[name] for name in names}
    assert found["model"] == {name: answer["model"][name] for name in ("digest", "version")}
    sent = {part["series_id"]: part["steps"] for part in answer["series"]}
    assert {part["series_id"]: part["steps"] for part in found["series"]} == sent
    assert found["recomputed"]["state"] == "same", found["recomputed"]
    assert found["recomputed"]["largest_relative_difference"] <= 1e-6
    assert {part["series_id"]: part["steps"] for part in found["recomputed"]["series"]} == sent
    return found


def test_answers_are_computed_again_after_other_rows_and_another_release(operated, releases):
    server, _ = operated
    as_of = small_rows()["known_at"].max().isoformat()
    history = own_history()
    answers = [
        ask(operated, series_id="north"),
        ask(operated, series_id=["south", "north"], as_of=as_of),
        ask(operated, series_id="mine", history=history),
        ask(operated, series_id="mine", history=history),
    ]
    for answer in answers:
        check_same(operated, answer)
    publish(server.home, small_rows(seed=8))
    crown(server.home, releases / "second")
    digest = digest_of(releases / "second")
    newer = ask_until(operated, digest)
    assert newer["rows_version"] != answers[0]["rows_version"]
    found = [check_same(operated, answer) for answer in [*answers, newer]]
    assert [f["request"]["as_of"] for f in found] == [None, as_of, None, None, None]
    assert found[2]["request"]["history"] == found[3]["request"]["history"] is not None
    assert {f["principal"]["tenant"] for f in found} == {"acme"}
    with at(server.home), closing(sqlite3.connect(get_served_path(DATASET))) as connection:
        assert connection.execute("SELECT count(*) FROM histories").fetchone() == (1,)


def test_only_its_tenant_and_operators_see_an_answer(operated):
    answer = ask(operated, series_id="north")
    unknown = get(operated, "no-such-id")
    others = get(operated, answer["prediction_id"], "other")
    assert (unknown.status_code, others.status_code) == (404, 404)
    assert others.json() | {"fact": "", "detail": ""} == unknown.json() | {"fact": "", "detail": ""}
    assert get(operated, answer["prediction_id"], "operator").json()["principal"]["name"] == "acme"


def test_what_is_gone_is_named(operated, tmp_path):
    server, _ = operated
    answer = ask(operated, series_id="north")
    publish(server.home, small_rows(seed=9))
    newer = ask(operated, series_id="north")
    with at(server.home):
        (get_rows_versions_folder(DATASET) / f"{answer['rows_version']}.parquet").unlink()
    gone = get(operated, answer["prediction_id"]).json()
    assert gone["series"], "the answer itself is kept"
    assert (gone["recomputed"]["state"], gone["recomputed"]["series"]) == ("gone", [])
    assert answer["rows_version"] in gone["recomputed"]["reason"]
    for k in range(1, 4):
        weights = {"last_value": k / 10, "seasonal_naive": 1 - k / 10}
        build_small_release(tmp_path / str(k), weights=weights, dataset=DATASET)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TIDEMILL_KEEP_RELEASES", "2")
            crown(server.home, tmp_path / str(k))
    ask_until(operated, digest_of(tmp_path / "3"))
    with at(server.home):
        since = find_release_deletion(DATASET, newer["model"]["digest"])
    reason = get(operated, newer["prediction_id"]).json()["recomputed"]["reason"]
    assert newer["model"]["digest"] in reason
    assert f"{since:%Y-%m-%dT%H:%M}" in reason


def test_a_changed_step_is_seen(operated):
    server, _ = operated
    answer = ask(operated, series_id="north")
    with at(server.home), closing(sqlite3.connect(get_served_path(DATASET))) as connection, connection:
        connection.execute(
            "UPDATE served SET y_hat = y_hat * 1.001 WHERE prediction_id = ?", [answer["prediction_id"]]
        )
    found = get(operated, answer["prediction_id"]).json()["recomputed"]
    assert (found["state"], "digest" in found["reason"]) == ("differs", True)
