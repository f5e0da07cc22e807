"""Fields that come, go and change; alert events, each once while its state lasts."""

import json

import polars as pl
import pytest
from landed import NOON, Given, bar, land, params_of, records_of, rows_of
from prometheus_client import CollectorRegistry

from tasks.core.errors import FeedError
from tasks.edges.delta import compact_table
from tasks.feed.events import EVENTS, RAISED, FeedAlarms, read_events, report_event
from tasks.feed.history import read_history
from tasks.feed.land import LandedCommit, LandingBuffer, open_table, run_landing


def encoded(*bars):
    return records_of([json.dumps(one).encode() for one in bars])


def test_an_added_field_lands_and_its_history_says_when_and_by_which_version(tmp_path):
    batch = encoded(bar(minutes=60, volume=1), {**bar(minutes=30, volume=1), "extra": 7}, bar(volume=None))
    table = land(tmp_path, [batch[:1], batch[1:]])
    assert rows_of(table)["extra"].to_list() == [None, 7.0, None]
    history = {one.field: one for one in read_history(table, params_of())}
    assert (history["price"].came, history["price"].version, history["price"].last_seen) == (
        "first",
        None,
        NOON,
    )
    extra = history["extra"]
    assert (extra.came, extra.type, extra.version, extra.nullable) == (
        "arrived",
        "Float64",
        2,
        True,
    )
    assert extra.since.startswith("20")
    assert (extra.last_seen, history["volume"].last_seen) == (rows_of(table)["event_time"][1],) * 2
    compact_table(table, keep_h=1)
    assert {one.field: one for one in read_history(table, params_of())} == history, (
        "merged, checkpointed: the history is in the table"
    )


def test_a_field_that_came_may_be_declared_later_and_one_of_another_type_is_refused_with_the_way_out(
    tmp_path,
):
    land(tmp_path, [encoded({**bar(volume=1), "extra": 7})])
    declared = params_of(fields={"price": {}, "volume": {"nullable": True}, "extra": {}})
    rows = rows_of(
        land(tmp_path, [encoded(bar(), {**bar("b", volume=1), "extra": 8}, bar("c", volume=1))[1:]], declared)
    )
    assert rows.select("disposition", "_rule", "extra").rows() == [
        ("row", None, 7.0),
        ("row", None, 8.0),
        ("quarantine", "missing", None),
    ]
    with pytest.raises(
        FeedError,
        match=r"'extra' is declared String.*it is Float64.*Declare it as it is, or under another name",
    ):
        open_table(tmp_path, params_of(fields={"extra": {"type": "string"}}))


def test_a_declared_new_field_is_in_the_history_as_declared(tmp_path):
    land(tmp_path, [encoded(bar())])
    declared = params_of(
        fields={"price": {}, "volume": {"nullable": True}, "size": {"type": "int", "nullable": True}}
    )
    table = open_table(tmp_path, declared)
    (size,) = [one for one in read_history(table, declared) if one.field == "size"]
    assert (size.came, size.type, size.version, size.last_seen) == ("declared", "Int64", 2, None)


def test_no_more_fields_than_allowed_become_columns_and_a_refused_record_adds_none(tmp_path):
    many = {**bar(volume=1), "x1": 1, "x2": 2, "x3": 3}
    table = land(
        tmp_path, [encoded(many, {**bar("b", volume=1), "x1": 1, "x2": 2})], params_of(max_added_fields=2)
    )
    assert rows_of(table)["disposition"].to_list() == ["quarantine", "row"]
    assert {"x1", "x2"} <= set(table.columns)
    assert "x3" not in table.columns


CHANGES = {
    "field_removed": {k: v for k, v in bar(volume=1).items() if k != "price"},
    "field_retyped": {**bar(volume=1), "price": "1.0"},
    "field_renamed": {("prize" if k == "price" else k): v for k, v in bar(volume=1).items()},
}


@pytest.mark.parametrize("event", CHANGES)
def test_a_changed_field_quarantines_the_rows_and_raises_its_event_once(event, tmp_path):
    table, raised = open_table(tmp_path, params_of()), []
    alarms = FeedAlarms(params_of(), lambda name, **facts: raised.append((name, facts)))
    batches = [
        encoded(*[bar(minutes=i, volume=1) for i in range(5)]),
        *[encoded(*[CHANGES[event]] * 40)[5 + 10 * k : 15 + 10 * k] for k in range(3)],
    ]
    feed = Given(batches)
    landing = LandingBuffer(table, params_of(commit_every_s=1e-9), None, feed)
    run_landing(
        landing, feed, until_caught_up=True, on_poll=lambda landed: landed and alarms.add_commit(landed)
    )
    assert rows_of(table)["disposition"].value_counts(sort=True).rows() == [("quarantine", 30), ("row", 5)]
    assert [name for name, _ in raised] == ["quarantine_high", event]
    assert raised[1][1]["field"] == "price"
    assert set(table.columns) == set(open_table(tmp_path, params_of()).columns), "prize became no column"


def committed(version=1, broken=None, **counts):
    return LandedCommit(version, counts, 0, 0.0, 0.0, None, {}, broken or {})


def test_an_event_comes_again_only_after_its_state_has_ended():
    raised = []
    alarms = FeedAlarms(
        params_of(alert_window_s=10, alert_late_frac=0.1), lambda name, **_: raised.append(name)
    )
    for at, late in ((0, 0), (1, 50), (2, 50), (20, 0), (21, 50)):
        alarms.add_commit(committed(row=50, late=late), now=at)
    assert raised == ["late_high", "late_high"]


def test_dirt_below_the_fraction_raises_nothing():
    raised = []
    alarms = FeedAlarms(params_of(), lambda name, **_: raised.append(name))
    alarms.add_commit(committed(row=99, quarantine=1, broken={("missing", "price"): 1}), now=0)
    assert raised == []


def test_an_event_is_a_line_in_the_file_and_on_stderr_and_is_counted(tmp_path, capsys):
    registry = CollectorRegistry()
    registry.register(RAISED)
    before = registry.get_sample_value("tidemill_feed_events_total", {"event": "commit_refused"}) or 0
    report_event(tmp_path, "commit_refused", member="0", reason="x")
    with (tmp_path / "events.jsonl").open("a") as handle:
        handle.write('{"event": "cut o')
    (read,) = read_events(tmp_path)
    assert (read.event, read.about, read.facts) == (
        "commit_refused",
        EVENTS["commit_refused"],
        {"member": "0", "reason": "x"},
    )
    assert registry.get_sample_value("tidemill_feed_events_total", {"event": "commit_refused"}) == before + 1
    assert "event {" in capsys.readouterr().err
    with pytest.raises(KeyError):
        report_event(tmp_path, "unheard_of")


def test_an_event_of_an_earlier_version_is_read_by_its_standard_name(tmp_path):
    line = {"event": "registry_down", "at": "2024-01-01T00:00:00+00:00", "about": "a", "facts": {"said": "x"}}
    (tmp_path / "events.jsonl").write_text(json.dumps(line) + "\n")
    assert read_events(tmp_path)[0].facts == {"reason": "x"}


def test_a_refused_commit_is_reported(tmp_path):
    table, reasons = open_table(tmp_path, params_of()), []
    feed = Given([encoded(bar())])
    landing = LandingBuffer(table, params_of(), None, feed)
    landing.on_refused = reasons.append
    land(tmp_path, [encoded(bar())])
    run_landing(landing, feed, until_caught_up=True)
    assert len(reasons) == 1
    assert rows_of(table)["disposition"].to_list() == ["row"]
    assert pl.Series(reasons).str.contains("read up to").all()
