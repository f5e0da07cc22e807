"""The registry: copies, versions, the journal, what is kept, and kills in between."""

import os
import secrets
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial

import pytest
from homes import at_home
from reports import gate_decision
from sealed_folder import make_sealed_folder

from tasks.core.errors import ReleaseError
from tasks.edges import registry
from tasks.edges.artifacts import write_json
from tasks.edges.jobs import Job, open_jobs
from tasks.edges.registry import apply_promotion, get_champion_folder, read_champion, read_journal
from tasks.edges.tracking import list_pending_entries

DECISION = gate_decision(as_of=datetime(2024, 1, 2, tzinfo=UTC))


@pytest.fixture
def home(tmp_path):
    with at_home(tmp_path / "home") as home:
        yield home


@pytest.fixture
def sealed(tmp_path):
    """Make a folder that looks like a sealed release: the registry reads its manifest alone."""
    return partial(make_sealed_folder, tmp_path / "built")


def test_before_the_first_promotion_there_is_no_champion(home):
    assert read_champion("tides") is None


def test_a_promotion_copies_the_release_and_names_it(home, sealed):
    champion = apply_promotion("tides", sealed("aa"), DECISION)
    assert read_champion("tides") == champion
    assert (champion.version, champion.path, champion.decision) == ("1.0.0", "releases/aa", DECISION)
    assert (get_champion_folder(champion) / "members/ridge.onnx").read_bytes() == b"aa"
    assert not (get_champion_folder(champion) / "baseline").exists(), (
        "a release nested in it is another release"
    )
    assert [entry.name.split("-")[2] for entry in list_pending_entries()] == ["champion"]


def test_the_record_of_another_dataset_is_no_champion_of_this_one(home, sealed):
    apply_promotion("tides", sealed("aa"), DECISION)
    (home / "registry/other").mkdir()
    (home / "registry/other/champion.json").write_bytes((home / "registry/tides/champion.json").read_bytes())
    with pytest.raises(ReleaseError, match="'tides', not of 'other'"):
        read_champion("other")


def test_the_same_release_again_changes_nothing(home, sealed):
    folder = sealed("aa")
    first = apply_promotion("tides", folder, DECISION)
    again = apply_promotion("tides", folder, gate_decision(as_of=datetime(2025, 1, 1, tzinfo=UTC)))
    assert again == first
    assert read_journal("tides") == [first]
    assert len(list_pending_entries()) == 1


@pytest.mark.parametrize("fault", ["altered", "missing"])
def test_a_damaged_champion_is_healed_when_the_same_release_is_promoted(home, sealed, fault):
    folder = sealed("aa")
    copied = get_champion_folder(apply_promotion("tides", folder, DECISION))
    inode = copied.stat().st_ino
    (folder / "provenance.json").write_text("{}")  # of a second build; a service may run in the copy
    apply_promotion("tides", folder, DECISION)
    assert copied.stat().st_ino == inode
    member = copied / "members/ridge.onnx"
    member.write_bytes(b"?") if fault == "altered" else member.unlink()
    apply_promotion("tides", folder, DECISION)
    assert member.read_bytes() == b"aa"
    assert not (copied / "baseline").exists()


def test_versions_count_up_and_a_release_that_comes_back_keeps_its_own(home, sealed):
    folders = {name: sealed(name) for name in ("aa", "bb", "cc")}
    assert [apply_promotion("tides", folders[n], DECISION).version for n in ("aa", "bb", "aa", "cc")] == [
        "1.0.0",
        "1.1.0",
        "1.0.0",
        "1.2.0",
    ]
    assert [c.digest for c in read_journal("tides")] == ["aa", "bb", "aa", "cc"]


def test_disk_is_bounded_and_champion_and_former_champion_stay(tmp_path, sealed):
    with at_home(tmp_path / "home", TIDEMILL_KEEP_RELEASES="2") as home:
        for name in ("aa", "bb", "cc", "dd"):
            apply_promotion("tides", sealed(name), DECISION)
        apply_promotion("seas", sealed("ee", "seas"), DECISION)
        assert sorted(path.name for path in (home / "releases").iterdir()) == ["cc", "dd", "ee"]


@pytest.mark.parametrize("kind", ["started", "working folder", "setting", "state.json", "job"])
def test_a_release_that_is_run_or_named_stays_until_it_is_not(tmp_path, sealed, kind):
    with at_home(tmp_path / "home", TIDEMILL_KEEP_RELEASES="2") as home:
        # Of its own: what any process of the machine names stays
        first, *others, last = [secrets.token_hex(32) for _ in range(5)]
        folder = get_champion_folder(apply_promotion("tides", sealed(first), DECISION))
        with _in_use(kind, folder, home):
            for name in others:
                apply_promotion("tides", sealed(name), DECISION)
            assert sorted(path.name for path in (home / "releases").iterdir()) == sorted(
                [first, *others[-2:]]
            )
        apply_promotion("tides", sealed(last), DECISION)
        assert sorted(path.name for path in (home / "releases").iterdir()) == sorted([others[-1], last])


@contextmanager
def _in_use(kind, folder, home):
    """A real process that runs from *folder* or is given its path, or a record that names it."""
    if kind == "state.json":
        write_json(
            home / "up/state.json", {"commands": {"service": ["bentoml", "serve", str(folder / "bento")]}}
        )
        yield
        (home / "up/state.json").unlink()
        return
    if kind == "job":
        job = Job("1", "t", "p", "tides", "batch", "{}", "", None, folder.name, str(folder), "1.0.0", "")
        with open_jobs() as store:
            store.add(job)
        yield
        with open_jobs() as store:
            store.cancel(job.id)
        return
    where = {
        "started": {},
        "working folder": {"cwd": folder},
        "setting": {"env": {**os.environ, "TIDEMILL_RELEASE": str(folder)}},
    }
    named = str(folder / "bento") if kind == "started" else "0"
    process = subprocess.Popen([sys.executable, "-c", "input()", named], stdin=subprocess.PIPE, **where[kind])
    try:
        yield
    finally:
        process.communicate(b"\n")


def test_a_release_of_another_dataset_is_refused(home, sealed):
    with pytest.raises(ReleaseError, match="not of 'tides'"):
        apply_promotion("tides", sealed("aa", "seas"), DECISION)


def test_an_unsealed_folder_is_refused(home, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ReleaseError, match="no sealed release"):
        apply_promotion("tides", tmp_path / "empty", DECISION)


@pytest.mark.parametrize(
    "dies_in", ["write_release_copy", "append_line", "write_json", "delete_old_releases"]
)
def test_a_promotion_that_died_leaves_a_champion_and_is_finished_by_the_next(
    home, sealed, monkeypatch, dies_in
):
    old, new = sealed("aa"), sealed("bb")
    before = apply_promotion("tides", old, DECISION)

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(registry, dies_in, die)
        with pytest.raises(KeyboardInterrupt):
            apply_promotion("tides", new, DECISION)
    assert read_champion("tides").digest in {before.digest, "bb"}
    assert (get_champion_folder(read_champion("tides")) / "manifest.json").exists()
    assert apply_promotion("tides", new, DECISION).version == "1.1.0"
    assert [c.digest for c in read_journal("tides")] == ["aa", "bb"]


def test_a_journal_line_that_was_cut_off_counts_as_not_written(home, sealed):
    apply_promotion("tides", sealed("aa"), DECISION)
    journal = home / "registry/tides/journal.jsonl"
    with journal.open("a") as handle:
        handle.write('{"dataset": "ti')
    assert [c.digest for c in read_journal("tides")] == ["aa"]
    apply_promotion("tides", sealed("bb"), DECISION)
    assert [c.digest for c in read_journal("tides")] == ["aa", "bb"]


def test_a_record_that_cannot_be_read_says_where_and_what_to_do(home, sealed):
    apply_promotion("tides", sealed("aa"), DECISION)
    (home / "registry/tides/champion.json").write_text("{}")
    with pytest.raises(ReleaseError, match=r"champion\.json cannot be read.*journal"):
        read_champion("tides")


def test_promotions_at_the_same_time_take_turns(home, sealed):
    folders = [sealed(name) for name in ("aa", "bb", "cc", "dd")]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda folder: apply_promotion("tides", folder, DECISION), folders))
    assert sorted(c.version for c in read_journal("tides")) == ["1.0.0", "1.1.0", "1.2.0", "1.3.0"]
    assert read_champion("tides") == read_journal("tides")[-1]
