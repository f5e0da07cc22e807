"""A promoted release is signed, and is loaded only as it was signed."""

import json
import shutil
import stat
import subprocess
import sys

import pytest
from homes import at_home
from reports import gate_decision
from small_release import build_small_release

from tasks.core.errors import ReleaseError, SettingsError
from tasks.edges.registry import apply_promotion, get_champion_folder, read_champion
from tasks.edges.release_files import BUNDLE, SIGNATURE
from tasks.edges.signatures import sign_release
from tasks.release import check_manifest, load_release
from tasks.release.kept import apply_rollback


@pytest.fixture(scope="module")
def promoted(tmp_path_factory):
    """A home whose champion has all that a release can have; a second release is not promoted."""
    folder = tmp_path_factory.mktemp("promoted")
    for name, weights in (("built", {"ridge": 1.0}), ("other", {"last_value": 1.0})):
        as_of = build_small_release(folder / name, weights=weights).as_of
        (folder / name / "model_card.md").write_text("# card\n")
        (folder / name / "bento/src").mkdir(parents=True)
        (folder / name / "bento/src/service.py").write_text("# code\n")
    with at_home(folder / "home"):
        apply_promotion("small", folder / "built", gate_decision(as_of=as_of))
    return folder


@pytest.fixture
def folder(promoted, tmp_path):
    """The champion's folder, in a copy of the home."""
    shutil.copytree(promoted, tmp_path, dirs_exist_ok=True)
    with at_home(tmp_path / "home"):
        yield get_champion_folder(read_champion("small"))


def test_the_key_is_made_at_the_first_promotion_and_is_its_owners_alone(folder, tmp_path):
    key = tmp_path / "home/signing.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    public = json.loads((folder / SIGNATURE).read_text())["public_key"]
    assert (tmp_path / "home/signing.pub").read_text().split() == [public]
    assert read_champion("small").signed_by == public
    load_release(folder)


def test_one_flipped_byte_in_any_file_is_refused_by_name(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) >= 10
    for path in files:
        content = path.read_bytes()
        index = len(content) // 2
        path.write_bytes(content[:index] + bytes([content[index] ^ 1]) + content[index + 1 :])
        with pytest.raises(ReleaseError, match=path.name.replace(".", r"\.")):
            check_manifest(folder)
        path.write_bytes(content)
    check_manifest(folder)


def test_an_added_file_a_link_and_a_missing_one_are_refused_by_name(folder):
    for name in ("extra", "bento/src/extra.py", "nested/manifest.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}")
        with pytest.raises(ReleaseError, match="was added after the release was signed"):
            check_manifest(folder)
        (folder / name).unlink()
    card = folder / "model_card.md"
    card.rename(folder.parent / "card")
    with pytest.raises(ReleaseError, match=r"model_card\.md was removed"):
        check_manifest(folder)
    card.symlink_to(folder.parent / "card")
    with pytest.raises(ReleaseError, match="is a link"):
        check_manifest(folder)


def test_the_tool_of_others_verifies_the_bundle_and_refuses_a_changed_file(folder, tmp_path):
    """Oracle: the command of OpenSSF model signing."""
    verify = [sys.executable, "-m", "model_signing", "verify", "key", str(folder)]
    verify += ["--signature", str(folder / BUNDLE), "--public_key", str(tmp_path / "home/signing.p256.pub")]
    done = subprocess.run(verify, capture_output=True, text=True, check=False)
    assert "Verification succeeded" in done.stdout, done.stdout + done.stderr
    path = folder / "model_card.md"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    done = subprocess.run(verify, capture_output=True, text=True, check=False)
    assert "Verification failed" in done.stdout + done.stderr


def test_what_python_writes_into_a_bento_that_runs_there_changes_nothing(folder):
    (folder / "bento/src/__pycache__").mkdir()
    (folder / "bento/src/__pycache__/service.cpython-311.pyc").write_bytes(b"compiled")
    check_manifest(folder)


def test_the_signature_of_another_key_or_release_is_refused(folder, tmp_path):
    ours = (folder / SIGNATURE).read_text()
    (tmp_path / "other" / SIGNATURE).write_text(ours)
    with pytest.raises(ReleaseError, match="after the release was signed"):
        check_manifest(tmp_path / "other")
    for text in ("", "{}", ours.replace('"signature": "', '"signature": "00')):
        (folder / SIGNATURE).write_text(text)
        with pytest.raises(ReleaseError, match=r"signature\.json does not hold"):
            check_manifest(folder)
    with at_home(tmp_path / "elsewhere"):
        sign_release(folder)
    with at_home(tmp_path / "home"), pytest.raises(ReleaseError, match="is not trusted here"):
        check_manifest(folder)
    with at_home(tmp_path / "home", TIDEMILL_TRUSTED_KEYS=str(tmp_path / "elsewhere/signing.pub")):
        check_manifest(folder)


def test_a_key_that_others_can_read_signs_nothing(folder, tmp_path):
    key, decision = tmp_path / "home/signing.key", read_champion("small").decision
    key.chmod(0o640)
    with pytest.raises(SettingsError, match="chmod 600"):
        apply_promotion("small", tmp_path / "other", decision)
    key.chmod(0o600)
    key.write_text("no key")
    with pytest.raises(SettingsError, match="no private key as PEM"):
        apply_promotion("small", tmp_path / "other", decision)


def test_a_release_of_before_there_were_signatures_is_loaded_and_signed_when_gone_back_to(folder, tmp_path):
    (folder / SIGNATURE).unlink()
    load_release(folder)
    apply_promotion("small", tmp_path / "other", read_champion("small").decision)
    back = apply_rollback("small", None, "grace", "worse")
    assert back.signed_by == json.loads((folder / SIGNATURE).read_text())["public_key"]


def test_a_machine_without_any_key_compares_the_files_alone(folder, tmp_path):
    """A signed release that was copied there starts as before."""
    with at_home(tmp_path / "elsewhere"):
        load_release(folder)
        (folder / "model_card.md").write_text("# other\n")
        with pytest.raises(ReleaseError, match=r"model_card\.md was changed"):
            load_release(folder)
