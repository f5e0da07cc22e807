"""Where each record belongs: a row, a late row, the quarantine, ... and which one is there already.

Everything is judged per series, in the order in which its records stand in their log, so that the
answer does not depend on how partitions were read beside each other, nor on where a batch ends.
"""

from collections.abc import Sequence
from functools import reduce
from operator import xor
from typing import NamedTuple
from zlib import crc32

import polars as pl

from tasks.core.frames import UTC
from tasks.feed.decode import DETAIL, LOST, RULE, DecodedBatch, convert_to_text
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
# That the table has; a duplicate is counted and not kept
PLACES = (ROW, LATE, UNCLOSED, TOMBSTONE, QUARANTINE, LOST)
MONTH = {"year": "%Y", "month": "%Y-%m", "day": "%Y-%m-%d"}
_TRIM_AT = 50_000  # ids, at least, that came since the last look which of them are late by now


class RowMemory(NamedTuple):
    """What is known of rows that are in the table. newest: series_id, newest event_time. ids: see
    `build_row_ids`.

    n_kept: of the ids, how many were left when the late ones were forgotten last.
    """

    newest: pl.DataFrame
    ids: pl.DataFrame
    n_kept: int = 0


EMPTY = RowMemory(
    pl.DataFrame(schema={"series_id": pl.String, "newest": UTC}),
    pl.DataFrame(schema={"_id": pl.UInt64, "_payload": pl.UInt64, "_series": pl.UInt64, "event_time": UTC}),
)


def sort_records(
    records: pl.DataFrame,
    decoded: DecodedBatch,
    params: FeedParams,
    every: str | None,
    memory: RowMemory,
    before: pl.Series | None = None,
) -> tuple[pl.DataFrame, RowMemory]:
    """(*records* with series_id, event_time, their fields, place, month and, where they are
    quarantined, bytes and rule; *memory* with their rows).

    before: of each record the newest time of its series before it, where that is not the memory's.
    every: the length of a bar, None where a record is closed whenever it was produced.
    records: RECORDS in their order, those with a value decoded row by row in *decoded*; the others
    are tombstones.
    """
    fields = _join_fields(records, decoded, params)
    fields = _validate_times(fields, params, every)
    fields = _validate_lateness(fields, params, memory, before)
    fields = _validate_ids(fields, params, memory)
    return _build_table_rows(fields, records, params), _update_memory(fields, params, memory)


def _join_fields(records: pl.DataFrame, decoded: DecodedBatch, params: FeedParams) -> pl.DataFrame:
    """The decoded fields beside their record, tombstones with nulls, with series_id, event_time
    and known_at.
    """
    told = records.select("_source", "_offset", "_timestamp", "_key", "_headers")
    if records["_value"].null_count():
        has_value = records["_value"].is_not_null()
        told = pl.concat(
            [told.filter(has_value).hstack(decoded.fields), told.filter(~has_value)], how="diagonal"
        )
        order = pl.concat([has_value.arg_true(), (~has_value).arg_true()])
        told = told.with_columns(
            order.alias("_order"),
            place=pl.when(order.is_in(has_value.arg_true())).then(None).otherwise(pl.lit(TOMBSTONE)),
        )
        told = told.sort("_order").drop("_order")
    else:
        told = told.hstack(decoded.fields).with_columns(place=pl.lit(None, pl.String))
    series = convert_to_text(told["_key"]) if params.series_field is None else told[params.series_field]
    times = [parse_utc_times(told[params.time_field], params.time_format).alias("event_time")]
    if params.known_at_field is not None:
        times.append(parse_utc_times(told[params.known_at_field], params.time_format).alias("known_at"))
    taken = {field for field in (params.series_field, params.time_field, params.known_at_field) if field}
    return told.with_columns(series.alias("series_id"), *times).drop(
        taken - {"series_id", "event_time", "known_at"}
    )


def _validate_times(fields: pl.DataFrame, params: FeedParams, every: str | None) -> pl.DataFrame:
    ahead = pl.col("event_time") > pl.col("_timestamp") + pl.duration(seconds=params.max_ahead_s)
    rules = [
        (
            pl.col("event_time").is_null(),
            "no_time",
            f"{params.time_field} is no {params.time_format} time between 1900 and 2200",
        ),
        (
            ahead,
            "time_ahead",
            f"{params.time_field} is more than `feed.max_ahead_s` after the record was produced",
        ),
        (pl.col("series_id").fill_null("") == "", "no_series", "neither a field nor a key names the series"),
    ]
    if params.known_at_field is not None:
        rules.append(
            (
                pl.col("known_at").is_null(),
                "no_time",
                f"{params.known_at_field} is no {params.time_format} time between 1900 and 2200",
            )
        )
    rule, detail = pl.col(RULE), pl.col(DETAIL)
    for breaks, name, said in rules:
        hit = rule.is_null() & breaks.fill_null(value=False) & pl.col("place").is_null()
        rule, detail = (
            pl.when(hit).then(pl.lit(name)).otherwise(rule),
            pl.when(hit).then(pl.lit(said)).otherwise(detail),
        )
    judged = fields.with_columns(rule.alias(RULE), detail.alias(DETAIL))
    open_bar = pl.lit(value=False)
    if params.closed_field is not None:
        open_bar = ~pl.col(params.closed_field)
    elif every is not None:
        open_bar = pl.col("event_time").dt.offset_by(every) > pl.col("_timestamp")
    place = (
        pl.when(pl.col("place").is_not_null())
        .then("place")
        .when(pl.col(RULE) == LOST)
        .then(pl.lit(LOST))
        .when(pl.col(RULE).is_not_null())
        .then(pl.lit(QUARANTINE))
        .when(open_bar)
        .then(pl.lit(UNCLOSED))
    )
    return judged.with_columns(place=place.otherwise(pl.lit(ROW)))


def _validate_lateness(
    fields: pl.DataFrame, params: FeedParams, memory: RowMemory, before: pl.Series | None
) -> pl.DataFrame:
    """Late: further behind its series' newest row, as it stood when the record was read, than
    `lateness_s`.
    """
    rows = pl.when(pl.col("place") == ROW).then("event_time")
    known = fields.join(memory.newest, on="series_id", how="left", maintain_order="left")
    known = known if before is None else known.with_columns(before.alias("newest"))
    so_far = pl.max_horizontal(rows.cum_max().over("series_id"), "newest")
    is_late = (pl.col("place") == ROW) & (
        pl.col("event_time") < so_far - pl.duration(seconds=params.lateness_s)
    )
    return known.with_columns(place=pl.when(is_late).then(pl.lit(LATE)).otherwise("place")).drop("newest")


def _validate_ids(fields: pl.DataFrame, params: FeedParams, memory: RowMemory) -> pl.DataFrame:
    """The same id and payload: once. The same id with another payload: quarantined."""
    if not params.dedupe:
        return fields.with_columns(_id=pl.lit(None, pl.UInt64), _payload=pl.lit(None, pl.UInt64))
    key = list_id_columns(params)
    mark = {params.closed_field} - set(params.fields)  # says what a record is, and is no value of it
    values = [c for c in fields.columns if not c.startswith("_") and c not in {"place", *key, *mark}]
    hashed = fields.with_columns(build_row_ids(key, values)[:2])
    rows = hashed.select("_id", "_payload", is_row=pl.col("place") == ROW)
    ours = rows.filter("is_row")
    known = memory.ids.select("_id", _was="_payload").join(ours.select("_id"), on="_id", how="semi")
    if known.is_empty() and ours["_id"].n_unique() == ours.height:
        return hashed
    judged = hashed.join(known, on="_id", how="left", maintain_order="left")
    is_row = pl.col("place") == ROW
    first = pl.when(is_row).then("_payload").drop_nulls().first().over("_id")  # of those in this batch
    nth = is_row.cast(pl.Int32).cum_sum().over("_id")
    was = pl.coalesce("_was", pl.when(nth > 1).then(first))
    again = is_row & was.is_not_null()
    same = was == pl.col("_payload")
    return judged.with_columns(
        place=pl.when(again & same)
        .then(pl.lit(DUPLICATE))
        .when(again)
        .then(pl.lit(QUARANTINE))
        .otherwise("place"),
        **{
            RULE: pl.when(again & ~same).then(pl.lit("duplicate_id")).otherwise(RULE),
            DETAIL: (
                pl.when(again & ~same)
                .then(pl.lit("a row of the same series and time has other values"))
                .otherwise(DETAIL)
            ),
        },
    ).drop("_was")


def list_id_columns(params: FeedParams) -> list[str]:
    """The columns by which a row is known again."""
    return ["series_id", "event_time", *(["known_at"] if params.known_at_field else []), *params.id_fields]


def build_row_ids(key: Sequence[str], values: Sequence[str]) -> list[pl.Expr]:
    """What is remembered of a row, 32 bytes: hashes _id of *key*, _payload of *values*, _series
    of its series, and event_time.
    """
    return [
        pl.struct(key).hash().alias("_id"),
        _build_payload_hash(values).alias("_payload"),
        pl.col("series_id").hash().alias("_series"),
        pl.col("event_time"),
    ]


def _build_payload_hash(names: Sequence[str]) -> pl.Expr:
    """One number for the values of the columns *names*, whatever their order; a null counts for
    nothing, so that a new column changes no older row's.
    """
    hashes = (
        pl.when(pl.col(name).is_not_null())
        .then(pl.col(name).hash(crc32(name.encode())))
        .otherwise(pl.lit(0, pl.UInt64))
        for name in names
    )
    return reduce(xor, hashes, pl.lit(0, pl.UInt64))


def _build_table_rows(fields: pl.DataFrame, records: pl.DataFrame, params: FeedParams) -> pl.DataFrame:
    """Table rows.

    A quarantined record keeps its bytes and no fields: what did not pass cannot be trusted to be
    what it says. So does one that is lost.
    """
    is_bad = pl.col("place").is_in([QUARANTINE, LOST])
    values = [
        c for c in fields.columns if not c.startswith("_") and c not in {"place", "series_id", "event_time"}
    ]
    month = pl.coalesce("event_time", "_timestamp").dt.strftime(MONTH[params.partition_by])
    done = fields.with_columns(
        records["_value"].alias("_raw"),
        month=pl.when(is_bad)
        .then(pl.col("_timestamp").dt.strftime(MONTH[params.partition_by]))
        .otherwise(month),
    )
    if fields["place"].is_in([QUARANTINE, LOST]).any():
        nothing = [pl.when(~is_bad).then(name).alias(name) for name in values]
        done = done.with_columns(*nothing, _raw=pl.when(is_bad).then("_raw"))
    else:
        done = done.with_columns(_raw=pl.lit(None, pl.Binary))
    return done.drop("_id", "_payload")


def _update_memory(fields: pl.DataFrame, params: FeedParams, memory: RowMemory) -> RowMemory:
    rows = fields.filter(pl.col("place") == ROW)
    newest = (
        pl.concat([memory.newest, rows.select("series_id", newest="event_time")])
        .group_by("series_id")
        .agg(pl.col("newest").max())
    )
    if not params.dedupe:
        return RowMemory(newest, memory.ids)
    ids = pl.concat(
        [
            memory.ids,
            rows.select("_id", "_payload", pl.col("series_id").hash().alias("_series"), "event_time"),
        ]
    )
    if ids.height < memory.n_kept * 1.25 + _TRIM_AT:
        return RowMemory(newest, ids, memory.n_kept)
    kept = filter_memory_ids(ids, newest, params)
    return RowMemory(newest, kept, kept.height)


def filter_memory_ids(ids: pl.DataFrame, newest: pl.DataFrame, params: FeedParams) -> pl.DataFrame:
    """*ids* without those that would be late now, and of the rest the newest `max_ids`, or a few
    less where times are equal.
    """
    by_series = newest.select(
        _series=pl.col("series_id").hash(), horizon=pl.col("newest") - pl.duration(seconds=params.lateness_s)
    )
    # Columns one by one: ids are many, and none is copied before it is known to stay
    times = ids["event_time"]
    alive = (
        times
        >= ids.select("_series").join(by_series, on="_series", how="left", maintain_order="left")["horizon"]
    )
    if (alive.sum() or 0) > params.max_ids:
        alive &= times > times.filter(alive).sort(descending=True)[params.max_ids]
    return ids.filter(alive)
