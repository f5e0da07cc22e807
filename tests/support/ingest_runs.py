"""Feeds written by a test, and ingest run on them without a params.yaml."""

import json
from datetime import UTC, datetime, timedelta

import polars as pl

from tasks.core.about import About, Target
from tasks.ingest.params import FilesSource
from tasks.ingest.source import build_source
from tasks.ingest.stage import read_source

START = datetime(2024, 1, 1, tzinfo=UTC)


def about_of(every="1h", **more):
    return About(
        description="t", every=every, target=Target(column="value", unit="u"), horizon_steps=2, **more
    )


def files_source(layout="long", **more):
    defaults = {
        "kind": "files",
        "format": "csv",
        "layout": layout,
        "time_column": None if layout == "row_per_series" else "time",
    }
    values = {} if layout == "row_per_series" else {"value_columns": ("value",)}
    return FilesSource.model_validate(defaults | values | more)


def fill(folder, files):
    """data/source with *files* (name: text, bytes or a path to link to)."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if isinstance(content, str | bytes):
            (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
        else:
            (folder / name).symlink_to(content)
    (folder / "source.json").write_text(json.dumps({"kind": "files", "files": sorted(files)}))
    return folder


def run_ingest(folder, files, source, about=None, **caps):
    about = about or about_of()
    return read_source(build_source(source, about, fill(folder, files)), about, report=lambda _: None, **caps)


def hourly(values, series="a", start=START):
    """A SERIES-like frame with one column `value`, an hour apart."""
    times = [start + timedelta(hours=i) for i in range(len(values))]
    frame = pl.DataFrame(
        {"series_id": [series] * len(values), "event_time": times, "value": values},
        schema_overrides={"value": pl.Float64},
    )
    return frame.select(
        "series_id", "event_time", (pl.col("event_time") + timedelta(hours=1)).alias("known_at"), "value"
    )
