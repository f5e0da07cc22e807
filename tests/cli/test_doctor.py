"""`tidemill doctor` finds planted faults, says what to do, and ends with 1; a sound checkout
passes."""

import json
import re
import shutil
import socket
import subprocess
import sys
from datetime import UTC, datetime

import pytest
from reports import gate_decision
from servers import at
from small_checkout import small_checkout
from small_release import build_small_release

from tasks.edges.params import read_dataset
from tasks.edges.registry import apply_promotion, get_champion_folder


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    ports = {}
    for name in ("PREFECT", "MLFLOW", "SERVICE"):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            ports[f"TIDEMILL_{name}_PORT"] = str(probe.getsockname()[1])
    return small_checkout(tmp_path_factory.mktemp("doctor"), **ports)


def _wrong(checkout, **environment):
    """What doctor calls wrong, by name; its exit code must agree."""
    done = subprocess.run(
        [sys.executable, "-m", "deployments.cli", "doctor", "--json"],
        cwd=checkout.root,
        env={**checkout.environment, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    wrong = {found["what"]: found for found in json.loads(done.stdout) if not found["well"]}
    assert done.returncode == (1 if wrong else 0)
    assert all(found["advice"] for found in wrong.values())
    return wrong


def test_a_sound_checkout_passes_and_its_room_is_shown(checkout):
    done = checkout.tidemill("doctor")
    assert "WRONG" not in done.stdout
    assert "room:" in done.stdout


def test_a_taken_port_is_named_with_its_holder_and_its_setting(checkout):
    port = int(checkout.settings["TIDEMILL_MLFLOW_PORT"])
    with socket.create_server(("127.0.0.1", port)):
        wrong = _wrong(checkout)
    assert list(wrong) == [f"port {port} (mlflow)"]
    assert "TIDEMILL_MLFLOW_PORT" in wrong[f"port {port} (mlflow)"]["advice"]


def test_a_python_that_keeps_no_compiled_code_is_slow_and_named(checkout):
    assert list(_wrong(checkout, PYTHONDONTWRITEBYTECODE="1")) == ["bytecode"]


def test_another_version_than_the_locked_one_is_named(checkout):
    lock = checkout.root / "requirements.lock"
    sound = lock.read_text()
    lock.write_text(re.sub(r"^httpx==\S+", "httpx==0.0.1", sound, flags=re.MULTILINE))
    wrong = _wrong(checkout)
    lock.write_text(sound)
    assert "httpx is " in wrong["versions"]["found"]


def test_a_path_without_git_is_found(checkout):
    assert _wrong(checkout, PATH="/no/such/folder")["program git"]["found"] == "not found"


def test_a_dataset_without_an_entry_is_found(checkout):
    params = checkout.root / "params.yaml"
    sound = params.read_text()
    params.write_text(re.sub(r"^dataset: .*", "dataset: nowhere", sound, flags=re.MULTILINE))
    wrong = _wrong(checkout)
    params.write_text(sound)
    assert "nowhere" in wrong["params"]["found"]


def test_a_lock_that_dvc_left_behind_is_found(checkout):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    lock = checkout.root / ".dvc" / "tmp" / "rwlock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.write_text(json.dumps({"write": {"data/raw": {"pid": gone.pid, "cmd": "dvc repro"}}}))
    wrong = _wrong(checkout)
    lock.write_text("")
    broken = _wrong(checkout)
    lock.unlink()
    assert f"left by process {gone.pid}" in wrong["dvc lock"]["found"]
    assert f"{lock} cannot be read" in broken["dvc lock"]["found"]


def test_what_a_killed_supervisor_left_is_found_and_down_clears_it(checkout):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    state = checkout.home / "up" / "state.json"
    state.parent.mkdir(parents=True, exist_ok=True)
    state.write_text(json.dumps({"supervisor": {"name": "supervisor", "pid": gone.pid, "started": 1.0}}))
    assert "left-over processes" in _wrong(checkout)
    checkout.tidemill("down")
    assert _wrong(checkout) == {}


def test_what_mlflow_refuses_or_cannot_take_now_is_named_with_the_next_step(checkout):
    """Left by a real delivery to an address where nothing answers."""
    code = (
        "from tasks.edges.mlflow_delivery import publish_runs; from tasks.edges.tracking import *;"
        " log_run('e', 'r', {}, {}, {'tidemill.data': 'd'}); publish_runs()"
    )
    away = {"TIDEMILL_MLFLOW_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    checkout.run(sys.executable, "-c", code, **away)
    wrong = _wrong(checkout, **away)["mlflow"]
    assert "1 entries wait" in wrong["found"]
    assert "TIDEMILL_MLFLOW_URI" in wrong["advice"]
    (entry,) = (checkout.home / "mlflow" / "outbox").iterdir()
    (entry / "refused.json").write_text(json.dumps({"reason": "Invalid value"}))
    (checkout.home / "mlflow" / "refused").mkdir()
    entry.rename(checkout.home / "mlflow" / "refused" / entry.name)
    wrong = _wrong(checkout, **away)["mlflow"]
    assert f"refused: {entry.name}: Invalid value" in wrong["found"]
    assert "outbox" in wrong["advice"]
    shutil.rmtree(checkout.home / "mlflow")


def test_a_champion_whose_files_have_changed_is_named(checkout, tmp_path):
    dataset = read_dataset(checkout.root)
    build_small_release(tmp_path / "release", dataset=dataset)
    with at(checkout.home):
        folder = get_champion_folder(
            apply_promotion(
                dataset, tmp_path / "release", gate_decision(as_of=datetime(2024, 1, 2, tzinfo=UTC))
            )
        )
    assert "champion" not in _wrong(checkout)
    (folder / "schema.json").write_text("{}")
    wrong = _wrong(checkout)["champion"]
    assert "schema.json was altered" in wrong["found"]
    assert "dvc repro -f -s promote" in wrong["advice"]
    shutil.rmtree(checkout.home / "registry")
