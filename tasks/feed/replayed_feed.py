"""Rows and lines as records that a feed reads: for `kind: files`, and for `tidemill replay`."""

import gzip
import hashlib
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from tasks.core.about import About
from tasks.core.calendar import Calendar, parse_step_length
from tasks.core.errors import FeedError
from tasks.core.frames import UTC
from tasks.edges.feeds.base import ReplayedRecords
from tasks.edges.files import compute_file_hash
from tasks.edges.settings import ROOT
from tasks.feed.params import TYPES, FeedParams
from tasks.feed.times import PER_SECOND, parse_utc_times
from tasks.ingest.replay import ReplayRows, read_dataset_rows, read_file_rows

_WEEK = timedelta(days=7)


def read_replayed_rows(
    what: str, params: FeedParams, now: datetime | None = None, root: Path = ROOT
) -> ReplayedRecords:
    """The rows of a dataset, or of a file, as records that a feed with *params* reads.

    what: a dataset of params.yaml, or the path of a file (it has a dot).
    now: all times are moved by whole steps (whole weeks where the calendar has days off), so that
    the last row is known then, or just before.
    """
    rows = read_file_rows(what) if "." in what else read_dataset_rows(what, root)
    frame = rows.frame if now is None else _align_to_now(rows, now)
    return ReplayedRecords(
        f"files:{what}/{rows.digest}",
        frame["known_at"],
        lambda first, n: _build_records(frame.slice(first, n), params),
    )


def read_replayed_lines(path: Path, params: FeedParams, about: About) -> ReplayedRecords:
    """A file of one record a line, as it is, by known_at.

    A line without a readable time stays behind the line before it.
    Raises FeedError when the file cannot be read, or no line has a time.
    """
    try:
        raw = path.read_bytes()
        lines = (gzip.decompress(raw) if raw.startswith(b"\x1f\x8b") else raw).splitlines()
    except OSError as error:
        raise FeedError(
            f"`feed.source.path` {path} cannot be read ({error}). Correct it; relative ones count from the"
            " checkout."
        ) from error
    values = pl.Series("_value", [line for line in lines if line.strip()], dtype=pl.Binary)
    calendar = Calendar(about.calendar, about.every, about.publish_delay_s)
    known = _parse_known_at(values, params, calendar)
    if known.null_count() == len(known):
        raise FeedError(
            f"{path} has no line with a time in {params.time_field!r} of the form {params.time_format!r}."
            " Correct `feed.time_field` and `feed.time_format`."
        )
    known = known.fill_null(strategy="forward").fill_null(strategy="backward")
    ordered = pl.DataFrame({"_value": values, "known_at": known}).sort("known_at", maintain_order=True)
    records = ordered.select(pl.lit(None, pl.Binary).alias("_key"), "_value")
    # Another order is another log
    digest = hashlib.sha256(
        compute_file_hash(path).encode() + ordered["known_at"].dt.timestamp("us").to_numpy().tobytes()
    )
    return ReplayedRecords(f"files:{path.name}/{digest.hexdigest()[:16]}", ordered["known_at"], records.slice)


def _build_records(rows: pl.DataFrame, params: FeedParams) -> pl.DataFrame:
    """_key and _value: flat JSON with the names and the forms that *params* expect."""
    values = [name for name in rows.columns if name not in {"series_id", "event_time", "known_at"}]
    fields: list[pl.Expr] = []
    if params.series_field is not None:
        fields.append(pl.col("series_id").alias(params.series_field))
    fields.append(_format_column("event_time", params.time_format).alias(params.time_field))
    if params.known_at_field is not None:
        fields.append(_format_column("known_at", params.time_format).alias(params.known_at_field))
    if params.closed_field is not None:
        fields.append(pl.lit(value=True).alias(params.closed_field))
    fields += [
        pl.col(name).cast(
            TYPES[spec.type] if (spec := params.fields.get(name)) else rows.schema[name], strict=False
        )
        for name in values
    ]
    return rows.select(
        pl.col("series_id").cast(pl.Binary).alias("_key"),
        pl.struct(fields).struct.json_encode().cast(pl.Binary).alias("_value"),
    )


def _format_column(column: str, form: str) -> pl.Expr:
    if form == "iso":
        return pl.col(column).dt.strftime("%Y-%m-%dT%H:%M:%S%.fZ")
    return pl.col(column).dt.timestamp("us") // (1_000_000 // PER_SECOND[form])


def _parse_known_at(values: pl.Series, params: FeedParams, calendar: Calendar) -> pl.Series:
    """When each record was known, as it says itself; null where that cannot be read."""
    field = params.known_at_field or params.time_field
    values_of_field: list[Any] = [_find_field(value, field) for value in values]
    if params.time_format == "iso":
        texts = [v if isinstance(v, str) else None for v in values_of_field]
        written = pl.Series("event_time", texts, dtype=pl.String)
    else:
        numbers = [v if isinstance(v, int) and abs(v) < 1 << 62 else None for v in values_of_field]
        written = pl.Series("event_time", numbers, dtype=pl.Int64)
    times = parse_utc_times(written, params.time_format).alias("event_time")
    if params.known_at_field is not None:
        return times
    return times.to_frame().select(calendar.nominal_known_at().cast(UTC)).to_series()


def _find_field(value: bytes, name: str) -> Any:
    import orjson

    try:
        record = orjson.loads(value)
    except orjson.JSONDecodeError:
        return None
    return record.get(name) if isinstance(record, dict) else None


def _align_to_now(rows: ReplayRows, now: datetime) -> pl.DataFrame:
    every, calendar = rows.about.every, rows.about.calendar
    if every.endswith(("mo", "q", "y")):
        raise FeedError(
            f"Steps of {every} differ in length, so their times cannot be moved to now. Replay without"
            " `--now`."
        )
    step = parse_step_length(every) if calendar == "continuous" else _WEEK
    last: datetime = rows.frame["known_at"].max()  # type: ignore[assignment]  # a datetime
    shift = (now - last) // step * step
    return rows.frame.with_columns(pl.col("event_time", "known_at") + shift)
