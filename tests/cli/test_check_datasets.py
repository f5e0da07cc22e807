"""`tidemill check` names every fault of params.yaml before anything runs, and so does doctor."""

import json
import re

import pytest
import yaml
from preloaded_cli import preload_cli
from small_checkout import small_checkout

CURRENT = "index_volatility"
FUNCTION = {"kind": "function", "of": "gone:f", "column": "z", "lookback_steps": 1}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    with preload_cli(small_checkout(tmp_path_factory.mktemp("checked"))) as found:
        yield found


@pytest.fixture
def params(checkout):
    """params.yaml, put back afterwards."""
    path = checkout.root / "params.yaml"
    sound = path.read_text()
    yield path
    path.write_text(sound)


def change(path, **changes):
    """Set keys by dotted path in the current dataset's entry; None removes one."""
    document = yaml.safe_load(path.read_text())
    for dotted, value in changes.items():
        *folders, key = dotted.split(".")
        node = document["datasets"][CURRENT]
        for folder in folders:
            node = node[folder]
        node[key] = value
    path.write_text(yaml.safe_dump(document, sort_keys=False))


def check(checkout, code):
    done = checkout.tidemill("check", "--json", code=code)
    return {row["dataset"]: row["faults"] for row in json.loads(done.stdout)["datasets"]}


def test_sound_datasets_pass(checkout):
    assert check(checkout, 0) == {CURRENT: []}
    assert checkout.tidemill("check").stdout == f"ok    {CURRENT} (current)\n"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train.n_cutofs": 3}, "n_cutofs: Extra inputs are not permitted"),
        ({"trian": {}}, "has the key `trian`, which nothing reads. Did you mean `train`?"),
        ({"about.horizon": 3}, "horizon: Extra inputs"),
        ({"about.every": "1x"}, "1x"),
        ({"about.calendar": "exchange:XXXX"}, "XXXX"),
        ({"about.calendar": "weekend"}, "weekend"),
        ({"train.stride_steps": 0}, "stride_steps: Input should be greater than or equal to 1"),
        ({"promote.alpha": 2}, "alpha"),
        ({"models.har": {"window_steps": 5}}, "models.har: "),
        ({"models.har": {"windows_steps": [1, 5, 21]}}, "z_mean_21"),
        ({"models.last_value": {"forecaster": "ridgee"}}, "did you mean 'ridge'?"),
        ({"features.list": [{"kind": "lagg", "column": "z", "steps": [1]}]}, "lagg"),
        (
            {"features.list": [FUNCTION]},
            "gone.py",
        ),
        ({"train": 3}, "`datasets.index_volatility.train` is 3, not a mapping"),
        ({"ingest.source": {"kind": "csv"}}, "source"),
        ({"monitor": {"min_row": 3}}, "min_row: Extra inputs"),
    ],
)
def test_a_fault_is_named_by_check_and_doctor(checkout, params, changes, message):
    change(params, **changes)
    faults = check(checkout, 1)[CURRENT]
    assert any(message in fault for fault in faults), faults
    findings = json.loads(checkout.tidemill("doctor", "--json", code=1).stdout)
    assert any(
        message in found["found"] and found["advice"] for found in findings if found["what"] == "params"
    )


def test_files_that_are_not_there_are_named(checkout, params):
    source = {"kind": "files", "files": ["gone/*.csv"], "format": "csv", "layout": "long", "time_column": "t"}
    change(params, **{"ingest.source": source | {"value_columns": ["y"]}})
    (fault,) = check(checkout, 1)[CURRENT]
    assert "gone/*.csv" in fault


def test_a_fault_of_another_dataset_is_its_own(checkout, params):
    document = yaml.safe_load(params.read_text())
    broken = {**document["datasets"][CURRENT], "train": {"n_cutofs": 3}}
    document["datasets"]["broken"] = broken
    params.write_text(yaml.safe_dump(document, sort_keys=False))
    found = check(checkout, 1)
    assert found[CURRENT] == []
    assert "n_cutofs" in found["broken"][0]
    findings = {row["what"]: row for row in json.loads(checkout.tidemill("doctor", "--json").stdout)}
    assert "broken" in findings["other datasets"]["found"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dataset: a\n  models: [\n", "line 2"),
        ("dataset: 'a\n", "is no YAML"),
        ("- a\n", "params.yaml is list"),
        ("", "params.yaml is NoneType"),
        ("dataset: [a]\n", "`dataset` is ['a'], not the name of a dataset"),
        ("dataset: a\ndatasets: 3\n", "`datasets` is 3, not a mapping"),
        ("dataset: a\ndatasets: {a: 3}\n", "`datasets.a` is no mapping"),
        ("dataset: a\ndatasets: {b: {}}\nmodels: []\n", "has no entry under `datasets`"),
        ("dataset: a\ndatasets: {a: {}}\n", "datasets.a has no section"),
        ("datset: a\n", "`dataset` is None"),
    ],
)
def test_what_is_no_params_yaml_is_an_error_for_every_command(checkout, params, text, message):
    params.write_text(text)
    found = json.loads(checkout.tidemill("doctor", "--json", code=1).stdout)
    assert any(message in row["found"] for row in found if row["what"] == "params"), found
    commands = (("status",), ("run",), ("use", "a"), ("forecast",))
    every = commands if text.startswith("dataset: a\n  models") else [commands[len(text) % 4]]
    for command in every:
        done = checkout.tidemill(*command, code=2)
        assert "Traceback" not in done.stderr
        assert re.match(r"\w+Error: ", done.stderr), done.stderr


def test_a_value_that_only_dvc_refuses_is_named_before_a_run(checkout, params):
    text = params.read_text()
    assert "    explain: {}" in text
    params.write_text(text.replace("    explain: {}", "    explain: {of: my:f}", 1))
    for command in ("check", "run"):
        done = checkout.tidemill(command, code=2)
        assert re.search(r"params.yaml, line \d+, column \d+ is no YAML: found unexpected ':'", done.stderr)
        assert "needs quotes" in done.stderr


def test_a_misspelt_section_of_the_file_is_named(checkout, params):
    params.write_text(params.read_text() + "trian: {}\n")
    done = checkout.tidemill("check", code=2)
    assert "the key `trian`, which nothing reads. Did you mean `train`?" in done.stderr


def test_run_refuses_what_check_finds_before_anything_starts(checkout, params):
    change(params, **{"models.har": {"windows_steps": [1, 5, 21]}})
    done = checkout.tidemill("run", code=2)
    assert "cannot run: models.har" in done.stderr
    assert "Prefect" not in done.stderr
