"""Every command explains itself, speaks JSON, and ends with one clean message when a person has
to act."""

import json
import re
import socket
import subprocess
import sys

import pytest
from small_checkout import small_checkout
from typer.testing import CliRunner

from deployments.cli.app import app
from tasks.edges.params import STAGES

COMMANDS = (
    "run",
    "up",
    "down",
    "forecast",
    "status",
    "refresh",
    "page",
    "docs",
    "doctor",
    "new",
    "use",
    "datasets",
    "leaks",
    "schema",
    "replay",
    "simulate",
    "check",
    "logs",
    "remove",
    "releases",
    "rollback",
    "diff",
    "backtest",
    "restore",
    "approvals",
    "approve",
    "reject",
)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    ports = {f"TIDEMILL_{name}_PORT": str(_free_port()) for name in ("PREFECT", "MLFLOW", "SERVICE")}
    return small_checkout(tmp_path_factory.mktemp("cli"), **ports)


def test_help_lists_every_command():
    listed = CliRunner().invoke(app, ["--help"]).output
    assert all(re.search(rf"\b{command}\b", listed) for command in COMMANDS)
    assert len(app.registered_commands) == len(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_json(command):
    done = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert done.exit_code == 0
    assert "--json" in done.output


def test_help_imports_nothing_heavy():
    """`--help` answers at once, so a heavy import in one command must not reach the others."""
    code = (
        "import sys, deployments.cli.app; print(*sorted({'prefect', 'polars', 'mlflow', 'bentoml', 'numpy',"
        " 'pydantic', 'httpx'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_status_and_datasets_before_any_run(checkout):
    found = json.loads(checkout.tidemill("status", "--json").stdout)
    assert found["champion"] is None
    assert found["running"] == {}
    assert found["dataset"] in [
        row["name"] for row in json.loads(checkout.tidemill("datasets", "--json").stdout)
    ]
    assert "none yet" in checkout.tidemill("status").stdout


def test_a_forecast_without_a_champion_says_what_to_do(checkout):
    done = checkout.tidemill("forecast", "--json", code=2)
    assert done.stdout == ""
    assert done.stderr.startswith("ReleaseError: No champion")
    assert "tidemill run" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_dataset_is_refused_before_anything_starts(checkout):
    done = checkout.tidemill("run", "--dataset", "tides", code=2)
    assert "tides" in done.stderr
    assert not (checkout.home / "prefect").exists()


def test_down_with_nothing_up_stops_nothing(checkout):
    assert json.loads(checkout.tidemill("down", "--json").stdout) == {"stopped": []}


def test_up_refuses_a_port_that_somebody_holds(checkout):
    port = int(checkout.settings["TIDEMILL_SERVICE_PORT"])
    with socket.create_server(("127.0.0.1", port)):
        done = checkout.tidemill("up", code=2)
    assert f"port {port} is held by" in done.stderr
    assert "TIDEMILL_SERVICE_PORT" in done.stderr
    assert not (checkout.home / "up" / "state.json").exists()


def test_when_prefect_cannot_start_the_error_says_why_and_the_way_without_it(checkout):
    done = checkout.tidemill(
        "run", code=2, PREFECT_API_DATABASE_CONNECTION_URL="sqlite+aiosqlite:////no/such/folder/prefect.db"
    )
    assert "unable to open database file" in done.stderr
    assert "`dvc repro` does the same work without Prefect" in done.stderr
    assert checkout.alive() == []


def test_a_named_server_that_is_not_there_is_said(checkout):
    nowhere = f"http://127.0.0.1:{_free_port()}/api"
    done = checkout.tidemill("run", code=2, PREFECT_API_URL=nowhere)
    assert f"PREFECT_API_URL is {nowhere}, and nothing answers there" in done.stderr


def test_every_stage_has_figures_to_show():
    from flows._artifacts import SHOWN

    assert tuple(SHOWN) == STAGES


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
