"""The SBOM names every package of the Bento's lock, every file of the release, and no more."""

import json
from datetime import UTC, datetime

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.requirements import Requirement
from small_release import build_small_release

from tasks.edges.settings import ROOT
from tasks.package.bento import REQUIREMENTS
from tasks.package.sbom import read_lock, render_sbom

LOCK = (ROOT / REQUIREMENTS).read_text()
BUILT_AT = datetime(2026, 11, 30, tzinfo=UTC)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return build_small_release(tmp_path_factory.mktemp("sbom") / "release")


def test_it_is_valid_and_the_same_for_the_same_release(manifest):
    text = render_sbom(manifest, LOCK, BUILT_AT)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    assert render_sbom(manifest, LOCK, BUILT_AT) == text
    assert "://" not in text.replace("http://cyclonedx.org/schema/", "")  # the address of no index


def test_it_has_the_packages_of_the_lock_with_all_their_hashes_and_the_files_of_the_release(manifest):
    """Oracle: lines of the lock read by their form."""
    document = json.loads(render_sbom(manifest, LOCK, BUILT_AT))
    lines = [line for line in LOCK.splitlines() if line[:1].isalnum()]
    pinned = {"pkg:pypi/" + line.split(";")[0].split(" ")[0].replace("==", "@") for line in lines}
    assert {component["purl"] for component in document["components"]} == pinned
    hashes = [h for c in document["components"] for r in c["externalReferences"] for h in r["hashes"]]
    assert sorted(h["content"] for h in hashes) == sorted(
        line.split("sha256:")[1].split()[0] for line in LOCK.splitlines() if "--hash=sha256:" in line
    )
    release = document["metadata"]["component"]
    assert {f["name"]: f["hashes"][0]["content"] for f in release["components"]} == manifest.files


def test_the_release_depends_on_what_the_requirements_name_and_each_package_on_what_it_requires(manifest):
    document = json.loads(render_sbom(manifest, LOCK, BUILT_AT))
    asked = {
        Requirement(line).name
        for line in (ROOT / "deployments/forecaster/requirements.txt").read_text().splitlines()
        if line and not line.startswith("#")
    }
    required = {entry["ref"]: set(entry.get("dependsOn", ())) for entry in document["dependencies"]}
    assert {ref.split("/")[1].split("@")[0] for ref in required["release"]} == asked
    (starlette,) = (ref for ref in required if "/starlette@" in ref)
    assert any("/anyio@" in ref for ref in required[starlette])
    reached, waiting = set(), ["release"]
    while waiting:
        ref = waiting.pop()
        waiting += [other for other in required.get(ref, ()) if other not in reached]
        reached.add(ref)
    assert reached >= {component["bom-ref"] for component in document["components"]}  # none without a reason


def test_a_lock_with_two_versions_of_a_package_has_both():
    lock = "a==1.0 ; python_version < '3.12' \\\n    --hash=sha256:" + "0" * 64 + "\n    # via b\n"
    lock += (
        "a==2.0 \\\n    --hash=sha256:" + "1" * 64 + "\n    # via\n    #   -r requirements.txt\n    #   b\n"
    )
    first, second = read_lock(lock)
    assert (first.version, first.requirers, first.is_direct) == ("1.0", ("b",), False)
    assert (second.version, second.requirers, second.is_direct) == ("2.0", ("b",), True)
    assert first.marker == 'python_version < "3.12"'
