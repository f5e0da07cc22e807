"""A table that was made when `disposition` was called `place`, as it was written then."""

import hashlib
import json

import polars as pl
import pytest
from deltalake import CommitProperties, DeltaTable, Field, Schema, Transaction
from deltalake.schema import PrimitiveType
from deltalake.transaction import AddAction
from landed import NOON, bar, land, params_of, records_of, rows_of
from ledger import live_files

from tasks.core.frames import UTC
from tasks.edges.delta import compact_table, open_existing_table, restore_table
from tasks.edges.delta.compact import MERGE_FILES
from tasks.feed.contract import DETAIL, RULE
from tasks.feed.history import read_history
from tasks.feed.quarantine import list_rules, replay_quarantined
from tasks.feed.watch import describe_table
from tasks.feed.window import build_window

SOURCE = "kafka:c/t/0"
TYPES = {
    **dict.fromkeys(["series_id", "place", "month", "_source", "_headers", RULE, DETAIL], "string"),
    **dict.fromkeys(["event_time", "known_at", "_timestamp"], "timestamp"),
    **dict.fromkeys(["_key", "_raw"], "binary"),
    "_offset": "long",
    "price": "double",
    "volume": "double",
}
GOOD = [json.dumps(bar(minutes=-n, price=float(n))).encode() for n in range(4)]
BAD = b'{"series_id": "a", "event_time": "2024-01-02T12:09:00Z"}'


@pytest.fixture
def folder(tmp_path):
    """Offsets 0 to 3 are rows, 4 is in quarantine; a file each, as delta-rs alone writes them."""
    folder = tmp_path / "table"
    schema = Schema([Field(name, PrimitiveType(kind)) for name, kind in TYPES.items()])
    table = DeltaTable.create(str(folder), schema, partition_by=["place", "month"])
    for offset, value in enumerate([*GOOD, BAD]):
        place = "row" if value in GOOD else "quarantine"
        columns = {"_source": SOURCE, "_offset": offset, "_timestamp": NOON}
        if place == "row":
            time = pl.lit(json.loads(value)["event_time"]).str.to_datetime(time_zone="UTC", time_unit="us")
            columns |= {"series_id": "a", "event_time": pl.select(time).item(), "price": float(offset)}
        else:
            columns |= {"_raw": value, RULE: "missing", DETAIL: "price is null or absent"}
        frame = pl.DataFrame(columns, schema_overrides={"_timestamp": UTC, "event_time": UTC}, height=1)
        path = folder / f"place={place}" / "month=2024-01" / f"part-{offset}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        frame.write_parquet(path)
        times = (
            {} if place == "quarantine" else {"event_time": f"{frame['event_time'][0]:%Y-%m-%dT%H:%M:%SZ}"}
        )
        bounds = {"_offset": offset, "_timestamp": f"{NOON:%Y-%m-%dT%H:%M:%SZ}", **times}
        nulls = dict.fromkeys(bounds, 0)
        statistics = {"numRecords": 1, "minValues": bounds, "maxValues": bounds, "nullCount": nulls}
        add = AddAction(
            str(path.relative_to(folder)),
            path.stat().st_size,
            {"place": place, "month": "2024-01"},
            0,
            True,
            json.dumps(statistics),
        )
        table.create_write_transaction(
            [add],
            "append",
            table.schema(),
            ["place", "month"],
            commit_properties=CommitProperties(
                app_transactions=[Transaction(SOURCE, offset + 1)],
                custom_metadata={"tidemill": json.dumps({"id": str(offset)})},
            ),
        )
        table.update_incremental()
    return folder


def digests(folder):
    paths = [path for path in folder.rglob("*.parquet") if "_delta_log" not in path.parts]
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def more(first, n):
    """Records at offsets *first* on, a minute each after those of before."""
    values = [json.dumps(bar(minutes=-first - i, price=float(first + i))).encode() for i in range(n)]
    return records_of(values).with_columns(pl.col("_offset") + first)


def test_it_goes_on_and_its_files_are_not_rewritten(folder):
    before = digests(folder)
    table = land(folder, [more(5, 3)])
    rows = rows_of(table)
    assert rows["disposition"].to_list() == [*["row"] * 4, "quarantine", *["row"] * 3]
    assert rows["_offset"].to_list() == list(range(8))
    assert "place" not in rows.columns
    assert before.items() <= digests(folder).items()
    assert table.list_offsets() == {SOURCE: 8}


def test_other_programs_read_one_column_under_its_stored_name(folder):
    land(folder, [more(5, 3)])
    assert {path.split("/")[0] for path in live_files(folder)} == {"place=row", "place=quarantine"}
    other = DeltaTable(str(folder))
    assert "disposition" not in {field.name for field in other.schema().fields}
    assert pl.from_arrow(other.to_pyarrow_table())["place"].value_counts(sort=True).rows() == [
        ("row", 7),
        ("quarantine", 1),
    ]


def test_status_window_history_and_quarantine_read_it(folder):
    table, params = open_existing_table(folder), params_of()
    assert describe_table(table).rows == {"quarantine": 1, "row": 4}
    window = build_window(table, "1m", 1e9, None)
    assert (window.n_rows, f"{window.end:%T}") == (3, "12:03:00")
    assert [one.field for one in read_history(table, params)] == ["price", "volume"]
    assert [(one.rule, one.n_records) for one in list_rules(table)] == [("missing", 1)]


def test_a_record_leaves_its_quarantine(folder):
    nullable = params_of(fields={"price": {"nullable": True}, "volume": {"nullable": True}})
    assert replay_quarantined(open_existing_table(folder), nullable, None) == {"missing": {"row": 1}}
    rows = rows_of(open_existing_table(folder))
    assert rows.select("_offset", "disposition").rows() == [(offset, "row") for offset in range(5)]


def test_it_is_compacted_and_restored(folder):
    table = land(folder, [more(5 + n, 1) for n in range(MERGE_FILES)])
    version = table.version
    assert compact_table(table)["merged"] == MERGE_FILES + 4
    assert rows_of(table).height == MERGE_FILES + 5
    restore_table(table, version - 1)
    assert rows_of(table).height == MERGE_FILES + 4
    assert {path.split("/")[0] for path in live_files(folder)} == {"place=row", "place=quarantine"}
