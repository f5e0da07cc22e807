"""Versions by rule, the changelog of the model, and the way back to a kept release."""

from datetime import UTC, datetime

import pytest
from homes import at_home
from reports import gate_decision
from sealed_folder import make_sealed_folder

from tasks.core.errors import ReleaseError
from tasks.edges import registry
from tasks.edges.artifacts import read_json, write_json
from tasks.edges.champions import find_previous_champion
from tasks.edges.registry import (
    apply_kept_release,
    apply_promotion,
    get_changelog_path,
    read_champion,
    read_journal,
)
from tasks.edges.release_files import find_release_identity, get_release_folder
from tasks.edges.tracking import list_pending_entries

AS_OF = datetime(2024, 1, 2, tzinfo=UTC)
DECISION = gate_decision(as_of=AS_OF)
TRAITS = {"interface": {"horizon_steps": 5}, "model": {"members": ["ridge"]}, "parameters": {}}


@pytest.fixture
def home(tmp_path):
    with at_home(tmp_path / "home", TIDEMILL_OPERATOR="ada") as home:
        yield home


@pytest.fixture
def promote(home, tmp_path):
    def promote(digest, **manifest):
        return apply_promotion("tides", make_sealed_folder(tmp_path / "built", digest, **manifest), DECISION)

    return promote


def take_back(digest, why="worse"):
    return apply_kept_release("tides", digest, "rollback", "grace", why, AS_OF)


def test_data_is_a_patch_a_model_a_minor_and_an_interface_a_major_version(promote):
    versions = [
        promote("aa", traits=TRAITS).version,
        promote("bb", traits=TRAITS, seen_until="2023-07-01T00:00:00+00:00").version,
        promote("cc", traits={**TRAITS, "model": {"members": ["lightgbm"]}}).version,
        promote("dd", traits={**TRAITS, "interface": {"horizon_steps": 6}}).version,
    ]
    assert versions == ["1.0.0", "1.0.1", "1.1.0", "2.0.0"]


def test_a_journal_of_an_older_version_goes_on(promote, home):
    """Its lines have no chain, and none of the keys that say who, when and what has changed."""
    old = promote("aa").model_dump(mode="json", exclude_defaults=True)
    names = ("promoted_at", "by", "why")
    for path in (home / "registry/tides/journal.jsonl", home / "registry/tides/champion.json"):
        write_json(path, {name: value for name, value in old.items() if name not in names})
    journal = home / "registry/tides/journal.jsonl"
    journal.write_text(" ".join(journal.read_text().split()) + "\n")
    assert read_champion("tides").by is None
    assert promote("bb", traits=TRAITS).version == "1.1.0"
    assert promote("cc", traits=TRAITS).version == "1.1.1"
    assert take_back("aa").version == "1.0.0"
    assert "unknown" in get_changelog_path("tides").read_text()


def test_the_changelog_has_who_why_and_what_has_changed(promote):
    promote("aa", traits=TRAITS)
    second = promote("bb", traits={**TRAITS, "model": {"members": ["ridge", "har"]}})
    assert (second.by, second.why, second.replaces) == ("ada", DECISION.reason, "aa")
    take_back("aa", "bias in the north")
    text = get_changelog_path("tides").read_text()
    parts = text.split("\n## ")
    assert [part.split(",")[0] for part in parts[1:]] == ["1.0.0", "1.1.0", "1.0.0"]
    assert "Rollback by grace: bias in the north" in parts[1]
    assert "- model: members: removed har" in parts[1]
    assert f"Promotion by ada: {DECISION.reason}" in parts[2]
    assert "- model: members: added har" in parts[2]


def test_a_rollback_is_a_line_of_the_journal_and_mlflow_gets_it(promote):
    first = promote("aa")
    promote("bb")
    n_entries = len(list_pending_entries())
    back = take_back("aa")
    assert read_champion("tides") == back == read_journal("tides")[-1]
    assert (back.digest, back.version, back.decision) == ("aa", "1.0.0", first.decision)
    assert (back.action, back.by, back.why, back.replaces, back.taken_back_as_of) == (
        "rollback",
        "grace",
        "worse",
        "bb",
        AS_OF,
    )
    entry = read_json(list_pending_entries()[-1] / "entry.json")
    assert (len(list_pending_entries()), entry["digest"]) == (n_entries + 1, "aa")
    assert take_back("aa") == back
    assert len(read_journal("tides")) == 3


def test_an_unknown_or_deleted_release_is_refused(promote, tmp_path):
    promote("aa")
    with pytest.raises(ReleaseError, match="no kept release"):
        take_back("ff")
    with at_home(tmp_path / "home", TIDEMILL_KEEP_RELEASES="2"):
        promote("bb")
        promote("cc")
        assert not get_release_folder("aa").exists()
        with pytest.raises(ReleaseError, match="no kept release"):
            take_back("aa")
        assert read_champion("tides").digest == "cc"
        assert find_release_identity("tides", "aa").digest == "aa"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ("aa", None),
        ("aa bb", "aa"),
        ("aa bb <aa", None),
        ("aa bb cc <bb", "aa"),
        ("aa bb cc <bb <aa", None),
        ("aa bb <aa cc", "aa"),
        ("aa bb cc <aa", None),
        ("aa bb aa", "bb"),
    ],
)
def test_one_goes_back_further_each_time_and_never_to_what_was_taken_back(promote, home, changes, expected):
    """`<aa` is a rollback to aa."""
    for change in changes.split():
        if change.startswith("<"):
            take_back(change[1:])
        else:
            built = home.parent / "built" / change
            apply_promotion("tides", built, DECISION) if built.exists() else promote(change)
    previous = find_previous_champion(read_journal("tides"))
    assert (previous and previous.digest) == expected


@pytest.mark.parametrize("dies_in", ["append_line", "log_promotion", "write_json", "delete_old_releases"])
def test_a_rollback_that_died_is_completed_by_the_next_change(promote, monkeypatch, dies_in):
    promote("aa")
    promote("bb")

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(registry, dies_in, die)
        with pytest.raises(KeyboardInterrupt):
            take_back("aa")
    assert read_champion("tides").digest in {"aa", "bb"}
    assert take_back("aa").digest == "aa"
    assert [line.digest for line in read_journal("tides")] == ["aa", "bb", "aa"]
    assert read_champion("tides") == read_journal("tides")[-1]
