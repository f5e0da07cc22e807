"""The docs say what is: files exist, snippets parse, and keys, commands, routes and settings are
those of the code."""

import ast
import json
import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime as ort
import pytest
import yaml
from typer.main import get_command

from deployments.cli.app import app
from deployments.console.report import Page
from deployments.forecaster.app import create_app
from tasks.alerts.catalog import ALARMS
from tasks.alerts.params import AlertParams, AlertRule, AlertSilence
from tasks.core import frames
from tasks.core.about import About, Target
from tasks.core.frames import FrameSchema
from tasks.core.objectives import ServiceTargets
from tasks.core.reports.features import GapLedger, LeadingColumn, LeadingColumns, SeriesGaps
from tasks.core.rollout import RolloutParams
from tasks.core.schema import FeatureColumn, FeatureSchema
from tasks.core.service_rules import ServiceRules
from tasks.edges.artifacts import write_report
from tasks.edges.feeds import FEEDS, get_feed_class
from tasks.edges.params import STAGES
from tasks.edges.settings import Settings
from tasks.ensemble.params import EnsembleParams
from tasks.explain.params import ExplainParams
from tasks.features import FeatureParams
from tasks.features.params import LeakParams
from tasks.feed.events import EVENTS
from tasks.feed.params import FeedParams, FieldSpec
from tasks.forecasters import FORECASTERS, get_forecaster_class
from tasks.ingest.params import ArchSource, ExtensionSource, FilesSource
from tasks.monitor.params import MonitorParams
from tasks.package.params import PackageParams
from tasks.promote.params import PromoteParams
from tasks.quantize.params import QuantizeParams
from tasks.retrain.params import RetrainParams
from tasks.train.params import ModelTraining, TrainParams
from tasks.train.search.params import SearchParams
from tasks.train.select import SelectParams
from tasks.validate.params import ColumnRule, RowRule, ValidateParams

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
CLASSES = {
    "ingest": (ArchSource, FilesSource, ExtensionSource),
    "validate": (ValidateParams, ColumnRule, RowRule),
    "features": (FeatureParams, LeakParams),
    "train": (TrainParams,),
    "ensemble": (EnsembleParams,),
    "explain": (ExplainParams,),
    "quantize": (QuantizeParams,),
    "package": (PackageParams,),
    "promote": (PromoteParams,),
    "monitor": (MonitorParams,),
    "retrain": (RetrainParams,),
    "rollout": (RolloutParams,),
    "service": (ServiceRules,),
    "service_levels": (ServiceTargets,),
    "alerts": (AlertParams, AlertRule, AlertSilence),
    "feed": (
        FeedParams,
        FieldSpec,
        *(get_feed_class(kind).Params for kind in FEEDS),
    ),
}
OURS = r"`((?:tasks|flows|deployments|tests|infra|docs)/[\w./-]*\w\.(?:py|yaml|md|toml|txt))"


def snippets(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def how_to(name):
    return (ROOT / "docs/how-to" / name).read_text()


def reference(name):
    return (ROOT / "docs/reference" / name).read_text()


def sections(text):
    return {part.split("\n", 1)[0].strip(): part for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:]}


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_a_page_names_files_that_exist_and_no_path_of_a_machine(page):
    text = page.read_text()
    for name in set(re.findall(OURS, text)):
        # what is there is the reader's own
        assert (ROOT / name).exists() or name.startswith("tasks/extensions/"), name
    assert not re.search(r"(?<![\w.])/(?:home|work|tmp|Users|root)/", text)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_python_and_yaml_of_a_page_parse(page):
    text = page.read_text()
    for snippet in snippets(text, "python"):
        ast.parse(snippet)
    assert all(isinstance(yaml.safe_load(snippet), dict) for snippet in snippets(text, "yaml"))


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_a_documented_command_line_is_one_that_the_program_takes(page):
    for line in re.findall(
        r"^(?:    |\$ )(?:\.venv/bin/)?tidemill ([^#\n]*)", page.read_text(), flags=re.MULTILINE
    ):
        command, arguments = get_command(app), shlex.split(line)
        while arguments and arguments[0] in getattr(command, "commands", {}):
            command = command.commands[arguments.pop(0)]
        assert command is not get_command(app), line
        options = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        assert {a for a in arguments if a.startswith("--")} <= options, line


def test_json_of_the_http_page_parses_and_its_routes_are_the_services():
    text = reference("http.md")
    assert all(json.loads(snippet) for snippet in snippets(text, "json"))
    assert set(re.findall(r"^\| `(?:GET|POST) (\S+)`", text, flags=re.MULTILINE)) == set(
        create_app().openapi()["paths"]
    )
    for body in re.findall(r"-d '([^']*)'", text):
        assert {"series_id", "items", "query"} & json.loads(body).keys()


def test_the_reference_of_params_names_every_key_and_no_other_section():
    parts = sections(reference("params.md"))
    assert [name for name in parts if name in STAGES] == list(STAGES)
    for stage, classes in CLASSES.items():
        for key in {key for kind in classes for key in kind.model_fields} - {"kind", "series_id"}:
            assert re.search(rf"`(?:source\.|feed\.|rules\.|silences\.)?{key}\b", parts[stage]), (
                f"{stage}.{key}"
            )
    for key in {*About.model_fields, *Target.model_fields}:
        assert f"`{key}`" in parts["about"], key
    for key in {*SearchParams.model_fields, *SelectParams.model_fields, *ModelTraining.model_fields}:
        assert re.search(rf"`(?:search\.|select\.)?{key}\b", parts["models"]), key
    for model in FORECASTERS:
        for key in (model, *get_forecaster_class(model).Params.model_fields):
            assert f"`{key}`" in parts["models"], f"{model}.{key}"


def test_the_reference_of_artifacts_has_every_schema_and_its_columns():
    schemas = {value.name: value for value in vars(frames).values() if isinstance(value, FrameSchema)}
    rows = {
        row[0]: row
        for row in re.findall(
            r"^\| `(\w+)` \| (.*?) \| (.*?) \|$",
            reference("artifacts.md").split("## In the")[0],
            flags=re.MULTILINE,
        )
    }
    assert set(rows) == set(schemas)
    for name, schema in schemas.items():
        inherited = {"repeated": "series", "quarantine": "series", "served": "forecast"}.get(name, name)
        said = set(re.findall(r"\w+", rows[name][1] + " " + rows[inherited][1]))
        assert set(schema.columns) <= said, name


def test_the_table_of_settings_is_complete():
    named = set(re.findall(r"^\| `([A-Z_]+)`", how_to("operate.md"), flags=re.MULTILINE))
    fields = {
        field.validation_alias or f"TIDEMILL_{name.upper()}" for name, field in Settings.model_fields.items()
    }
    assert named == fields | {"PREFECT_API_DATABASE_CONNECTION_URL"}


def test_the_table_of_schedules_names_the_deployments():
    deployed = {
        d["name"] for d in yaml.safe_load((ROOT / "deployments/prefect.yaml").read_text())["deployments"]
    }
    rows = re.findall(r"^\| (\w+) \|", how_to("operate.md").split("## Settings")[0], flags=re.MULTILINE)
    assert rows[0] == "deployment"
    assert set(rows[1:]) == deployed


def test_the_features_of_the_how_to_are_accepted():
    (snippet,) = snippets(how_to("add-a-feature.md"), "yaml")
    assert FeatureParams.model_validate(yaml.safe_load(snippet)["features"]).list[0].kind == "mean"
    declared = set(re.findall(r"kind: Literal\[(.*?)\]", (ROOT / "tasks/features/specs.py").read_text()))
    assert len(declared) > 15
    kinds = {kind.strip('" ') for group in declared for kind in group.split(",")}
    assert kinds <= set(re.findall(r"\w+", how_to("add-a-feature.md"))) & set(
        re.findall(r"\w+", sections(reference("params.md"))["features"])
    )


def test_the_entry_that_the_wizard_wrote_is_accepted():
    (snippet,) = snippets(how_to("bring-your-data.md"), "yaml")
    assert (
        About.model_validate({"description": "meters", **yaml.safe_load(snippet)["about"]}).horizon_steps
        == 24
    )


def test_the_model_of_the_how_to_works_as_it_stands_and_is_the_same_as_onnx(tmp_path):
    source = snippets(how_to("add-a-model.md"), "python")[0]
    space = {}
    exec(compile(source, "drift.py", "exec"), space)
    schema = FeatureSchema(
        columns=(FeatureColumn(name="z_last", role="level", lookback_steps=0),),
        last="z_last",
        horizon_steps=3,
        season_steps=1,
    )
    x = np.arange(6, dtype=np.float32)[:, None]
    z = x + 2 * np.arange(1, 4, dtype=np.float32)
    z[-1] = np.nan
    drift = space["Drift"](schema, 1).fit(x, z)
    assert drift.predict(x).tolist() == (x + 2 * np.arange(1, 4)).tolist()
    drift.to_onnx(tmp_path / "drift.onnx")
    served = ort.InferenceSession(tmp_path / "drift.onnx", providers=["CPUExecutionProvider"]).run(
        ["z_hat"], {"x": x}
    )[0]
    assert served.tolist() == drift.predict(x).tolist()


def test_the_page_of_the_how_to_is_rendered_from_what_features_wrote(tmp_path):
    module, entry = snippets(how_to("add-a-page.md"), "python")
    space = {}
    exec(module, space)
    (page,) = eval(f"({entry})", {"Page": Page, "features": SimpleNamespace(**space)})
    gaps = {"north": SeriesGaps(n_steps=9, n_gap_steps=2, longest_gap=None)}
    agreement = {
        "column": "kwh_lag1",
        "group": "all",
        "kind": "value",
        "lead_steps": 3,
        "r": 0.4,
        "r_now": 0.1,
    }
    leading = LeadingColumn(**agreement, standard_errors=5.0, limit=4.0, n_rows=99)
    write_report(tmp_path / GapLedger.PATH, GapLedger(gaps))
    write_report(tmp_path / LeadingColumns.PATH, LeadingColumns((leading,)))
    assert page.list_inputs(tmp_path) == [GapLedger.PATH, LeadingColumns.PATH]
    html = page.render(tmp_path)
    assert all(figure in html for figure in ("north", "kwh_lag1", "0.4", "<img alt='correlation"))


def test_every_alarm_and_event_has_its_runbook_linked_from_its_page():
    pages = dict.fromkeys(ALARMS, "alerts.md") | dict.fromkeys(EVENTS, "operate.md")
    pages = {name.replace("_", "-"): page for name, page in pages.items()}
    names = set(pages)
    assert {path.stem for path in (ROOT / "docs/runbooks").glob("*.md")} == names
    for name in names:
        headings = re.findall(
            r"^## (.*)", (ROOT / f"docs/runbooks/{name}.md").read_text(), flags=re.MULTILINE
        )
        assert headings == ["It says", "Look at", "Do", "Do not"], name
        assert f"(../runbooks/{name}.md)" in how_to(pages[name])


def test_every_rule_of_the_quarantine_is_in_its_how_to():
    code = "".join(path.read_text() for path in (ROOT / "tasks/feed").glob("*.py"))
    rules = set(
        re.findall(
            r'UnreadableError\(\s*"(\w+)"|"(no_time|time_ahead|no_series|duplicate_id|wrong_type|not_finite)"',
            code,
        )
    )
    written = how_to("quarantine-and-replay.md")
    assert len(rules) > 15
    assert all(f"`{name}`" in written for pair in rules for name in pair if name)


@pytest.mark.parametrize("name", NAMES)
def test_a_table_row_has_as_many_cells_as_its_header_and_closes_what_it_quotes(name):
    text = re.sub(r"^```.*?^```", "", (ROOT / name).read_text(), flags=re.MULTILINE | re.DOTALL)
    for table in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        rows = table.splitlines()
        n_cells = {len(re.findall(r"(?<!\\)\|", re.sub(r"`[^`]*`", "", row))) for row in rows}
        cut_off = [row for row in rows if row.count("`") % 2]
        assert not cut_off
        assert len(n_cells) == 1, table


def test_the_glossary_has_each_word_once():
    words = re.findall(r"^\| ([^|]+?) \|", (ROOT / "docs/glossary.md").read_text(), flags=re.MULTILINE)
    assert sorted(words) == sorted(set(words))
