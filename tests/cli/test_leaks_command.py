"""`tidemill leaks` on a user's own function and data: exit code 1 and what is wrong, 0 when
nothing is, 2 when it cannot look."""

import json

import leak_runs as runs
import polars as pl
import pytest
from typer.testing import CliRunner

from deployments.cli.app import app
from deployments.ops.leaks import build_leak_report

MINE = (
    "import numpy as np\ndef smoothed(values):\n    return np.convolve(values, np.ones(5) / 5)[: len(values)]"
    " if len(values) > 4 else values * np.nan\n"
)
MINE += (
    "def centred(values):\n    return np.convolve(values, np.ones(5) / 5)[2:][: len(values)] if len(values) >"
    " 4 else values * np.nan\n"
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A user's own folder: a module and a file."""
    (tmp_path / "my_module.py").write_text(MINE)
    runs.loads().write_csv(tmp_path / "loads.csv")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def leaks(*arguments):
    return CliRunner().invoke(
        app,
        ["leaks", "--csv", "loads.csv", "--target", "load", *arguments],
        env={"COLUMNS": "200", "TERM": "dumb"},
    )


def test_a_function_of_ones_own_is_looked_at_on_ones_own_file(folder):
    before = sorted(folder.iterdir())
    done = leaks("--function", "my_module:centred", "--lookback-steps", "4")
    assert done.exit_code == 1
    assert "look_ahead" in done.output
    assert "'z_centred_4' of series 'north' at the cutoff" in done.output
    assert leaks("--function", "my_module:smoothed", "--lookback-steps", "4").exit_code == 0
    assert sorted(folder.iterdir()) == before


def test_it_speaks_json_and_says_what_it_looked_at(folder):
    done = leaks("--function", "my_module:smoothed", "--lookback-steps", "2", "--json")
    said = json.loads(done.stdout)
    assert done.exit_code == 1
    assert [(f["rule"], f["feature"]) for f in said["findings"]] == [("lookback", "z_smoothed_2")]
    assert said["checks"]["recomputed"]["n_cutoffs"] > 60


def test_all_that_the_wizard_declares_passes(folder):
    done = leaks()
    assert done.exit_code == 0, done.output
    assert "No leak found." in done.output


def test_a_module_that_is_not_there_is_said(folder):
    done = leaks("--function", "other:f")
    assert done.exit_code == 2
    assert "needs the file tasks/extensions/other.py" in done.stderr


def test_the_current_dataset_is_looked_at_as_train_would_read_it(tmp_path):
    """Before the stage has run, and after it; a table that somebody touched is what is looked
    at, not a fresh one."""
    root = runs.root_of(tmp_path, runs.loads(), [{"kind": "lag", "column": "z", "steps": [1]}])
    fresh = build_leak_report(root=root)
    runs.verdict_of(root)
    built = build_leak_report(root=root)
    assert fresh == built
    assert (built.findings, built.checks["overlap"]["n_folds"]) == ((), 4)
    path = root / "data/features/table.parquet"
    pl.read_parquet(path).with_columns(pl.col("z_lag_1").shift(-2).over("series_id")).write_parquet(path)
    assert {(f.rule, f.feature) for f in build_leak_report(root=root).findings} == {
        ("not_repeatable", "z_lag_1")
    }
