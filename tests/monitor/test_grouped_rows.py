"""A report from rows that are read by groups of series is that from the whole frame."""

from datetime import timedelta

import numpy as np
import polars as pl
import pytest
from reports import NO_OUTCOMES
from small_release import START, cutoff_at, small_about, small_rows

from tasks.core.calendar import build_calendar
from tasks.core.frames import SERIES
from tasks.core.reports.monitor import AnswerCounts, MonitorKey, OutcomeFigures, ServedFigures
from tasks.core.reports.retrain import RetrainLimits
from tasks.edges.column_file import ColumnFile
from tasks.monitor import rows as read_rows
from tasks.monitor.champion import MonitoredChampion
from tasks.monitor.params import MonitorParams
from tasks.monitor.stage import build_monitor_result

SEEN, PROMOTED, ALL = 399, 500, 600
IDS, DAY = ("east", "north", "south", "west"), timedelta(days=1)
SERVED = ServedFigures(
    answers=AnswerCounts(n_answers=0, n_news=0, n_as_of=0, n_own_history=0, n_unmarked=0),
    overall=OutcomeFigures(**NO_OUTCOMES),
    by_digest=(),
)


def build_rows():
    """Columns of numbers, categories and texts; corrections, a step that is known ahead."""
    rng, rows = np.random.default_rng(2), small_rows(ALL, series_ids=IDS, noise=0.02)
    x = rng.normal(size=rows.height)
    texts = {
        "state": rng.choice(["a", "b"], rows.height),
        "note": rng.integers(0, 300, rows.height).astype(str),
    }
    is_shifted = (pl.col("event_time") >= START + 550 * DAY) & pl.col("series_id").is_in(["north", "west"])
    rows = rows.with_columns(x=x, **texts).with_columns(pl.col("x") + 3 * is_shifted)
    corrected = rows.gather_every(37).with_columns(pl.col("load") * 1.1, pl.col("known_at") + 3 * DAY)
    ahead = rows.tail(1).with_columns(pl.col("event_time") + 5 * DAY, load=pl.lit(None, dtype=pl.Float64))
    return SERIES.conform(
        pl.concat([rows, corrected.filter(pl.col("known_at") <= cutoff_at(ALL - 1)), ahead])
    )


def build_forecasts():
    """From each day since what the champion has seen; also of a series that has no rows."""
    steps = pl.DataFrame({"step": range(1, 6)}, schema={"step": pl.Int32})
    days = pl.DataFrame({"day": range(SEEN, ALL - 1)}).join(
        pl.DataFrame({"series_id": [*IDS, "zero"]}), how="cross"
    )
    y_hat = 100.0 + 20 * (pl.col("day") % 7)
    return days.join(steps, how="cross").select(
        "series_id",
        "step",
        cutoff=START + (pl.col("day") + 1) * DAY,
        event_time=START + (pl.col("day") + pl.col("step")) * DAY,
        model=pl.lit("m"),
        digest=pl.lit("d"),
        y_hat=y_hat,
        **{"q_0.1": y_hat - 30, "q_0.9": y_hat + 30},
    )


def watch(rows, primary_score):
    about, times = small_about(primary_score=primary_score), {"seen_until": cutoff_at(SEEN)}
    times |= {"promoted_as_of": cutoff_at(PROMOTED), "trained_as_of": cutoff_at(PROMOTED)}
    champion = MonitoredChampion("d", "m", "1", **times, gate_loss=1.0)
    params = MonitorParams(min_rows=20)
    limits = RetrainLimits(max_error_ratio=9.0, min_coverage_frac=0.0)
    key = MonitorKey(dataset="small", rows="", champion=None, params={})
    calendar = build_calendar(about)
    return build_monitor_result(
        build_forecasts(), rows, about, calendar, champion, params, limits, SERVED, key
    )


@pytest.mark.parametrize("primary_score", ["rmse", "owa"])
def test_groups_of_one_series_give_the_report_of_the_whole_frame(tmp_path, monkeypatch, primary_score):
    rows = build_rows()
    whole, shown = watch(rows, primary_score)
    rows.write_parquet(tmp_path / "rows.parquet", row_group_size=100)
    monkeypatch.setattr(read_rows, "GROUP_CELLS", 1)
    monkeypatch.setattr("tasks.edges.column_file._CHUNK_CELLS", 50)
    grouped, shown_of_groups = watch(pl.scan_parquet(tmp_path / "rows.parquet"), primary_score)
    assert grouped.model_dump() == whole.model_dump()
    assert shown_of_groups.equals(shown)
    assert {row.stream for row in whole.drift.streams if row.alarm_at} >= {"north:x", "west:x"}
    assert (whole.drift.n_streams, whole.drift.n_unwatched, whole.overall.n_corrected > 0) == (13, 4, True)


def test_a_matrix_that_is_written_by_columns_is_read_by_rows(monkeypatch):
    monkeypatch.setattr("tasks.edges.column_file._CHUNK_CELLS", 20)
    values = np.random.default_rng(1).normal(size=(50, 7))
    with ColumnFile(50) as file:
        file.append(values[:, :3])
        file.append(values[:, 3:])
        parts = list(file.iterate_rows(5, 48))
    assert [first for first, _ in parts] == list(range(5, 48, 2))
    assert np.concatenate([part for _, part in parts]).tolist() == values[5:48].tolist()
