"""A recorded answer is explained and computed again, or what it needs is said to be gone."""

import sqlite3
import time
from contextlib import closing
from datetime import timedelta

import pytest
from servers import DATASET, at, crown, digest_of, publish, serving
from small_release import build_small_release, small_rows

from tasks.edges.api_keys import create_key
from tasks.edges.registry import read_journal
from tasks.edges.release_files import find_release_deletion
from tasks.edges.row_versions import get_rows_versions_folder
from tasks.edges.served import read_news, read_served
from tasks.edges.served_store import get_served_path
from tasks.edges.settings import read_settings


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


def publish_rows(operated, rows):
    """Publish *rows* and have the service read them: all routes but predict wait for that."""
    publish(operated[0].home, rows)
    get(operated, "none")


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
    publish_rows(operated, small_rows(seed=8))
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


def explain(operated, prediction_id, key="acme"):
    server, keys = operated
    return server.client.get(f"/api/v1/predictions/{prediction_id}/explain", headers={"X-API-Key": keys[key]})


def check_explained(explanations, series):
    """The parts of each step add up to what was answered."""
    assert [one["series_id"] for one in explanations] == [part["series_id"] for part in series]
    for one, part in zip(explanations, series, strict=True):
        assert [step["y_hat"] for step in one["steps"]] == [step["y_hat"] for step in part["steps"]]
        for step in one["steps"]:
            parts = (*step["features"].values(), *step["members"].values())
            total = step["base"] + sum(parts) + step["calibration"] + step["bounds"]
            assert total == pytest.approx(step["y_hat"], abs=1e-3)
        assert one["values"]["z_last"]["known_at"] == part["as_of"]


def test_an_answer_is_explained_by_the_release_and_rows_that_answered(operated, releases):
    server, _ = operated
    publish_rows(operated, small_rows(seed=6))
    crown(server.home, releases / "first")
    ask_until(operated, digest_of(releases / "first"))
    asks = (
        {"series_id": ["south", "north"], "horizon_steps": 2},
        {"series_id": "mine", "history": own_history()},
        {"series_id": "north", "as_of": small_rows()["known_at"].max().isoformat()},
    )
    answers = [ask(operated, **body, explain=True) for body in asks]
    publish_rows(operated, small_rows(seed=7))
    crown(server.home, releases / "second")
    ask_until(operated, digest_of(releases / "second"))
    for answer in answers:
        check_explained(answer["explanations"], answer["series"])
        check_same(operated, answer)
        found = explain(operated, answer["prediction_id"])
        assert found.json()["explanations"] == answer["explanations"]
        assert found.json()["model"]["digest"] == digest_of(releases / "first")
        assert explain(operated, answer["prediction_id"]).content == found.content
    assert explain(operated, answers[0]["prediction_id"], "other").status_code == 404


def test_a_version_answers_when_it_is_named_and_is_no_news(operated, releases):
    server, keys = operated
    crown(server.home, releases / "second")
    second = ask_until(operated, digest_of(releases / "second"))
    with at(server.home):
        version = next(r.version for r in read_journal(DATASET) if r.digest == digest_of(releases / "first"))
    named = [ask(operated, series_id="north", model=version, explain=k > 1) for k in range(3)]
    body, headers = {"items": [{"series_id": "north"}], "model": version}, {"X-API-Key": keys["acme"]}
    batch = server.client.post("/api/v1/predict/batch", json=body, headers=headers).json()
    assert batch["model"] == named[0]["model"]
    assert batch["items"][0]["series"] == named[0]["series"][0] == named[2]["series"][0]
    for answer in named:
        assert (answer["model"]["version"], answer["rows_version"]) == (version, second["rows_version"])
        assert answer["model"]["digest"] == digest_of(releases / "first")
        assert answer["series"] != second["series"]
        check_same(operated, answer)
    check_explained(named[2]["explanations"], named[2]["series"])
    ids = {answer["prediction_id"] for answer in (*named, batch["items"][0])}
    with at(server.home):
        news = read_news(DATASET, small_rows()["known_at"].min())
        assert not ids & set(news["prediction_id"])
        assert ids <= set(read_served(DATASET)["prediction_id"])
    champion = ask(operated, series_id="north", model=second["model"]["version"])
    assert champion["series"] == ask(operated, series_id="north", model="champion")["series"]
    for path, unknown in (("predict", {"series_id": "north"}), ("predict/batch", {"items": [{}]})):
        reply = server.client.post(f"/api/v1/{path}", json={**unknown, "model": "9.9.9"}, headers=headers)
        assert (reply.status_code, version in reply.json()["rule"]) == (404, True)


def test_only_its_tenant_and_operators_see_an_answer(operated):
    answer = ask(operated, series_id="north")
    unknown = get(operated, "no-such-id")
    others = get(operated, answer["prediction_id"], "other")
    assert (unknown.status_code, others.status_code) == (404, 404)
    assert others.json() | {"fact": "", "detail": ""} == unknown.json() | {"fact": "", "detail": ""}
    assert get(operated, answer["prediction_id"], "operator").json()["principal"]["name"] == "acme"


def forget_answers(home, digest):
    """The answers of the release *digest* become older than answers are kept."""
    with at(home), closing(sqlite3.connect(get_served_path(DATASET))) as connection, connection:
        days = timedelta(days=read_settings().keep_answers_days) / timedelta(microseconds=1)
        connection.execute("UPDATE audit SET made_at = made_at - ? WHERE release = ?", [int(days), digest])


def test_what_is_gone_is_named(operated, tmp_path):
    server, _ = operated
    answer = ask(operated, series_id="north")
    publish_rows(operated, small_rows(seed=9))
    newer = ask(operated, series_id="north")
    with at(server.home):
        (get_rows_versions_folder(DATASET) / f"{answer['rows_version']}.parquet").unlink()
    gone = get(operated, answer["prediction_id"]).json()
    assert gone["series"], "the answer itself is kept"
    assert (gone["recomputed"]["state"], gone["recomputed"]["series"]) == ("gone", [])
    assert answer["rows_version"] in gone["recomputed"]["reason"]
    unexplained = explain(operated, answer["prediction_id"])
    assert (unexplained.status_code, answer["rows_version"] in unexplained.json()["fact"]) == (410, True)
    for k in range(1, 5):
        weights = {"last_value": k / 10, "seasonal_naive": 1 - k / 10}
        build_small_release(tmp_path / str(k), weights=weights, dataset=DATASET)
        if k == 4:
            ask_until(operated, digest_of(tmp_path / "3"))
            assert get(operated, newer["prediction_id"]).json()["recomputed"]["state"] == "same"
            forget_answers(server.home, newer["model"]["digest"])
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TIDEMILL_KEEP_RELEASES", "2")
            crown(server.home, tmp_path / str(k))
    ask_until(operated, digest_of(tmp_path / "4"))
    with at(server.home):
        since = find_release_deletion(DATASET, newer["model"]["digest"])
    reason = get(operated, newer["prediction_id"]).json()["recomputed"]["reason"]
    server, keys = operated
    body = {"series_id": "north", "model": newer["model"]["version"]}
    deleted = server.client.post("/api/v1/predict", json=body, headers={"X-API-Key": keys["acme"]})
    assert (deleted.status_code, "TIDEMILL_KEEP_RELEASES" in deleted.json()["fact"]) == (404, True)
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
