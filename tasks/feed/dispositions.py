"""What becomes of each record: a row, a late row, quarantine, ..., or a duplicate. Pure.

Everything is decided per series, in the order in which its records are in their log. So the result
does not depend on how partitions were read at the same time, nor on where a batch ends.
"""

from collections.abc import Sequence
from functools import reduce
from operator import xor
from typing import NamedTuple
from zlib import crc32

import polars as pl

from tasks.core.frames import UTC
from tasks.feed.contract import DETAIL, LOST, RULE
from tasks.feed.decode import DecodedBatch, convert_to_text
from tasks.feed.params import FeedParams
from tasks.feed.times import parse_utc_times

ROW, LATE, UNCLOSED, TOMBSTONE, QUARANTINE, DUPLICATE = (
    "row",
    "late",
    "unclosed",
    "tombstone",
    "quarantine",
    "duplicate",
)
# Those that the table has; a duplicate is counted and not kept
DISPOSITIONS = (ROW, LATE, UNCLOSED, TOMBSTONE, QUARANTINE, LOST)
MONTH = {"year": "%Y", "month": "%Y-%m", "day": "%Y-%m-%d"}
_TRIM_AT = 50_000  # ids, at least, that came since it was last checked which of them are late by now


class RowMemory(NamedTuple):
    """What is known of rows that are in the table.

    newest: series_id, newest event_time.
    ids: see `build_row_ids`.
    n_kept: of the ids, how many were left when the late ones were forgotten last.
    """

    newest: pl.DataFrame
    ids: pl.DataFrame
    n_kept: int = 0


EMPTY = RowMemory(
    pl.DataFrame(schema={"series_id": pl.String, "newest": UTC}),
    pl.DataFrame(schema={"_id": pl.UInt64, "_payload": pl.UInt64, "_series": pl.UInt64, "event_time": UTC}),
)


def decide_dispositions(
    records: pl.DataFrame,
    decoded: DecodedBatch,
    params: FeedParams,
    every: str | None,
    memory: RowMemory,
    before: pl.Series | None = None,
) -> tuple[pl.DataFrame, RowMemory]:
    """(rows of the table for *records*, *memory* with those of them that are rows).

    records: RECORDS in their order. Those with a value are decoded row by row in *decoded*; the
    others are tombstones.
    every: the length of a bar; None where a record is closed whenever it was produced.
    before: of each record the newest time of its series before it, where the memory has another.
    Returned rows have series_id, event_time, their fields, disposition, month and, in quarantine,
    bytes and rule.
    """
    fields = _join_fields(records, decoded, params)
    fields = _validate_times(fields, params, every)
    fields = _validate_lateness(fields, params, memory, before)
    fields = _validate_ids(fields, params, memory)
    return _build_table_rows(fields, records, params), _update_memory(fields, params, memory)


def _join_fields(records: pl.DataFrame, decoded: DecodedBatch, params: FeedParams) -> pl.DataFrame:
    """Each record with its decoded fields, series_id, event_time and known_at.

    Tombstones have nulls.
    """
    joined = records.select("_source", "_offset", "_timestamp", "_key", "_headers")
    if records["_value"].null_count():
        has_value = records["_value"].is_not_null()
        with_value = joined.filter(has_value).hstack(decoded.fields)
        joined = pl.concat([with_value, joined.filter(~has_value)], how="diagonal")
        order = pl.concat([has_value.arg_true(), (~has_value).arg_true()])
        is_tombstone = ~order.is_in(has_value.arg_true())
        disposition = pl.when(is_tombstone).then(pl.lit(TOMBSTONE)).otherwise(pl.lit(None, pl.String))
        joined = (
            joined.with_columns(order.alias("_order"), disposition=disposition).sort("_order").drop("_order")
        )
    else:
        joined = joined.hstack(decoded.fields).with_columns(disposition=pl.lit(None, pl.String))
    series = convert_to_text(joined["_key"]) if params.series_field is None else joined[params.series_field]
    times = [parse_utc_times(joined[params.time_field], params.time_format).alias("event_time")]
    if params.known_at_field is not None:
        times.append(parse_utc_times(joined[params.known_at_field], params.time_format).alias("known_at"))
    taken = {field for field in (params.series_field, params.time_field, params.known_at_field) if field}
    return joined.with_columns(series.alias("series_id"), *times).drop(
        taken - {"series_id", "event_time", "known_at"}
    )


def _list_time_rules(params: FeedParams) -> list[tuple[pl.Expr, str, str]]:
    """(what breaks it, rule, detail), the first that holds counts."""
    no_time = "is no {} time between 1900 and 2200"
    ahead = pl.col("event_time") > pl.col("_timestamp") + pl.duration(seconds=params.max_ahead_s)
    rules = [
        (
            pl.col("event_time").is_null(),
            "no_time",
            f"{params.time_field} {no_time.format(params.time_format)}",
        ),
        (
            ahead,
            "time_ahead",
            f"{params.time_field} is more than `feed.max_ahead_s` after the record was produced",
        ),
        (pl.col("series_id").fill_null("") == "", "no_series", "neither a field nor a key names the series"),
    ]
    if params.known_at_field is not None:
        detail = f"{params.known_at_field} {no_time.format(params.time_format)}"
        rules.append((pl.col("known_at").is_null(), "no_time", detail))
    return rules


def _validate_times(fields: pl.DataFrame, params: FeedParams, every: str | None) -> pl.DataFrame:
    """disposition: of all records whose disposition is not that of a row as it is."""
    rule, detail = pl.col(RULE), pl.col(DETAIL)
    for breaks, name, reason in _list_time_rules(params):
        is_hit = rule.is_null() & breaks.fill_null(value=False) & pl.col("disposition").is_null()
        rule = pl.when(is_hit).then(pl.lit(name)).otherwise(rule)
        detail = pl.when(is_hit).then(pl.lit(reason)).otherwise(detail)
    validated = fields.with_columns(rule.alias(RULE), detail.alias(DETAIL))
    is_open = pl.lit(value=False)
    if params.closed_field is not None:
        is_open = ~pl.col(params.closed_field)
    elif every is not None:
        is_open = pl.col("event_time").dt.offset_by(every) > pl.col("_timestamp")
    disposition = (
        pl.when(pl.col("disposition").is_not_null())
        .then("disposition")
        .when(pl.col(RULE) == LOST)
        .then(pl.lit(LOST))
        .when(pl.col(RULE).is_not_null())
        .then(pl.lit(QUARANTINE))
        .when(is_open)
        .then(pl.lit(UNCLOSED))
    )
    return validated.with_columns(disposition=disposition.otherwise(pl.lit(ROW)))


def _validate_lateness(
    fields: pl.DataFrame, params: FeedParams, memory: RowMemory, before: pl.Series | None
) -> pl.DataFrame:
    """Late is a row more than `lateness_s` behind its series' newest row when it was read."""
    times = pl.when(pl.col("disposition") == ROW).then("event_time")
    known = fields.join(memory.newest, on="series_id", how="left", maintain_order="left")
    known = known if before is None else known.with_columns(before.alias("newest"))
    newest = pl.max_horizontal(times.cum_max().over("series_id"), "newest")
    is_late = (pl.col("disposition") == ROW) & (
        pl.col("event_time") < newest - pl.duration(seconds=params.lateness_s)
    )
    return known.with_columns(disposition=pl.when(is_late).then(pl.lit(LATE)).otherwise("disposition")).drop(
        "newest"
    )


def _validate_ids(fields: pl.DataFrame, params: FeedParams, memory: RowMemory) -> pl.DataFrame:
    """Keep one row of an id with one payload; quarantine the id with another payload."""
    if not params.dedupe:
        return fields.with_columns(_id=pl.lit(None, pl.UInt64), _payload=pl.lit(None, pl.UInt64))
    key = list_id_columns(params)
    # The closed field says what a record is, and is no value of it
    closed = {params.closed_field} - set(params.fields)
    values = [c for c in fields.columns if not c.startswith("_") and c not in {"disposition", *key, *closed}]
    hashed = fields.with_columns(build_row_ids(key, values)[:2])
    rows = hashed.select("_id", "_payload", is_row=pl.col("disposition") == ROW).filter("is_row")
    known = memory.ids.select("_id", _was="_payload").join(rows.select("_id"), on="_id", how="semi")
    if known.is_empty() and rows["_id"].n_unique() == rows.height:
        return hashed
    joined = hashed.join(known, on="_id", how="left", maintain_order="left")
    is_row = pl.col("disposition") == ROW
    first = pl.when(is_row).then("_payload").drop_nulls().first().over("_id")  # of those in this batch
    nth = is_row.cast(pl.Int32).cum_sum().over("_id")
    earlier = pl.coalesce("_was", pl.when(nth > 1).then(first))
    is_repeated = is_row & earlier.is_not_null()
    is_same = earlier == pl.col("_payload")
    rule, detail = pl.lit("duplicate_id"), pl.lit("a row of the same series and time has other values")
    return joined.with_columns(
        disposition=pl.when(is_repeated & is_same)
        .then(pl.lit(DUPLICATE))
        .when(is_repeated)
        .then(pl.lit(QUARANTINE))
        .otherwise("disposition"),
        **{
            RULE: pl.when(is_repeated & ~is_same).then(rule).otherwise(RULE),
            DETAIL: pl.when(is_repeated & ~is_same).then(detail).otherwise(DETAIL),
        },
    ).drop("_was")


def list_id_columns(params: FeedParams) -> list[str]:
    """The columns by which a row is recognized."""
    return ["series_id", "event_time", *(["known_at"] if params.known_at_field else []), *params.id_fields]


def build_row_ids(key: Sequence[str], values: Sequence[str]) -> list[pl.Expr]:
    """What is remembered of a row, 32 bytes.

    Hashes: _id of *key*, _payload of *values*, _series of its series; and event_time.
    """
    return [
        pl.struct(key).hash().alias("_id"),
        _build_payload_hash(values).alias("_payload"),
        pl.col("series_id").hash().alias("_series"),
        pl.col("event_time"),
    ]


def _build_payload_hash(names: Sequence[str]) -> pl.Expr:
    """One number for the values of the columns *names*, whatever their order.

    A null counts for nothing, so that a new column changes the number of no older row.
    """
    hashes = (
        pl.when(pl.col(name).is_not_null())
        .then(pl.col(name).hash(crc32(name.encode())))
        .otherwise(pl.lit(0, pl.UInt64))
        for name in names
    )
    return reduce(xor, hashes, pl.lit(0, pl.UInt64))


def _build_table_rows(fields: pl.DataFrame, records: pl.DataFrame, params: FeedParams) -> pl.DataFrame:
    """Rows of the table.

    A record in quarantine keeps its bytes and no fields, since they may not be what they claim to
    be. So does one that is lost.
    """
    is_bad = pl.col("disposition").is_in([QUARANTINE, LOST])
    names = [
        c
        for c in fields.columns
        if not c.startswith("_") and c not in {"disposition", "series_id", "event_time"}
    ]
    form = MONTH[params.partition_by]
    month = pl.coalesce("event_time", "_timestamp").dt.strftime(form)
    rows = fields.with_columns(
        records["_value"].alias("_raw"),
        month=pl.when(is_bad).then(pl.col("_timestamp").dt.strftime(form)).otherwise(month),
    )
    if fields["disposition"].is_in([QUARANTINE, LOST]).any():
        nulled = [pl.when(~is_bad).then(name).alias(name) for name in names]
        rows = rows.with_columns(*nulled, _raw=pl.when(is_bad).then("_raw"))
    else:
        rows = rows.with_columns(_raw=pl.lit(None, pl.Binary))
    return rows.drop("_id", "_payload")


def _update_memory(fields: pl.DataFrame, params: FeedParams, memory: RowMemory) -> RowMemory:
    rows = fields.filter(pl.col("disposition") == ROW)
    times = pl.concat([memory.newest, rows.select("series_id", newest="event_time")])
    newest = times.group_by("series_id").agg(pl.col("newest").max())
    if not params.dedupe:
        return RowMemory(newest, memory.ids)
    series = pl.col("series_id").hash().alias("_series")
    ids = pl.concat([memory.ids, rows.select("_id", "_payload", series, "event_time")])
    if ids.height < memory.n_kept * 1.25 + _TRIM_AT:
        return RowMemory(newest, ids, memory.n_kept)
    kept = filter_memory_ids(ids, newest, params)
    return RowMemory(newest, kept, kept.height)


def filter_memory_ids(ids: pl.DataFrame, newest: pl.DataFrame, params: FeedParams) -> pl.DataFrame:
    """*ids* without those that would be late now.

    Of the rest the newest `max_ids`, or a few less where times are equal.
    """
    lateness = pl.duration(seconds=params.lateness_s)
    by_series = newest.select(_series=pl.col("series_id").hash(), horizon=pl.col("newest") - lateness)
    # Column by column: ids are many, and none is copied before it is known to stay
    times = ids["event_time"]
    horizons = ids.select("_series").join(by_series, on="_series", how="left", maintain_order="left")
    is_kept = times >= horizons["horizon"]
    if (is_kept.sum() or 0) > params.max_ids:
        is_kept &= times > times.filter(is_kept).sort(descending=True)[params.max_ids]
    return ids.filter(is_kept)
