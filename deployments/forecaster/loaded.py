"""A release and its rows as they are in use, with the forecasts made of them so far."""

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import polars as pl

from tasks.core.reports.package import EvaluationFigures, Provenance
from tasks.edges.artifacts import read_last_report
from tasks.edges.served import StoredRow
from tasks.release import Manifest, Release, predict_cutoffs

MAX_CACHED_ROWS, MAX_CACHED_TIMES = 200_000, 256  # forecasts kept in memory: some 10 MB

Stamp = tuple[object, ...]
BY_REQUEST = "request"


@dataclass(frozen=True)
class ReleaseChoice:
    """A release to load: its folder, the version it is shown under, and what chose it.

    chosen_by: BY_REQUEST for a version that a request names.
    """

    folder: Path
    version: str
    chosen_by: str


class ReadySeries(NamedTuple):
    """A forecast of a series from stored rows, ready to be sent and recorded.

    content: its JSON in an answer.
    rows: of the store, by step.
    cutoff: of the forecast. newest: known_at of its newest row.
    is_complete: whether no quantile is null.
    """

    content: str
    rows: tuple[StoredRow, ...]
    cutoff: datetime
    newest: datetime
    is_complete: bool


@dataclass(frozen=True, eq=False)
class LoadedRelease:
    """A release and its rows, as they are in use.

    One object, replaced as a whole, so that a request uses one release and one set of rows.
    """

    release: Release
    manifest: Manifest
    choice: ReleaseChoice
    rows: pl.DataFrame
    rows_stamp: Stamp  # of the published file; empty: the rows in the release
    rows_version: str  # sha256 of the rows' file
    cache: OrderedDict[datetime, pl.DataFrame] = field(default_factory=OrderedDict)
    lock: threading.Lock = field(default_factory=threading.Lock)  # for the cache, which several threads use
    ready: dict[str, ReadySeries] = field(default_factory=dict)  # the newest, by series, as requested so far

    @property
    def is_in_use(self) -> bool:
        """Whether it answers by itself, and not only requests that name its version."""
        return self.choice.chosen_by != BY_REQUEST

    @cached_property
    def newest_known(self) -> datetime:
        """The newest `known_at` of the rows."""
        return compute_known_span(self.rows)[1]

    @cached_property
    def provenance(self) -> Provenance | None:
        """None when it is missing or has another form, since it is outside the digest."""
        return read_last_report(self.release.folder / "provenance.json", Provenance)

    @property
    def metrics(self) -> EvaluationFigures | None:
        """Figures of the release's evaluation, from its provenance."""
        return None if self.provenance is None else self.provenance.metrics

    @property
    def code_commit(self) -> str | None:
        """Of the code that built the release, with `+` where something was not committed."""
        if self.provenance is None or (commit := self.provenance.code.commit) is None:
            return None
        return f"{commit}+" if self.provenance.code.uncommitted else commit

    @cached_property
    def series(self) -> list[str]:
        """The series in the rows, sorted."""
        return self.rows["series_id"].unique().sort().to_list()

    @cached_property
    def newest_by_series(self) -> dict[str, datetime]:
        """The newest `known_at` of each series."""
        return dict(self.rows.group_by("series_id").agg(pl.col("known_at").max()).iter_rows())

    def predict(self, as_of: datetime) -> pl.DataFrame:
        """Forecasts of all series from what was known at *as_of*.

        They are cached, since they are a pure function of release, rows and time.
        """
        with self.lock:
            if as_of in self.cache:
                self.cache.move_to_end(as_of)
                return self.cache[as_of]
        forecasts = predict_cutoffs(self.release, self.rows, [as_of])
        with self.lock:
            self.cache[as_of] = forecasts
            if self.newest_known in self.cache:
                self.cache.move_to_end(self.newest_known)  # the most frequent request stays
            while len(self.cache) > MAX_CACHED_TIMES or (
                len(self.cache) > 1 and sum(frame.height for frame in self.cache.values()) > MAX_CACHED_ROWS
            ):
                self.cache.popitem(last=False)
        return forecasts


def format_iso(time: datetime) -> str:
    """ISO 8601 in UTC, with Z."""
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")


def read_stamp(path: Path) -> Stamp:
    """A value that changes when the file does; empty when there is none."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return (found.st_mtime_ns, found.st_ino, found.st_size)


def compute_known_span(rows: pl.DataFrame) -> tuple[datetime, datetime]:
    """First and newest `known_at` of a SERIES frame that is not empty."""
    first, newest = rows["known_at"].min(), rows["known_at"].max()
    assert isinstance(first, datetime), "SERIES has datetimes"
    assert isinstance(newest, datetime), "SERIES has datetimes"
    return first, newest


def list_value_columns(rows: pl.DataFrame) -> list[str]:
    """Columns of a SERIES frame that hold numbers."""
    return [c for c, dtype in rows.schema.items() if dtype.is_float()]
