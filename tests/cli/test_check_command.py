"""`tidemill check` on a user's own code: a good example of each kind keeps all laws, and each
broken one is caught by the law that it breaks."""

import json
import re
import shutil
from pathlib import Path

import pytest
from ingest_runs import hourly
from typer.testing import CliRunner

from deployments.cli.app import app
from deployments.ops.check import parse_target
from tasks.core.errors import ParamsError

HOW_TO = Path(__file__).resolve().parents[2] / "docs/how-to"
DRIFT = re.search(r"```python\n(.*?)```", (HOW_TO / "add-a-model.md").read_text(), flags=re.DOTALL)[1]
FEATURE = """
import numpy as np


def above_yesterday(values):
    return values - np.concatenate([np.full(4, np.nan), values])[: len(values)]
"""
FRAME = """
import polars as pl


def weekend_load(frame):
    weekend = pl.col("event_time").dt.weekday() > 5
    return frame.select(pl.when(weekend).then("load").otherwise(0.0).alias("x"))["x"]
"""
SOURCE = """
import polars as pl


class Meters:
    def __init__(self, column="value"):
        self.column = column

    def read(self, path):
        rows = pl.read_csv(path, try_parse_dates=True)
        return rows.select("series_id", pl.col("event_time").cast(pl.Datetime("us", "UTC")), self.column)
"""
LOOKBACK = ("--lookback-steps", "4")
MODELS = {
    "looks ahead": (
        (
            "return select_last_values(self.schema, x) + ",
            "return select_last_values(self.schema, x[::-1]) + ",
        ),
        "a row's forecast does not depend on other rows",
    ),
    "another graph": (
        (' + self.learned["drift"]', ' + (1 if isinstance(x, np.ndarray) else 2) * self.learned["drift"]'),
        "saved, loaded and ONNX forecast the same",
    ),
    "not deterministic": (
        ("known.mean()", "known.mean() + np.random.default_rng().random()"),
        "the same seed gives the same bytes",
    ),
    "not finite": (
        ("float32)\n\n    def formula", "float32) * np.nan\n\n    def formula"),
        "forecasts are finite",
    ),
    "changes its input": (
        ("        change =", "        z[:] = np.nan_to_num(z)\n        change ="),
        "inputs stay unchanged",
    ),
    "not saved": (('self.learned["drift"] = ', "self.drift = "), "saved, loaded and ONNX forecast the same"),
    "needs many rows": (("known.mean() if len(known) else 0.0", "known[99]"), "few rows are enough to fit"),
}
FEATURES = {
    "peeks one step": ("values - np.roll(values, -1)", "later rows change nothing before"),
    "knows the mean of all": ("values - np.nanmean(values)", "later rows change nothing before"),
    "random": ("values + np.random.default_rng().random()", "it is deterministic"),
    "looks back further": (
        "values - np.concatenate([np.full(9, np.nan), values])[: len(values)]",
        "`lookback_steps` is enough",
    ),
    "needs two steps": ("np.append(np.nan, np.diff(values)) + values[1]", "one step and missing values"),
}
SOURCES = {
    "clock": (
        ("self.column)", "self.column).with_columns(known_at=pl.lit(datetime.now(UTC)))"),
        "the same file",
    ),
    "counts its calls": (
        ("        rows =", "        self.n = getattr(self, 'n', 0) + 1\n        rows ="),
        ("self.column)", "pl.col(self.column) * self.n)"),
        "name, its folder or other files",
    ),
    "its name": (
        ('"series_id"', 'pl.lit(path.name).alias("series_id")'),
        "name, its folder or other files",
    ),
    "infinite": (("self.column)", "pl.col(self.column) / 0)"), "finite values"),
}


@pytest.fixture
def check(extensions):
    def run(file, text, name, *options):
        (extensions / file).write_text(text)
        target = f"tasks/extensions/{file}:{name}"
        return CliRunner().invoke(app, ["check", target, *options], env={"COLUMNS": "240", "TERM": "dumb"})

    return run


def broken_laws(done):
    report = json.loads(done.stdout)
    assert done.exit_code == int(not report["passed"]), done.output
    broken = [law for law in report["laws"] if not law["passed"]]
    assert all(law["found"] and law["fix"] for law in broken)
    return [law["law"] for law in broken]


def test_a_good_model_keeps_all_laws_and_the_table_says_so(check):
    done = check("drift_good.py", DRIFT, "Drift")
    assert done.exit_code == 0, done.output
    assert "tasks/extensions/drift_good.py:Drift (model): keeps all 15 laws." in done.output
    assert re.search(r"constant data are forecast as they are .*passed .*7 is forecast as 7", done.output)


def test_only_the_laws_that_a_model_breaks_are_reported(check):
    text = DRIFT.replace(*MODELS["another graph"][0])
    assert broken_laws(check("drift_two.py", text, "Drift", "--json")) == [
        "saved, loaded and ONNX forecast the same",
        "any horizon and no season work",
    ]


@pytest.mark.parametrize("example", MODELS)
def test_a_broken_model_is_caught_by_its_law(check, example):
    change, law = MODELS[example]
    text = DRIFT.replace(*change)
    assert text != DRIFT
    done = check(f"drift_{example.replace(' ', '_')}.py", text, "Drift", "--json")
    assert any(name.startswith(law) for name in broken_laws(done)), done.output


def test_a_good_feature_keeps_all_laws(check):
    done = check("feature_good.py", FEATURE, "above_yesterday", "--lookback-steps", "4", "--json")
    assert broken_laws(done) == []
    frame = check(
        "frame_good.py", FRAME, "weekend_load", "--columns", "load", "--lookback-steps", "0", "--json"
    )
    assert broken_laws(frame) == []


@pytest.mark.parametrize("example", FEATURES)
def test_a_broken_feature_is_caught_by_its_law(check, example):
    result, law = FEATURES[example]
    text = FEATURE[: FEATURE.index("    return")] + f"    return {result}\n"
    done = check(
        f"{example.replace(' ', '_')}.py", text, "above_yesterday", "--lookback-steps", "4", "--json"
    )
    assert any(name.startswith(law) for name in broken_laws(done)), done.output


def test_a_feature_that_keeps_something_between_series_is_caught(check):
    text = FEATURE.replace("def above", "SEEN = []\n\n\ndef above").replace(
        "    return values", "    SEEN.append(1)\n    return len(SEEN) * values"
    )
    done = check("keeping.py", text, "above_yesterday", *LOOKBACK, "--json")
    assert {"a series alone has the same features", "it is deterministic"} <= set(broken_laws(done))


@pytest.fixture
def meters(tmp_path):
    for name in ("north", "south"):
        hourly([1.0, 2.0, 3.0], name).drop("known_at").write_csv(tmp_path / f"{name}.csv")
    return str(tmp_path / "*.csv")


def test_a_good_source_keeps_all_laws(check, meters):
    done = check(
        "meters.py", SOURCE, "Meters", "--files", meters, "--params", '{"column": "value"}', "--json"
    )
    assert broken_laws(done) == []


@pytest.mark.parametrize("example", SOURCES)
def test_a_broken_source_is_caught_by_its_law(check, meters, example):
    *changes, law = SOURCES[example]
    text = "from datetime import UTC, datetime\n" + SOURCE
    for change in changes:
        text = text.replace(*change)
    done = check(f"{example.replace(' ', '_')}.py", text, "Meters", "--files", meters, "--json")
    assert any(law in name for name in broken_laws(done)), done.output


@pytest.mark.parametrize(
    ("text", "name", "options", "message"),
    [
        (DRIFT, "Drfit", (), "has no 'Drfit'"),
        (DRIFT.replace("import numpy", "import no_such_library"), "Drift", (), "needs 'no_such_library'"),
        (DRIFT, "Drift", ("--params", '{"k": 3}'), "Its parameters are"),
        (DRIFT, "Drift", ("--params", "k=3"), "is not JSON"),
        (FEATURE, "above_yesterday", (), "Give --lookback-steps"),
        ("import pandas\n" + FEATURE, "above_yesterday", ("--lookback-steps", "4"), "only its text travels"),
        (SOURCE, "Meters", (), "Give --files"),
        (SOURCE, "Meters", ("--files", "x.csv", "--params", '{"k": 3}'), "does not take the options ['k']"),
        ("x = 3\n", "x", (), "neither a class nor a function"),
        ("class Empty: pass\n", "Empty", (), "does not fit"),
    ],
)
def test_what_cannot_be_loaded_ends_with_code_2_and_the_way_out(check, text, name, options, message):
    done = check("unfit.py", text, name, *options)
    assert done.exit_code == 2, done.output
    assert message in done.stderr


def test_an_entry_of_params_yaml_says_what_a_function_reads(check, tmp_path, monkeypatch):
    from deployments.ops import check as module

    entry = {"kind": "function", "of": "declared:above_yesterday", "column": "close", "lookback_steps": 4}
    document = {"datasets": {"mine": {"features": {"list": [entry]}}}}
    monkeypatch.setattr(module, "read_document", lambda _root: document)
    assert broken_laws(check("declared.py", FEATURE, "above_yesterday", "--json")) == []


@pytest.mark.parametrize(
    "form", ["tasks/extensions/x.py:F", "extensions/x.py:F", "x.py:F", "x:F", "own/x.py:F"]
)
def test_a_target_is_relative_to_the_checkout_to_tasks_or_to_the_folder(form):
    assert parse_target(form) == ("x", "F")


@pytest.mark.parametrize("form", ["x.py", "x.py:", "tasks/train/x.py:F", "../x.py:F", "/x.py:F"])
def test_a_target_elsewhere_is_refused(form):
    if form == "tasks/train/x.py:F":
        assert parse_target(form) == ("tasks.train.x", "F")  # a module of that name, if there is one
    else:
        with pytest.raises(ParamsError):
            parse_target(form)


def test_a_file_in_a_folder_below_is_found(check, extensions):
    (extensions / "mine").mkdir()
    done = check("mine/drift_below.py", DRIFT, "Drift", "--json")
    assert broken_laws(done) == []
    shutil.rmtree(extensions / "mine")
