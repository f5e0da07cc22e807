"""Only a release that verifies, and that answers, becomes champion again."""

import shutil

import pytest
from homes import at_home
from reports import gate_decision
from small_release import build_small_release

from tasks.core.errors import ReleaseError, ReleaseNotKeptError
from tasks.edges.registry import apply_promotion, read_champion
from tasks.edges.release_files import SIGNATURE, get_release_folder
from tasks.release import warm_up, write_manifest
from tasks.release.kept import apply_deployment, apply_rollback, get_kept_release, list_releases
from tasks.release.manifest import read_manifest


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Two releases that answer, and one whose graph is none: sealed as it is, it verifies."""
    folder = tmp_path_factory.mktemp("built")
    build_small_release(folder / "first", weights={"ridge": 1.0})
    build_small_release(folder / "second", weights={"last_value": 1.0})
    shutil.copytree(folder / "first", folder / "mute")
    (folder / "mute/members/ridge.onnx").write_bytes(b"no graph")
    write_manifest(folder / "mute")
    return folder


@pytest.fixture
def promoted(built, tmp_path):
    """Versions 1.0.0 (first), 1.0.1 (mute: only data differ) and 1.1.0 (second, the champion)."""
    with at_home(tmp_path / "home", TIDEMILL_OPERATOR="ada"):
        for name in ("first", "mute", "second"):
            decision = gate_decision(as_of=read_manifest(built / name).as_of)
            apply_promotion("small", built / name, decision)
        yield built


def test_a_release_that_verifies_and_does_not_answer_stays_where_it_is(promoted):
    assert [r.version for r in list_releases("small")] == ["1.1.0", "1.0.1", "1.0.0"]
    with pytest.raises(ReleaseError, match=r"no graph that onnxruntime.*kept: 1\.1\.0, 1\.0\.1, 1\.0\.0"):
        apply_rollback("small", None, "grace", "worse")
    assert read_champion("small").version == "1.1.0"
    assert apply_rollback("small", "1.0.0", "grace", "worse").version == "1.0.0"


def test_a_release_that_never_answers_is_ended(promoted, monkeypatch):
    monkeypatch.setattr(warm_up, "LIMIT_S", 0.05)
    with pytest.raises(ReleaseError, match="has not answered within"):
        apply_deployment("small", "1.0.0", "grace", "again")
    assert read_champion("small").version == "1.1.0"


def test_an_old_release_under_a_new_name_is_refused(promoted):
    """All of its bytes are those of a release that was signed here."""
    first, second = (get_kept_release("small", name)[0] for name in ("1.0.0", "1.1.0"))
    target = get_release_folder(second.digest)
    apply_rollback("small", "1.0.0", "grace", "worse")
    shutil.rmtree(target)
    shutil.copytree(get_release_folder(first.digest), target)
    assert (target / SIGNATURE).exists()
    with pytest.raises(ReleaseError, match="it is another release under this name"):
        apply_deployment("small", "1.1.0", "grace", "again")
    assert read_champion("small").version == "1.0.0"


def test_a_name_is_a_version_or_the_beginning_of_a_digest(promoted):
    record, folder = get_kept_release("small", "1.0.0")
    assert get_kept_release("small", record.digest[:8]) == (record, folder)
    for name in (record.digest[:5], "1.0", "", ".."):
        with pytest.raises(ReleaseNotKeptError) as caught:
            get_kept_release("small", name)
        assert caught.value.kept == ("1.1.0", "1.0.1", "1.0.0")
