"""What is in the quarantine, and its replay by today's settings, as if they had been in force.

A replayed record is classified by the records before it in its own log: it may be weeks older than
its series' newest row, and is not late because of that. It leaves the quarantine and becomes what
it is now in one commit, so a kill, or a second replay, doubles nothing. It keeps the rule that it
broke, with a note that it was replayed.
"""

from datetime import UTC, datetime
from typing import NamedTuple

import polars as pl

from tasks.core.errors import FeedError, OffsetMovedError
from tasks.core.records import RECORDS
from tasks.edges.delta import VersionedTable, replace_files
from tasks.feed.contract import DETAIL, RULE, RecordReader
from tasks.feed.dispositions import (
    DUPLICATE,
    EMPTY,
    QUARANTINE,
    ROW,
    RowMemory,
    build_row_ids,
    decide_dispositions,
    list_id_columns,
)
from tasks.feed.formats import build_decoder
from tasks.feed.land import PARTITIONS, add_new_columns, build_contract
from tasks.feed.params import FeedParams

_MAX_TRIES = 5  # commits that another rewriting of files may refuse; each of those takes a second
_MAX_SHOWN = 10_000  # characters of a record that are shown
_ONLY = {"disposition": QUARANTINE}


class BrokenRule(NamedTuple):
    """A rule that records in the quarantine broke. first, last: times of production."""

    rule: str
    n_records: int
    first: datetime
    last: datetime
    n_sources: int


class QuarantinedRecord(NamedTuple):
    """A record in the quarantine. key, raw: as text, or as hexadecimal where they are none."""

    source: str
    offset: int
    timestamp: datetime
    key: str | None
    headers: str | None
    rule: str
    detail: str
    raw: str | None


def list_rules(table: VersionedTable) -> list[BrokenRule]:
    """The rules of what is quarantined, most records first."""
    by_rule = table.scan(_ONLY, columns=[RULE, "_timestamp", "_source"]).group_by(rule=RULE)
    rules = by_rule.agg(
        n_records=pl.len(),
        first=pl.col("_timestamp").min(),
        last=pl.col("_timestamp").max(),
        n_sources=pl.col("_source").n_unique(),
    )
    ordered = rules.sort("n_records", "rule", descending=[True, False]).collect()
    return [BrokenRule(**row) for row in ordered.iter_rows(named=True)]


def find_records(table: VersionedTable, offset: int, source: str = "") -> list[QuarantinedRecord]:
    """Quarantined records at *offset* of sources that end in *source*.

    Raises FeedError when there are none.
    """
    is_meant = (pl.col("_offset") == offset) & pl.col("_source").str.ends_with(source)
    shown = ["_source", "_offset", "_timestamp", "_key", "_headers", RULE, DETAIL, "_raw"]
    records = table.scan(_ONLY).filter(is_meant).select(shown).collect().to_dicts()
    if not records:
        where = f" of a source that ends in {source!r}" if source else ""
        raise FeedError(
            f"Offset {offset}{where} is not in the quarantine. `tidemill quarantine list` shows what is; a"
            " replayed record is in the table's other rows."
        )
    texts = (
        {
            **{name.removeprefix("_"): value for name, value in record.items()},
            "key": _format_bytes(record["_key"]),
            "raw": _format_bytes(record["_raw"]),
        }
        for record in records
    )
    return [QuarantinedRecord(**text) for text in texts]


def replay_quarantined(
    table: VersionedTable,
    params: FeedParams,
    every: str | None,
    reader: RecordReader | None = None,
    *,
    rule: str | None = None,
    dry_run: bool = False,
) -> dict[str, dict[str, int]]:
    """Take quarantined records out where they pass now.

    rule: those that broke it alone; None: all.
    Returns rule -> disposition now -> records; `quarantine` are those that stay.
    Raises FeedError when other writers rewrite the files again and again.
    """
    results: list[tuple[str, str, int]] = []  # rule, disposition now, records
    for _ in range(_MAX_TRIES):
        results = [result for result in results if result[1] != QUARANTINE]  # what earlier tries took out
        try:
            table.refresh()
            for files in table.list_file_groups(_ONLY, "_offset"):
                results += _replay_files(table, files, params, every, reader, rule, dry_run=dry_run)
        except OffsetMovedError:  # files were merged meanwhile: read those that are there now
            continue
        counts: dict[str, dict[str, int]] = {broken: {} for broken, _, _ in results}
        for broken, disposition, n in results:
            counts[broken][disposition] = counts[broken].get(disposition, 0) + n
        return counts
    raise FeedError(
        f"{table.folder.name}: other writers rewrote its files {_MAX_TRIES} times meanwhile. Nothing was"
        " lost; start the replay again."
    )


def _replay_files(
    table: VersionedTable,
    files: pl.DataFrame,
    params: FeedParams,
    every: str | None,
    reader: RecordReader | None,
    rule: str | None,
    *,
    dry_run: bool,
) -> list[tuple[str, str, int]]:
    """Take what passes now out of *files*, in one commit.

    Returns (rule, disposition now, records).
    """
    held = table.scan_files(files).collect().with_row_index("_nth")
    is_meant = pl.col(RULE) == rule if rule else pl.lit(value=True)
    picked = held.filter(is_meant).sort("_source", "_offset")
    records = picked.select(*(pl.col("_raw" if name == "_value" else name).alias(name) for name in RECORDS))
    decoded = build_decoder(build_contract(params, table.columns), reader).decode(records["_value"])
    alone, _ = decide_dispositions(records, decoded, params, every, EMPTY)
    memory, before = _build_earlier_memory(table, params, alone)
    rows, _ = decide_dispositions(records, decoded, params, every, memory, before)
    broken = picked[RULE].alias("_broken")
    counts = rows.with_columns(broken).group_by("_broken", "disposition").agg(pl.len()).rows()
    passes = rows["disposition"] != QUARANTINE
    if dry_run or not passes.any():
        return counts
    now = datetime.now(UTC).isoformat(timespec="seconds")
    note = pl.lit(f"replayed {now}; before: ") + picked[DETAIL]
    replayed = rows.with_columns(picked[RULE].alias(RULE), note.alias(DETAIL)).filter(
        passes & (rows["disposition"] != DUPLICATE)
    )
    replayed, added = add_new_columns(table, replayed, decoded)
    stays = held.filter(~pl.col("_nth").is_in(picked.filter(passes)["_nth"].implode())).drop("_nth")
    new_rows = pl.concat([stays, replayed], how="diagonal")
    replace_files(table, files, new_rows, {"replayed": int(passes.sum()), "added": added})
    return counts


def _build_earlier_memory(
    table: VersionedTable, params: FeedParams, alone: pl.DataFrame
) -> tuple[RowMemory, pl.Series]:
    """(memory of the table's rows that *alone* may repeat, newest row before each of *alone*).

    The second is of its series, before it in its log.
    """
    rows = alone.filter(pl.col("disposition") == ROW)
    key = list_id_columns(params)
    values = [
        name
        for name in table.columns
        if not name.startswith("_") and name not in {*PARTITIONS, "known_at", *key}
    ]
    series = rows.lazy().select("series_id").unique()
    of_series = table.scan({"disposition": ROW}).join(series, on="series_id", how="semi")
    times = rows.lazy().select("series_id", "event_time").unique()
    same = of_series.join(times, on=["series_id", "event_time"], how="semi")
    ids = same.select(build_row_ids(key, values)).collect()
    log = of_series.select("_source", "series_id", "_offset", newest="event_time").sort("_offset").collect()
    log = log.with_columns(pl.col("newest").cum_max().over("_source", "series_id"))
    wanted = alone.select("_source", "series_id", "_offset").with_row_index("_nth").sort("_offset")
    before = wanted.join_asof(
        log, on="_offset", by=["_source", "series_id"], strategy="backward", check_sortedness=False
    ).sort("_nth")["newest"]
    return RowMemory(EMPTY.newest, ids), before


def _format_bytes(value: bytes | None) -> str | None:
    """Bytes as text, or as hexadecimal where they are no text."""
    if value is None:
        return None
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = f"0x{value.hex()}"
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}... ({len(value):,} bytes)"
