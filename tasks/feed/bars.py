"""Bars of a feed of ticks, in a Delta table of their own next to the ticks' table.

Rows are appended and never change. All that is known about the bars is in their commits: for each
log the offset up to which its ticks are in them, and the end up to which windows are closed. So a
process that was killed goes on where the last commit was, and a second one that closes the same
window is refused.

A closing reads, for each series, the ticks from the earliest moment at which anything may have
changed: where the last closing ended, or where a tick came late. A bar that is different in the
table is appended as its next vintage. A session that became two, or was joined to another, is
withdrawn by a vintage with no ticks.
"""

from datetime import UTC as ZONE
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path

import polars as pl

from tasks.core import gaps
from tasks.core.calendar import Calendar, format_step_multiple
from tasks.core.errors import FeedError, OffsetMovedError
from tasks.core.frames import UTC
from tasks.core.gaps import GAPS
from tasks.core.records import Offsets
from tasks.edges.delta import REPLAYS, VersionedTable, commit_rows
from tasks.feed.aggregate import N_TICKS, TICK, build_bars, compute_reach_before
from tasks.feed.dispositions import ROW
from tasks.feed.params import AggregateParams, FeedParams

# Of a row: the closing that appended it, from 1; how often the bar had been there before
CLOSING, VINTAGE = "_closing", "_vintage"
# Kept as offsets are: microseconds since 1970; how many; the ticks' REPLAYS
END, CLOSINGS, REPLAYED = "end", "closings", "replayed"
_KEY = ["series_id", "event_time"]
_COLUMNS = {
    "series_id": pl.String(),
    "event_time": UTC,
    "known_at": UTC,
    "month": pl.String(),
    N_TICKS: pl.Int64(),
    "_timestamp": UTC,
    VINTAGE: pl.Int64(),
    CLOSING: pl.Int64(),
}
_TICKS = {"disposition": ROW}
_EPOCH = datetime(1970, 1, 1, tzinfo=ZONE)
_LONG_AGO = datetime(1, 1, 1, tzinfo=ZONE)
_MAX_TRIES = 5  # commits that another member may be before


class BarsTable:
    """The bars that feed.aggregate makes of the ticks in *folder*.

    The table's name has a digest of *spec*: other bars are another table.
    """

    def __init__(self, folder: Path, params: FeedParams, spec: AggregateParams) -> None:
        self._spec = spec
        columns = {**_COLUMNS, **dict.fromkeys(spec.columns, pl.Float64())}
        self.table = VersionedTable(
            folder / build_bars_name(spec), columns, ["month"], sync=params.sync, keep_log_h=params.keep_log_h
        )

    @property
    def end(self) -> datetime | None:
        """Up to where windows are closed; None while none is."""
        end_us = self.table.find_offset(END)
        return None if end_us is None else _EPOCH + timedelta(microseconds=end_us)

    @property
    def offsets(self) -> dict[str, int]:
        """Up to where the ticks of each log are in the bars."""
        stored = self.table.list_offsets()
        return {
            source: offset for source, offset in stored.items() if source not in {END, CLOSINGS, REPLAYED}
        }

    @property
    def n_closings(self) -> int:
        """How many closings have been."""
        return self.table.find_offset(CLOSINGS) or 0

    @property
    def time_span(self) -> tuple[datetime, datetime] | None:
        """Times of the first and the last bar; None while there is none."""
        first, last = self.table.find_least("event_time"), self.table.find_greatest("event_time")
        return None if first is None or last is None else (first, last)

    def close(self, ticks: VersionedTable, end: datetime) -> bool:
        """Make the bars those of all *ticks* below *end*, or below where they ended before.

        Returns whether anything had to be done.
        Raises FeedError where a RESTORE by another program has taken bars back.
        """
        for _ in range(_MAX_TRIES):
            self.table.refresh()
            if self._is_ahead_of(ticks):
                return False
            closed = max(end, self.end or end)
            rows = self._build_vintages(ticks, closed)
            if rows.is_empty() and closed == self.end:
                return False
            begins = self.table.list_offsets()
            ends = {
                **ticks.list_offsets(),
                END: (closed - _EPOCH) // timedelta(microseconds=1),
                CLOSINGS: self.n_closings + 1,
                REPLAYED: ticks.find_offset(REPLAYS) or 0,
            }
            try:
                note = {"bars": rows.height, "end": closed.isoformat()}
                commit_rows(self.table, rows, begins, ends, note)
            except OffsetMovedError as error:
                if self.table.is_restored:
                    raise FeedError(
                        f"{error} Bars do not follow: remove {self.table.folder}, and they are made again"
                        " from the ticks."
                    ) from error
            else:
                return True
        return False  # other members close it each time

    def _is_ahead_of(self, ticks: VersionedTable) -> bool:
        """Whether the bars hold ticks of another member that *ticks* has not read yet."""
        n_replays, n_seen = ticks.find_offset(REPLAYS) or 0, self.table.find_offset(REPLAYED) or 0
        if n_replays != n_seen:
            return n_replays < n_seen
        offsets = ticks.list_offsets()
        return any(offsets.get(source, 0) < offset for source, offset in self.offsets.items())

    def select_newest(self, least: datetime | None = None) -> pl.DataFrame:
        """The newest vintage of each bar from *least* on, sorted.

        Sessions that were withdrawn are among them, with no ticks.
        """
        rows = self.table.scan(None, None if least is None else {"event_time": least})
        if least is not None:
            rows = rows.filter(pl.col("event_time") >= least)
        return rows.collect().sort(*_KEY, VINTAGE).unique(_KEY, keep="last", maintain_order=True)

    def find_changed_after(self, n_closings: int) -> pl.DataFrame:
        """series_id, event_time of the bars that closings after the first *n_closings* changed."""
        rows = self.table.scan(None, {CLOSING: n_closings + 1}, [*_KEY, CLOSING, VINTAGE])
        changed = rows.filter(pl.col(CLOSING) > n_closings, pl.col(VINTAGE) > 0)
        return changed.select(_KEY).unique().collect()

    def find_gaps(self, calendar: Calendar) -> pl.DataFrame:
        """GAPS: steps of *calendar* without a bar, between the first and the last of each series.

        Sessions have no gaps.
        """
        if self._spec.gap_s is not None:
            return pl.DataFrame(schema=dict(GAPS.columns))
        rows = self.table.scan(columns=[*_KEY, N_TICKS, VINTAGE])
        newest = rows.group_by(_KEY).agg(pl.col(N_TICKS).sort_by(VINTAGE).last()).filter(pl.col(N_TICKS) > 0)
        return gaps.find_gaps(newest.select(_KEY).sort(_KEY).collect(), calendar)

    def _build_vintages(self, ticks: VersionedTable, end: datetime) -> pl.DataFrame:
        """The vintages to append."""
        since = self._find_changes(ticks, end)
        if since.is_empty():
            return pl.DataFrame(schema=self.table.columns)
        least = since["reach"].min()
        rows = ticks.scan(_TICKS, {"event_time": least}, [*TICK, *self._spec.fields]).filter(
            pl.col("event_time") < end, pl.col("event_time") >= least
        )
        needed = (
            rows.join(since.lazy(), on="series_id")
            .filter(pl.col("event_time") >= pl.col("reach"))
            .drop("reach", "bar")
            .collect()
        )
        built = _filter_since(build_bars(needed, self._spec, end), since)
        stored = _filter_since(
            self.select_newest(since["bar"].min()),  # type: ignore[arg-type]  # a datetime
            since,
        )
        values = [*_KEY, N_TICKS, "_timestamp", *self._spec.columns]
        same = built.join(stored.select(values), on=values, how="semi", nulls_equal=True).select(_KEY)
        new = built.join(same, on=_KEY, how="anti")
        gone = stored.filter(pl.col(N_TICKS) > 0).join(built, on=_KEY, how="anti")
        withdrawn = gone.select(*_KEY, "known_at", "_timestamp").with_columns(
            pl.lit(0, pl.Int64).alias(N_TICKS)
        )
        vintages = pl.concat([new, withdrawn], how="diagonal")
        vintages = vintages.join(stored.select(*_KEY, VINTAGE), on=_KEY, how="left")
        return vintages.with_columns(
            (pl.col(VINTAGE) + 1).fill_null(0).alias(VINTAGE),
            pl.lit(self.n_closings + 1, pl.Int64).alias(CLOSING),
            month=pl.col("event_time").dt.strftime("%Y-%m"),
        ).sort(_KEY)

    def _find_changes(self, ticks: VersionedTable, end: datetime) -> pl.DataFrame:
        """series_id; bar: the first that may have changed; reach: the first tick that it reads.

        Only series with ticks there.
        """
        # Where the ticks were replayed, rows were taken out or put in below the offsets
        is_replayed = self.table.find_offset(REPLAYED) != (ticks.find_offset(REPLAYS) or 0)
        offsets = {} if is_replayed else self.offsets
        least = {"_offset": min(offsets.get(source, 0) for source in ticks.list_offsets())} if offsets else {}
        rows = ticks.scan(_TICKS, least, ["series_id", "event_time", "_source", "_offset"])
        new = (
            rows.filter(_is_new(offsets), pl.col("event_time") < end)
            .group_by("series_id")
            .agg(first=pl.col("event_time").min())
            .collect()
        )
        if not offsets or self.end is None:
            every = pl.concat([new["series_id"], self.select_newest()["series_id"]]).unique().to_frame()
            return every.with_columns(bar=pl.lit(_LONG_AGO, UTC), reach=pl.lit(_LONG_AGO, UTC))
        if self._spec.gap_s is not None:
            return self._find_changed_sessions(ticks, new, end)
        # The last bar that was closed: the first open one comes after it, and reads ticks from
        # *reach* on
        length = format_step_multiple(self._spec.every, self._spec.period_steps)
        ended = pl.Series([self.end], dtype=UTC)
        before = ended.dt.offset_by(f"-{self._spec.every}").item()
        reach = ended.dt.offset_by(f"-{length}").item()
        there = ticks.scan(_TICKS, {"event_time": reach}, _KEY).filter(
            pl.col("event_time") >= reach, pl.col("event_time") < end
        )
        open_series = there.select("series_id").unique().collect().with_columns(first=pl.lit(before, UTC))
        bar, first_tick = compute_reach_before(self._spec, pl.col("first").min())
        return pl.concat([new, open_series]).group_by("series_id").agg(bar=bar, reach=first_tick)

    def _find_changed_sessions(self, ticks: VersionedTable, new: pl.DataFrame, end: datetime) -> pl.DataFrame:
        """The same of sessions.

        One that may change begins at the series' newest one that began before what is new, or
        later.
        """
        before = (self.end or end) - timedelta(seconds=self._spec.gap_s or 0.0)
        there = ticks.scan(_TICKS, {"event_time": before}, _KEY).filter(
            pl.col("event_time") >= before, pl.col("event_time") < end
        )
        recent = there.group_by("series_id").agg(first=pl.col("event_time").min()).collect()
        first = pl.concat([new, recent]).group_by("series_id").agg(pl.col("first").min())
        begun = first.join(self.select_newest().filter(pl.col(N_TICKS) > 0), on="series_id").filter(
            pl.col("event_time") <= pl.col("first")
        )
        last = begun.group_by("series_id").agg(bar=pl.col("event_time").max())
        changes = first.select("series_id").join(last, on="series_id", how="left")
        return changes.with_columns(pl.col("bar").fill_null(pl.lit(_LONG_AGO, UTC))).with_columns(reach="bar")


def build_bars_name(spec: AggregateParams) -> str:
    """The folder of the bars that *spec* describes, next to the ticks' table."""
    return f"bars-{sha256(spec.model_dump_json().encode()).hexdigest()[:8]}"


def _filter_since(bars: pl.DataFrame, since: pl.DataFrame) -> pl.DataFrame:
    return (
        bars.join(since.select("series_id", "bar"), on="series_id")
        .filter(pl.col("event_time") >= pl.col("bar"))
        .drop("bar")
    )


def _is_new(offsets: Offsets) -> pl.Expr:
    if not offsets:
        return pl.lit(value=True)
    return pl.col("_offset") >= pl.col("_source").replace_strict(offsets, default=0, return_dtype=pl.Int64)
