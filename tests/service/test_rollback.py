"""A release that is taken back: by whom, how fast, and what the running service does then."""

import json

import pytest
from pydantic import TypeAdapter
from servers import DATASET, at, crown, digest_of, publish, serving
from typer.testing import CliRunner

from deployments.cli.app import app
from deployments.forecaster.champion_changes import ChampionChange
from tasks.edges.registry import apply_kept_release, get_changelog_path, read_champion, read_journal
from tasks.edges.release_files import get_release_folder

UNREACHABLE = "http://127.0.0.1:9"  # where neither Prefect nor MLflow answers


@pytest.fixture(scope="module")
def running(releases, all_rows, tmp_path_factory):
    """A service with a champion and a former one, and published rows."""
    home = tmp_path_factory.mktemp("registry")
    publish(home, all_rows)
    for name in ("first", "second"):
        crown(home, releases / name)
    with serving(home) as server:
        yield server


@pytest.fixture
def second(running, releases):
    """`second` is champion again, and answers."""
    with at(running.home):
        if read_champion(DATASET).version != "1.1.0":
            apply_kept_release(DATASET, digest_of(releases / "second"), "deploy", "grace", "as before")
    running.wait_for(lambda said: said["digest"] == digest_of(releases / "second"))
    return running


def tidemill(home, *arguments, code=0):
    """What the command printed; with stderr, where it fails."""
    environment = {"PREFECT_API_URL": UNREACHABLE, "TIDEMILL_MLFLOW_URI": UNREACHABLE, "COLUMNS": "300"}
    with at(home):
        done = CliRunner().invoke(app, list(arguments), env={**environment, "TIDEMILL_HOME": str(home)})
    assert done.exit_code == code, done.output
    return done.output if code else done.stdout


def test_the_running_service_answers_from_a_rollback_without_prefect_and_mlflow(second, releases):
    """How long it takes is measured in bench_rollback.py."""
    printed = tidemill(second.home, "rollback", "--by", "grace", "--reason", "bias in the north")
    second.wait_for(lambda said: said["digest"] == digest_of(releases / "first"))
    assert printed.startswith(f"1.0.0 ({digest_of(releases / 'first')[:12]}) is champion")
    assert second.predict(series_id="north").json()["model"]["version"] == "1.0.0"
    with at(second.home):
        line = read_journal(DATASET)[-1]
        assert "Rollback by grace: bias in the north" in get_changelog_path(DATASET).read_text()
    assert (line.action, line.by, line.why) == ("rollback", "grace", "bias in the north")
    assert line.replaces == digest_of(releases / "second")


def test_what_is_damaged_is_not_gone_back_to_and_the_kept_ones_are_named(second, releases):
    with at(second.home):
        path = get_release_folder(digest_of(releases / "first")) / "ensemble.json"
    content = path.read_bytes()
    path.write_bytes(content.replace(b"0.02", b"0.03"))
    printed = tidemill(second.home, "rollback", code=2)
    assert "ensemble.json was altered" in printed
    assert "kept: 1.1.0, 1.0.0" in printed
    path.write_bytes(content)
    printed = tidemill(second.home, "rollback", "--to", "7.0.0", code=2)
    assert "no release '7.0.0'" in printed
    assert "Kept are 1.1.0, 1.0.0" in printed
    with at(second.home):
        assert read_champion(DATASET).version == "1.1.0"


def test_the_table_of_releases_says_which_is_champion_and_which_is_kept(second, releases, tmp_path):
    known = json.loads(tidemill(second.home, "releases", "--json"))
    assert [(r["version"], r["is_champion"], r["is_kept"]) for r in known] == [
        ("1.1.0", True, True),
        ("1.0.0", False, True),
    ]
    assert known[0]["digest"] == digest_of(releases / "second")
    table = tidemill(second.home, "releases")
    assert table.startswith(f"* 1.1.0  {digest_of(releases / 'second')[:12]}")
    with at(second.home):
        folder = get_release_folder(digest_of(releases / "first"))
    folder.rename(tmp_path / "aside")
    try:
        assert "deleted" in tidemill(second.home, "releases")
        printed = tidemill(second.home, "rollback", code=2)
        assert "The bytes of 1.0.0" in printed
        assert "Kept are 1.1.0" in printed
    finally:
        (tmp_path / "aside").rename(folder)


def test_two_releases_are_compared_in_words(second):
    printed = tidemill(second.home, "diff", "1.0.0", "1.1.0")
    assert printed.splitlines() == [
        "1.0.0 -> 1.1.0: minor",
        "  model: members: added seasonal_naive; removed ridge, window_mean",
    ]
    assert json.loads(tidemill(second.home, "diff", "1.1.0", "1.1.0", "--json"))["changes"] == []


def test_a_kept_release_is_scored_frozen_on_what_it_has_not_seen(second):
    result = json.loads(tidemill(second.home, "backtest", "--release", "1.0.0", "--json"))
    assert (result["model"]["version"], result["rows"][0]["step"]) == ("1.0.0", None)
    assert result["n_cutoffs"] > 50
    one = tidemill(second.home, "backtest", "--release", "1.0.0", "--from", result["last_cutoff"])
    assert one.startswith(f"1 cutoffs from {result['last_cutoff']}")
    assert f"  {result['primary_score']} " in one
    assert "--from is 'soon'" in tidemill(
        second.home, "backtest", "--release", "1.0.0", "--from", "soon", code=2
    )


def test_the_same_is_asked_over_http_and_again_without_another_line(second, releases):
    answers = [
        second.client.post("/api/v1/models/rollback", json={"taken_back": "1.1.0", "reason": "bias"})
        for _ in range(2)
    ]
    TypeAdapter(ChampionChange).validate_python(answers[0].json())
    assert answers[0].json() == answers[1].json()
    assert answers[0].json()["by"] == "anonymous"
    assert (answers[0].json()["version"], answers[0].json()["action"]) == ("1.0.0", "rollback")
    second.wait_for(lambda said: said["version"] == "1.0.0")
    back = second.client.post(
        "/api/v1/models/deploy", json={"version": "1.1.0", "reason": "it was the source"}
    )
    assert (back.json()["digest"], back.json()["action"]) == (digest_of(releases / "second"), "deploy")
    second.wait_for(lambda said: said["version"] == "1.1.0")
    with at(second.home):
        assert [line.action for line in read_journal(DATASET)][-2:] == ["rollback", "deploy"]


@pytest.mark.parametrize(
    ("route", "body", "status", "text"),
    [
        ("rollback", {"to": "9.9.9", "reason": "r"}, 404, "Kept are 1.1.0, 1.0.0"),
        ("rollback", {"taken_back": "9.9.9", "reason": "r"}, 404, "no release '9.9.9'"),
        ("rollback", {"reason": "r"}, 422, "one of `to` and `taken_back`"),
        ("rollback", {"to": "1.0.0"}, 422, "reason"),
        ("rollback", {"to": "1.0.0", "reason": "r", "too": 1}, 422, "unknown key"),
        ("deploy", {"version": "1.0.0", "reason": ""}, 422, "reason"),
        ("deploy", {"version": "9.9.9", "reason": "r"}, 404, "no release '9.9.9'"),
    ],
)
def test_a_change_that_cannot_be_is_a_problem_and_changes_nothing(second, route, body, status, text):
    reply = second.client.post(f"/api/v1/models/{route}", json=body)
    assert (reply.status_code, reply.headers["content-type"]) == (status, "application/problem+json")
    assert text in reply.json()["detail"]
    with at(second.home):
        assert read_champion(DATASET).version == "1.1.0"


def test_a_service_of_one_fixed_release_changes_no_champion(server):
    reply = server.client.post("/api/v1/models/rollback", json={"to": "1.0.0", "reason": "r"})
    assert reply.status_code == 409
    assert "TIDEMILL_RELEASE" in reply.json()["next"]
