"""`tidemill quarantine`, `tidemill schema` and `tidemill feed events` in a checkout whose
dataset has a feed."""

import json

import pytest
import yaml
from landed import SOURCE, bar, land, params_of, records_of, rows_of
from small_checkout import small_checkout

from tasks.edges.delta import open_existing_table
from tasks.feed.events import report_event

FEED = {"source": SOURCE, "fields": {"volume": {"nullable": True}}, "lateness_s": 3600}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """Two records without a price, from when the contract still asked for it, and one that is no
    JSON."""
    made = small_checkout(tmp_path_factory.mktemp("c"))
    path = made.root / "params.yaml"
    document = yaml.safe_load(path.read_text())
    entry = document["datasets"][document["dataset"]]
    entry["feed"], entry["validate"] = FEED, {**(entry.get("validate") or {}), "columns": {}}
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    folder = made.home / "feed" / document["dataset"]
    without = {k: v for k, v in bar(volume=1).items() if k != "price"}
    values = [
        json.dumps(one).encode() for one in (bar(minutes=9, volume=1), without, {**without, "series_id": "b"})
    ]
    land(folder / "table", [records_of([*values, b"\xff"])], params_of())
    report_event(folder, "quarantine_high", frac=0.75)
    return made, folder


def answer(checkout, *arguments):
    return json.loads(checkout.tidemill(*arguments, "--json").stdout)


def test_the_quarantine_is_listed_shown_and_replayed_once(checkout):
    made, folder = checkout
    assert [(one["rule"], one["n_records"]) for one in answer(made, "quarantine", "list")] == [
        ("missing", 2),
        ("not_json", 1),
    ]
    assert answer(made, "quarantine", "show", "3")[0]["raw"] == "0xff"
    shown = made.tidemill("quarantine", "show", "1", "--source", "/0").stdout
    assert "price is null or absent" in shown
    assert "not in the quarantine" in made.tidemill("quarantine", "show", "0", code=2).stderr
    tried = answer(made, "quarantine", "replay", "--rule", "missing", "--dry-run")
    assert tried == {"dry_run": True, "rules": {"missing": {"row": 2}}}
    assert "Nothing was changed" in made.tidemill("quarantine", "replay", "--dry-run").stdout
    assert answer(made, "quarantine", "replay")["rules"] == {
        "missing": {"row": 2},
        "not_json": {"quarantine": 1},
    }
    assert answer(made, "quarantine", "replay")["rules"] == {"not_json": {"quarantine": 1}}
    assert rows_of(open_existing_table(folder / "table"))["disposition"].to_list() == [
        "row",
        "row",
        "row",
        "quarantine",
    ]


def test_schema_and_events_are_shown(checkout):
    made, _ = checkout
    assert [one["field"] for one in answer(made, "schema")] == ["price", "volume"]
    assert "volume" in made.tidemill("schema").stdout
    (event,) = answer(made, "feed", "events")
    assert (event["event"], event["facts"]) == ("quarantine_high", {"frac": 0.75})
    assert "quarantine_high" in made.tidemill("feed", "events").stdout
