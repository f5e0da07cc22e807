"""The structure itself: one word in six places, contracts hold, documented commands exist,
imports resolve here."""

import ast
import importlib
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from tasks.edges.params import STAGES, read_document
from tasks.forecasters import FORECASTERS

ROOT = Path(__file__).resolve().parents[2]
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("package", ["tasks", "flows", "deployments"])
def test_imports_resolve_into_this_checkout(package):
    found = importlib.import_module(package).__path__
    assert [Path(p) for p in found] == [ROOT / package]


def test_one_word_names_a_step_in_six_places():
    stages = list(STAGES)
    document = read_document().content
    headings = re.findall(
        r"^#+ .*?\b(" + "|".join(stages) + r")\b", (ROOT / "docs/tour.md").read_text(), flags=re.MULTILINE
    )
    assert [p.parent.name for p in sorted(ROOT.glob("tasks/*/__main__.py"))] == sorted(stages)
    assert list(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]) == stages
    assert [key for key in document if key in stages] == stages
    assert all((ROOT / "tests" / stage).is_dir() for stage in stages)
    assert list(dict.fromkeys(headings)) == stages
    for name, entry in document["datasets"].items():
        assert [key for key in entry if key in stages] == stages, name


def test_every_stage_package_has_the_same_shape():
    for stage in STAGES:
        files = {p.name for p in (ROOT / "tasks" / stage).glob("*.py")}
        assert {"__init__.py", "__main__.py", "stage.py", "params.py"} <= files, stage


def test_the_house_keeps_its_contracts():
    done = subprocess.run(
        [shutil.which("lint-imports", path=str(Path(sys.executable).parent))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_the_contract_that_names_prefect_and_bentoml_forbids_both():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (about_both,) = [c for c in contracts if c["name"] == "tasks know neither Prefect nor BentoML"]
    assert set(about_both["forbidden_modules"]) == {"prefect", "bentoml"}


def test_only_settings_reads_the_environment_and_only_params_reads_params_yaml():
    for path in [p for top in ("tasks", "flows", "deployments") for p in (ROOT / top).rglob("*.py")]:
        # run_stage puts this environment's bin first on the PATH it was given
        if path.name in {"settings.py", "run_stage.py"}:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
                assert node.attr not in {
                    "environ",
                    "getenv",
                }, f"{path} reads the environment; ask tasks.edges.settings"


def test_no_code_asks_for_a_dataset_by_name():
    names = set(read_document().content["datasets"])
    for path in [p for top in ("tasks", "flows", "deployments") for p in (ROOT / top).rglob("*.py")]:
        strings = {
            n.value
            for n in ast.walk(ast.parse(path.read_text()))
            if isinstance(n, ast.Constant) and isinstance(n.value, str)
        }
        assert not strings & names, path


def test_every_listed_model_is_a_forecaster():
    for name, entry in read_document().content["datasets"].items():
        assert {(params or {}).get("forecaster", model) for model, params in entry["models"].items()} <= set(
            FORECASTERS
        ), name


def test_documented_make_targets_and_commands_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    listed = subprocess.run(
        [sys.executable, "-m", "deployments.cli", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for path in DOCS:
        text = path.read_text()
        assert set(re.findall(r"`make ([a-z-]+)", text)) <= targets, path
        for command in set(re.findall(r"`tidemill ([a-z]+)", text)):
            assert re.search(rf"\b{command}\b", listed), f"{path} names `tidemill {command}`"


def test_documented_files_exist():
    for path in DOCS:
        for link in re.findall(r"\]\((?!http|#)([^)#]+)", path.read_text()):
            assert (path.parent / link).exists(), f"{path} links to {link}"


def test_no_tracked_file_holds_a_registry_address():
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    pattern = re.compile(r"(index.url|find.links|extra.index)=|https?://[^ ]*/(?:simple|maven2)\b")
    for name in filter(None, listed):
        path = ROOT / name
        if path.is_file() and path.suffix in {"", ".py", ".toml", ".lock", ".txt", ".yaml", ".md", ".cfg"}:
            assert not pattern.search(path.read_text(errors="ignore")), name


def test_the_lock_has_a_hash_for_each_package():
    text = (ROOT / "requirements.lock").read_text()
    pins = re.findall(r"^[a-z0-9._-]+==", text, flags=re.MULTILINE | re.IGNORECASE)
    assert len(pins) > 100
    assert len(re.findall(r"==[^\n]*\\\n    --hash=sha256:", text)) == len(pins)


def test_no_run_of_one_machine_is_in_the_repository():
    """DVC refuses a `dvc.lock` that is ignored by git, so `git add -A` takes it along."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "dvc.lock" not in tracked.splitlines()
