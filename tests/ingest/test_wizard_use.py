"""`new`, `use` and `datasets` as a person types them, on a root of their own."""

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import wizard_runs as runs
import yaml
from typer.testing import CliRunner

from deployments.cli import datasets as cli_datasets
from deployments.cli.app import app
from tasks.core.errors import ParamsError, SourceError
from tasks.edges.params import read_dataset, read_models
from tasks.ingest.wizard import use as use_module
from tasks.ingest.wizard import write as write_module
from tasks.ingest.wizard.use import apply_dataset, update_source
from tasks.ingest.wizard.write import write_entry


def feed(folder, name="feed.csv", n=400):
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        f"{datetime(2022, 1, 1, tzinfo=UTC) + timedelta(hours=i):%F %T},{100 + i % 24 + i % 7}"
        for i in range(n)
    ]
    path = folder / name
    path.write_text("date,load\n" + "\n".join(lines) + "\n")
    return path


@pytest.fixture
def root(tmp_path):
    shutil.copy(runs.CHECKOUT / "params.yaml", tmp_path / "params.yaml")
    return tmp_path


@pytest.fixture
def tidemill(root, monkeypatch):
    """The three commands, working on *root* instead of this checkout."""
    for function in (
        write_module.write_entry,
        write_module.read_commented_params,
        write_module.write_commented_params,
        use_module.apply_dataset,
    ):
        monkeypatch.setattr(function, "__defaults__", (root,))
    from tasks.edges import params

    monkeypatch.setattr(params.read_document, "__defaults__", (root,))
    return lambda *words: CliRunner().invoke(app, list(words))


def test_reasons_stand_beside_their_values_and_the_rest_stays_as_it_was(root):
    before = (root / "params.yaml").read_text()
    write_entry("feed", runs.proposed(feed(root / "in")), root)
    after = (root / "params.yaml").read_text()
    assert after.startswith(before)
    entry = after.removeprefix(before)
    for key in (
        "every",
        "calendar",
        "season_steps",
        "transform",
        "horizon_steps",
        "n_cutoffs",
        "stride_steps",
        "gate_steps",
        "max_age_steps",
    ):
        assert any(line.strip().startswith(f"{key}:") and " # " in line for line in entry.splitlines()), key


def test_use_and_back_leaves_params_as_they_were(root):
    write_entry("feed", runs.proposed(feed(root / "in")), root)
    before = (root / "params.yaml").read_text()
    apply_dataset("feed", root)
    assert read_dataset(root) == "feed"
    assert list(read_models(root)) == list(yaml.safe_load(before)["datasets"]["feed"]["models"])
    apply_dataset("index_volatility", root)
    assert (root / "params.yaml").read_text() == before


def test_use_links_the_files_and_takes_old_links_away(root):
    write_entry("feed", runs.proposed(feed(root / "in")), root)
    source = root / "data/source"
    apply_dataset("feed", root)
    assert (source / "feed.csv").resolve() == (root / "in/feed.csv").resolve()
    assert json.loads((source / "source.json").read_text()) == {"kind": "files", "files": ["feed.csv"]}
    apply_dataset("index_volatility", root)
    assert [p.name for p in source.iterdir()] == ["source.json"]
    assert json.loads((source / "source.json").read_text()) == {"kind": "arch"}
    assert (root / "in/feed.csv").exists()


def test_a_training_begins_with_the_files_of_now_and_the_newest_window(root):
    feed(root / "in" / "north")
    write_entry("feed", runs.proposed(root / "in/*/feed.csv"), root)
    apply_dataset("feed", root)
    assert not update_source(root)
    feed(root / "in" / "south")
    assert update_source(root)
    assert not update_source(root)
    assert sorted(path.name for path in (root / "data/source").glob("*.csv")) == [
        "north_feed.csv",
        "south_feed.csv",
    ]


def test_files_of_one_name_in_two_folders_get_names_of_their_own(root):
    for folder in ("north", "south"):
        feed(root / "in" / folder)
    write_entry("feed", runs.proposed(root / "in/*/feed.csv"), root)
    assert sorted(apply_dataset("feed", root).links) == ["north_feed.csv", "south_feed.csv"]
    # What the names share says nothing
    assert runs.ingested(root)["series_id"].unique().sort().to_list() == ["north", "south"]


def test_use_of_an_unknown_name_suggests_close_ones_and_changes_nothing(root):
    before = (root / "params.yaml").read_text()
    with pytest.raises(ParamsError, match="did you mean index_volatility"):
        apply_dataset("index_volatilty", root)
    assert (root / "params.yaml").read_text() == before


def test_use_with_files_gone_changes_nothing(root):
    path = feed(root / "in")
    write_entry("feed", runs.proposed(path), root)
    path.unlink()
    before = (root / "params.yaml").read_text()
    with pytest.raises(SourceError, match="No file matches"):
        apply_dataset("feed", root)
    assert (root / "params.yaml").read_text() == before


def test_a_name_that_is_taken_is_refused_unless_it_shall_be_replaced(root):
    proposal = runs.proposed(feed(root / "in"))
    write_entry("feed", proposal, root)
    with pytest.raises(ParamsError, match="--replace"):
        write_entry("feed", proposal, root)
    once = (root / "params.yaml").read_text()
    write_entry("feed", proposal, root, replace=True)
    assert (root / "params.yaml").read_text() == once


def test_new_then_use_then_datasets_as_typed(root, tidemill):
    path = feed(root / "in")
    made = tidemill("new", "feed", "--csv", str(path), "--unit", "MW")
    assert made.exit_code == 0, made.output
    assert "tidemill run --dataset feed" in made.output
    assert "tidemill use feed" in made.output
    used = json.loads(tidemill("use", "feed", "--json").output)
    assert used["files"] == {"feed.csv": str(path.resolve())}
    listed = json.loads(tidemill("datasets", "--json").output)
    assert {row["name"]: row["current"] for row in listed} == {
        name: name == "feed" for name in (r["name"] for r in listed)
    }
    assert "feed" in tidemill("datasets").output


def test_a_dry_run_shows_the_entry_and_writes_nothing(root, tidemill):
    before = (root / "params.yaml").read_text()
    shown = tidemill("new", "feed", "--csv", str(feed(root / "in")), "--dry-run")
    assert "transform:" in shown.output
    assert "Nothing is written" in shown.output
    assert (root / "params.yaml").read_text() == before


def test_new_tells_machines_its_reasons_and_questions(root, tidemill):
    told = json.loads(tidemill("new", "feed", "--csv", str(feed(root / "in")), "--json").output)
    assert told["written"]
    assert "about.every" in told["reasons"]
    assert any("--unit" in q for q in told["questions"])


@pytest.mark.parametrize(
    "words",
    [
        ("new", "feed"),
        ("new", "feed", "--csv", "a", "--jsonl", "b"),
        ("use", "nothing"),
        ("new", "feed", "--csv", "nothing.csv"),
    ],
)
def test_what_cannot_be_done_ends_with_one_message_and_code_2(tidemill, words):
    ended = tidemill(*words)
    assert ended.exit_code == 2
    assert "Error: " in ended.output


def test_paths_in_the_checkout_are_kept_relative_and_others_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(runs.CHECKOUT)
    assert cli_datasets.select_one_file({"csv": "some/feed.csv"})[0] == "some/feed.csv"
    monkeypatch.chdir(tmp_path)
    assert Path(cli_datasets.select_one_file({"csv": "feed.csv"})[0]) == tmp_path / "feed.csv"
