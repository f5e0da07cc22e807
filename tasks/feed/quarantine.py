"""What is in the quarantine, and how it gets out: decoded again by today's settings, as though they
had been today's when it came.

A replayed record is judged by the records before it in its own log: it may be older than its
series' newest row by weeks and is not late for that. It leaves the quarantine and becomes what it
is now in one commit, so a kill, or a second replay, doubles nothing. It keeps the rule that it
broke, as the note that it was replayed.
"""

from datetime import UTC, datetime
from typing import NamedTuple

import polars as pl

from tasks.core.errors import FeedError, OffsetMovedError
from tasks.core.records import RECORDS
from tasks.edges.delta import VersionedTable, replace_files
from tasks.feed.decode import DETAIL, RULE, RecordReader
from tasks.feed.formats import build_decoder
from tasks.feed.land import add_new_columns, build_contract
from tasks.feed.params import FeedParams
from tasks.feed.sort import (
    DUPLICATE,
    EMPTY,
    QUARANTINE,
    ROW,
    RowMemory,
    build_row_ids,
    list_id_columns,
    sort_records,
)

_TRIES = 5  # commits that another rewriting of files may refuse; each of those is over in a second
_SHOWN = 10_000  # characters of a record that are shown
_ONLY = {"place": QUARANTINE}


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
    found = by_rule.agg(
        n_records=pl.len(),
        first=pl.col("_timestamp").min(),
        last=pl.col("_timestamp").max(),
        n_sources=pl.col("_source").n_unique(),
    )
    ordered = found.sort("n_records", "rule", descending=[True, False]).collect()
    return [BrokenRule(**row) for row in ordered.iter_rows(named=True)]


def find_records(table: VersionedTable, offset: int, source: str = "") -> list[QuarantinedRecord]:
    """Quarantined records at *offset* of sources that end in *source*.

    Raises FeedError when there are none.
    """
    at = table.scan(_ONLY).filter((pl.col("_offset") == offset) & pl.col("_source").str.ends_with(source))
    found = (
        at.select("_source", "_offset", "_timestamp", "_key", "_headers", RULE, DETAIL, "_raw")
        .collect()
        .to_dicts()
    )
    if not found:
        where = f" of a source that ends in {source!r}" if source else ""
        raise FeedError(
            f"Offset {offset}{where} is not in the quarantine. `tidemill quarantine list` says what is; a"
            " replayed record is in its place."
        )
    texts = (
        {
            **{name.removeprefix("_"): value for name, value in row.items()},
            "key": _format_bytes(row["_key"]),
            "raw": _format_bytes(row["_raw"]),
        }
        for row in found
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
    """Take quarantined records (those of *rule*) out where they pass now.

    Returns {rule -> {place -> records}}; `quarantine` are those that stay.
    """
    found: list[tuple[str, str, int]] = []
    for _ in range(_TRIES):
        found = [one for one in found if one[1] != QUARANTINE]  # what earlier tries took out
        try:
            table.refresh()
            for files in table.list_file_groups(_ONLY, "_offset"):
                found += _replay_files(table, files, params, every, reader, rule, dry_run=dry_run)
        except OffsetMovedError:  # files were merged under us: look at those that are there now
            continue
        counts: dict[str, dict[str, int]] = {was: {} for was, _, _ in found}
        for was, place, n in found:
            counts[was][place] = counts[was].get(place, 0) + n
        return counts
    raise FeedError(
        f"{table.folder.name}: other writers rewrote its files {_TRIES} times meanwhile. Nothing was lost;"
        " start the replay again."
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
    """One commit: what passes now of *files* leaves them. Returns (rule, place, records)."""
    held = table.scan_files(files).collect().with_row_index("_nth")
    picked = held.filter(pl.col(RULE) == rule if rule else pl.lit(value=True)).sort("_source", "_offset")
    records = picked.select(*(pl.col("_raw" if name == "_value" else name).alias(name) for name in RECORDS))
    decoded = build_decoder(build_contract(params, table.columns), reader).decode(records["_value"])
    alone, _ = sort_records(records, decoded, params, every, EMPTY)
    memory, before = _build_earlier_memory(table, params, alone)
    judged, _ = sort_records(records, decoded, params, every, memory, before)
    counts = judged.with_columns(picked[RULE].alias("_was")).group_by("_was", "place").agg(pl.len()).rows()
    passes = judged["place"] != QUARANTINE
    if dry_run or not passes.any():
        return counts
    at = datetime.now(UTC).isoformat(timespec="seconds")
    noted = pl.lit(f"replayed {at}; before: ") + picked[DETAIL]
    out = judged.with_columns(picked[RULE].alias(RULE), noted.alias(DETAIL)).filter(
        passes & (judged["place"] != DUPLICATE)
    )
    out, added = add_new_columns(table, out, decoded)
    stays = held.filter(~pl.col("_nth").is_in(picked.filter(passes)["_nth"].implode())).drop("_nth")
    note = {"replayed": int(passes.sum()), "added": added}
    replace_files(table, files, pl.concat([stays, out], how="diagonal"), note)
    return counts


def _build_earlier_memory(
    table: VersionedTable, params: FeedParams, alone: pl.DataFrame
) -> tuple[RowMemory, pl.Series]:
    """(the ids of the table's rows that *alone*'s rows may repeat; of each of *alone* its
    series' newest row before it in its log).
    """
    rows = alone.filter(pl.col("place") == ROW)
    key = list_id_columns(params)
    values = [
        name
        for name in table.columns
        if not name.startswith("_") and name not in {"place", "month", "known_at", *key}
    ]
    theirs = table.scan({"place": ROW}).join(
        rows.lazy().select("series_id").unique(), on="series_id", how="semi"
    )
    same = theirs.join(
        rows.lazy().select("series_id", "event_time").unique(), on=["series_id", "event_time"], how="semi"
    )
    ids = same.select(build_row_ids(key, values)).collect()
    log = theirs.select("_source", "series_id", "_offset", newest="event_time").sort("_offset").collect()
    log = log.with_columns(pl.col("newest").cum_max().over("_source", "series_id"))
    asked = alone.select("_source", "series_id", "_offset").with_row_index("_nth").sort("_offset")
    before = asked.join_asof(
        log, on="_offset", by=["_source", "series_id"], strategy="backward", check_sortedness=False
    ).sort("_nth")["newest"]
    return RowMemory(EMPTY.newest, ids), before


def _format_bytes(value: bytes | None) -> str | None:
    """Bytes as text, or as hexadecimal where they are none."""
    if value is None:
        return None
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = f"0x{value.hex()}"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(value):,} bytes)"
