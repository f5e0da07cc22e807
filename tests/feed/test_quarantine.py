"""The quarantine: what lies there, and how it gets out, once."""

import json
from datetime import timedelta

import polars as pl
import pytest
from landed import NOON, Given, bar, land, params_of, records_of, rows_of

from tasks.core.errors import FeedError
from tasks.edges import files as disk
from tasks.edges.delta import open_existing_table
from tasks.feed.land import LandingBuffer, open_table, run_landing
from tasks.feed.quarantine import find_records, list_rules, replay_quarantined

LEGACY = params_of(fields={"volume": {"nullable": True}})


def encoded(*bars):
    return records_of([one if isinstance(one, bytes) else json.dumps(one).encode() for one in bars])


def spoilt(**more):
    """A record without the price that the contract asks for."""
    return {k: v for k, v in {**bar(volume=1), **more}.items() if k != "price"}


def quarantined(folder):
    """Ten good bars, among them two without a price and one that is no JSON."""
    bars = [bar(minutes=600 - 60 * i, volume=1) for i in range(10)]
    return land(
        folder,
        [
            encoded(
                *bars[:3],
                spoilt(event_time="2024-01-02T05:30:00Z"),
                b"\xff",
                *bars[3:],
                spoilt(event_time="2024-01-02T11:59:00Z"),
            )
        ],
    )


def test_the_list_counts_by_rule_and_a_record_is_shown_with_its_bytes(tmp_path):
    table = quarantined(tmp_path)
    assert [(r.rule, r.n_records, r.first, r.last) for r in list_rules(table)] == [
        ("missing", 2, NOON, NOON),
        ("not_json", 1, NOON, NOON),
    ]
    (shown,) = find_records(table, 4, "/0")
    assert (shown.raw, shown.rule, shown.source) == ("0xff", "not_json", "kafka:c/t/0")
    assert json.loads(find_records(table, 3)[0].raw)["volume"] == 1
    with pytest.raises(FeedError, match="not in the quarantine"):
        find_records(table, 0)


def test_a_replay_by_a_mended_contract_takes_out_what_passes_in_one_commit_and_doubles_nothing(tmp_path):
    """Seven hours old, with a lateness of one: judged by what was before it in its log, it is a
    row; the rest stays as it was."""
    before = rows_of(quarantined(tmp_path))
    table = open_existing_table(tmp_path)
    assert replay_quarantined(table, LEGACY, None, dry_run=True) == {
        "missing": {"row": 2},
        "not_json": {"quarantine": 1},
    }
    assert rows_of(table).equals(before)
    version = table.version
    assert replay_quarantined(table, LEGACY, None) == {"missing": {"row": 2}, "not_json": {"quarantine": 1}}
    assert table.version == version + 1
    after = rows_of(table)
    assert after.select("_source", "_offset").rows() == before.select("_source", "_offset").rows()
    out = after.filter(pl.col("_offset").is_in([3, 12]))
    assert out.select("disposition", "_rule", "_raw", "volume").rows() == [("row", "missing", None, 1.0)] * 2
    assert out["_detail"].str.starts_with("replayed ").all()
    rest = ~pl.col("_offset").is_in([3, 12])
    assert after.filter(rest).equals(before.filter(rest).select(after.columns))
    assert replay_quarantined(table, LEGACY, None) == {"not_json": {"quarantine": 1}}


def test_only_a_rule_that_was_named_is_replayed(tmp_path):
    quarantined(tmp_path)
    assert replay_quarantined(open_existing_table(tmp_path), LEGACY, None, rule="not_json") == {
        "not_json": {"quarantine": 1}
    }


@pytest.mark.parametrize("point", ["files written", "committed", "commit synced"])
def test_a_replay_that_is_killed_and_repeated_doubles_nothing(point, tmp_path, monkeypatch):
    class KilledError(Exception):
        pass

    def die(where):
        if where == point:
            raise KilledError

    n = rows_of(quarantined(tmp_path)).height
    monkeypatch.setattr(disk, "run_durability_hook", die)
    with pytest.raises(KilledError):
        replay_quarantined(open_existing_table(tmp_path), LEGACY, None)
    monkeypatch.undo()
    replay_quarantined(open_existing_table(tmp_path), LEGACY, None)
    after = rows_of(open_existing_table(tmp_path))
    assert after["disposition"].value_counts(sort=True).rows() == [("row", n - 1), ("quarantine", 1)]
    assert after.select("_source", "_offset").is_duplicated().sum() == 0


def test_a_replayed_record_that_is_a_row_already_is_dropped_and_a_contradicting_one_stays(tmp_path):
    long = [json.dumps(one).encode() + b" " * 2000 for one in (bar(), bar(price=2.0))]
    land(tmp_path, [encoded(*long, bar())], params_of(max_record_kb=1))
    table = open_existing_table(tmp_path)
    assert replay_quarantined(table, params_of(), None) == {"too_large": {"duplicate": 1, "quarantine": 1}}
    assert rows_of(table).select("_offset", "disposition", "_rule").rows() == [
        (1, "quarantine", "too_large"),
        (2, "row", None),
    ]


def test_what_a_landing_remembers_is_recalled_after_a_replay(tmp_path):
    """A running landing meets a producer's repeat of a record that was replayed meanwhile: it is
    refused once, recalls, and knows it."""
    quarantined(tmp_path)
    again = encoded(*[b""] * 13, spoilt(event_time="2024-01-02T11:59:00Z"), bar(minutes=-1, volume=1)).tail(2)
    feed, refused = Given([again]), []
    landing = LandingBuffer(open_table(tmp_path, LEGACY), LEGACY, None, feed)
    replay_quarantined(open_existing_table(tmp_path), LEGACY, None)
    landing.table.refresh()
    landing.on_refused = refused.append
    run_landing(landing, feed, until_caught_up=True)
    assert len(refused) == 1
    rows = rows_of(landing.table)
    assert rows.filter(pl.col("event_time") == NOON - timedelta(minutes=1)).height == 1
    assert rows.filter(pl.col("_offset") == 14)["disposition"].to_list() == ["row"]
