import json
import shutil

import pytest
from small_release import build_small_release

from tasks.core.errors import ReleaseError
from tasks.release import check_manifest, load_release, load_unsealed_release, write_manifest
from tasks.release.manifest import list_covered_files


@pytest.fixture(scope="module")
def sealed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sealed") / "release"
    build_small_release(folder)
    return folder


@pytest.fixture
def release(sealed, tmp_path):
    shutil.copytree(sealed, tmp_path / "release")
    return tmp_path / "release"


def test_seal_gives_the_same_digest_twice(tmp_path):
    first, second = (build_small_release(tmp_path / name) for name in ("a", "b"))
    assert first == second
    assert write_manifest(tmp_path / "a") == first


def test_digest_changes_with_what_changes_answers_only(release):
    before = check_manifest(release).digest
    (release / "provenance.json").write_text("{}")
    (release / "bento").mkdir()
    (release / "bento/anything").write_text("else")
    assert check_manifest(release).digest == before
    blend = json.loads((release / "ensemble.json").read_text())
    (release / "ensemble.json").write_text(json.dumps({**blend, "adapt_rate": 0.05}))
    assert write_manifest(release).digest != before


def test_one_changed_byte_in_any_covered_file_is_refused_by_name(sealed, release):
    names = list_covered_files(sealed)
    assert {"rows.parquet", "history.parquet", "members/ridge.onnx", "about.json"} <= set(names)
    for name in names:
        content = bytearray((sealed / name).read_bytes())
        content[len(content) // 2] ^= 1
        (release / name).write_bytes(content)
        with pytest.raises(ReleaseError, match=name.replace(".", r"\.")):
            load_release(release)
        shutil.copyfile(sealed / name, release / name)
    load_release(release)


def test_missing_and_added_files_are_refused_by_name(release):
    (release / "members/extra.onnx").write_bytes(b"x")
    with pytest.raises(ReleaseError, match=r"members/extra\.onnx was added"):
        check_manifest(release)
    (release / "members/extra.onnx").unlink()
    (release / "history.parquet").unlink()
    with pytest.raises(ReleaseError, match=r"history\.parquet is missing"):
        check_manifest(release)


def test_an_altered_manifest_is_refused(release):
    said = json.loads((release / "manifest.json").read_text())
    (release / "manifest.json").write_text(json.dumps({**said, "model": "another"}))
    with pytest.raises(ReleaseError, match=r"manifest\.json was altered"):
        check_manifest(release)
    (release / "manifest.json").write_text(json.dumps({**said, "approved": True}))
    with pytest.raises(ReleaseError, match="approved"):
        check_manifest(release)


def test_a_release_whose_features_this_code_no_longer_computes_is_refused(release):
    schema = json.loads((release / "schema.json").read_text())
    schema["columns"][0]["lookback_steps"] += 1
    (release / "schema.json").write_text(json.dumps(schema))
    with pytest.raises(ReleaseError, match="computes other features") as caught:
        load_unsealed_release(release)
    assert schema["columns"][0]["name"] in str(caught.value)


def test_a_weight_without_its_graph_and_a_broken_graph_are_refused_by_name(release):
    (release / "members/ridge.onnx").write_bytes(b"no graph")
    with pytest.raises(ReleaseError, match=r"ridge\.onnx is no graph"):
        load_unsealed_release(release)
    (release / "members/ridge.onnx").unlink()
    with pytest.raises(ReleaseError, match=r"ridge\.onnx is missing"):
        load_unsealed_release(release)


def test_a_body_opens_without_rows_and_manifest(release):
    (release / "rows.parquet").unlink()
    (release / "manifest.json").unlink()
    body = load_unsealed_release(release)
    assert body.rows.is_empty()
    assert body.manifest is None
