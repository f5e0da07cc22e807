"""Forecasts of a release: features of what was known, the members' sum, adaptive quantiles.

A forecast is a pure function of (release, cutoff, rows known by it). The state of the quantiles is
not stored; it is replayed from the release's history and from its own forecasts since, made
`stride_steps` apart, each from what was known at its cutoff.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import numpy as np
import polars as pl

from tasks.core.frames import FORECAST, UTC, select_as_of
from tasks.core.kinds import get_forecast_schema
from tasks.features import add_target
from tasks.release.combine import find_recency
from tasks.release.load import Release
from tasks.release.origins import (
    MemberForecasts,
    OriginGrid,
    OriginPoint,
    build_origin_grid,
    convert_to_us,
    convert_to_utc,
    find_series_positions,
    predict_members,
    select_first_known,
    select_relevant_rows,
)
from tasks.release.recent import apply_recency
from tasks.release.replay import (
    ReplayRequest,
    ReplayTimeline,
    build_pool_groups,
    find_learning_cutoffs,
    get_history_timeline,
    predict_requests,
)


def predict_cutoffs(release: Release, rows: pl.DataFrame, cutoffs: Sequence[datetime]) -> pl.DataFrame:
    """Forecasts at each cutoff from the rows known by it (FORECAST with the kind's columns, no y).

    rows: SERIES, vintages and later rows included; a tail is enough, as long as it reaches
      `schema.lookback_steps` before the first replayed cutoff.
    cutoffs: one between two steps uses the last step known by then; the column `cutoff` holds that
      step's own cutoff, and of several that fall on one step the latest counts.
    Series without a value in the last steps are absent (`find_absence_reasons`). Quantiles are null
    when no error is known yet. Raises ReleaseError for a cutoff without a time zone.
    """
    made = make_forecasts(release, rows, cutoffs)
    return _build_empty_frame(release) if made is None else _build_frame(release, made)


class MadeForecasts(NamedTuple):
    """Forecasts at n requested points, with what they are made from.

    members: of the replayed points, too; the last n of them are requested.
    columns: for each point (S, H, C) in the space in which members are combined, as calibrated.
    """

    grid: OriginGrid
    requested: list[OriginPoint]
    members: MemberForecasts
    columns: list[np.ndarray]


def make_forecasts(release: Release, rows: pl.DataFrame, cutoffs: Sequence[datetime]) -> MadeForecasts | None:
    """`predict_cutoffs` before it is a frame; None when there is nothing to forecast from."""
    cutoffs = [convert_to_utc(cutoff) for cutoff in cutoffs]
    rows = select_relevant_rows(release, rows, cutoffs) if cutoffs else rows.clear()
    if rows.is_empty():
        return None
    grid = build_origin_grid(release, rows)
    if not (requested := _select_requested_points(grid, cutoffs)):
        return None
    replayed = _select_replayed_points(release, grid, requested[-1])
    series_ids = tuple(sorted({*release.series_ids, *rows["series_id"].unique()}))
    seen = predict_members(release, rows, grid, replayed + requested, series_ids)
    timeline = _build_timeline(release, rows, grid, seen, replayed)
    if recent := find_recency(release.combination):
        timeline, seen = apply_recency(
            release, recent, timeline, seen, [point.as_of_us for point in requested]
        )
    group = build_pool_groups(release, seen.series_ids, seen.regime)
    requests = [
        ReplayRequest(
            point.as_of_us,
            seen.z_hat[i],
            seen.scale[i],
            group[i],
            None if seen.base is None else seen.base[i],
        )
        for i, point in enumerate(requested, start=len(replayed))
    ]
    return MadeForecasts(grid, requested, seen, predict_requests(release, timeline, requests))


def find_absence_reasons(release: Release, rows: pl.DataFrame, cutoff: datetime) -> dict[str, str]:
    """Reason for each series that `predict_cutoffs` leaves out at *cutoff*, by series.

    Of the series of *rows* and of the release.
    """
    reach, cutoff = release.features.last_within_steps, convert_to_utc(cutoff)
    known = select_as_of(rows, cutoff)
    values = (
        add_target(known, release.about)
        .select("series_id", "event_time", z=release.kind.encode(release.about.target))
        .filter(pl.col("z").is_not_null())
    )
    newest = dict(values.group_by("series_id").agg(pl.col("event_time").max()).iter_rows())
    out = {}
    for name in sorted({*release.series_ids, *rows["series_id"].unique()}):
        if name not in newest:
            out[name] = f"no value of {release.about.target.column} known by {cutoff:%F %T}Z"
            continue
        # The first origin that no longer reaches the value
        reached = release.calendar.list_next_steps(newest[name], reach + 1)[-1]
        if release.calendar.get_cutoff(reached) <= cutoff:
            out[name] = (
                f"its last value is of {newest[name]:%F %T}Z, more than {reach} steps before {cutoff:%F %T}Z"
                " (`features.last_within_steps`)"
            )
    return out


def _select_requested_points(grid: OriginGrid, cutoffs: Sequence[datetime]) -> list[OriginPoint]:
    """One point for each origin, ascending; those out of every row's reach are left out."""
    latest = {grid.find_origin(as_of_us): as_of_us for as_of_us in sorted(map(convert_to_us, cutoffs))}
    return [
        OriginPoint(pos, as_of_us)
        for pos, as_of_us in sorted(latest.items())
        if grid.first <= pos <= grid.last
    ]


def _select_replayed_points(release: Release, grid: OriginGrid, newest: OriginPoint) -> list[OriginPoint]:
    """The cutoffs since seen_until from which the quantiles learn, up to *newest*.

    They are on the history's stride.
    """
    seen_until, stride = convert_to_us(release.seen_until), release.ensemble.stride_steps
    past = get_history_timeline(release).cutoff
    start = (
        grid.find_origin(past[-1]) + stride if len(past) else int(np.searchsorted(grid.cutoff_us, seen_until))
    )
    on_stride = range(start, min(newest.pos, grid.last) + 1, stride)
    return [
        OriginPoint(pos, int(grid.cutoff_us[pos]))
        for pos in on_stride
        if pos >= grid.first and grid.cutoff_us[pos] >= seen_until
    ]


def _build_timeline(
    release: Release, rows: pl.DataFrame, grid: OriginGrid, seen: MemberForecasts, replayed: list[OriginPoint]
) -> ReplayTimeline:
    """The history and what was replayed since, with the actuals."""
    past = get_history_timeline(release)
    n, shape = len(replayed), (past.n_history, len(seen.series_ids), release.schema.horizon_steps)
    columns = find_series_positions(seen.series_ids, past.series_ids)

    def with_past(of_past: np.ndarray, since: np.ndarray, fill: float) -> np.ndarray:
        before = np.full((past.n_history, *since.shape[1:]), fill, dtype=since.dtype)
        before[:, columns] = of_past
        return np.concatenate([before, since])

    cutoff = np.concatenate([past.cutoff, np.array([point.as_of_us for point in replayed], dtype=np.int64)])
    actual_z, actual_known = _align_actuals(
        grid, cutoff, shape[2], *select_first_known(release, rows, grid, seen.series_ids)
    )
    of_history = with_past(np.isfinite(past.z), np.zeros((n, *shape[1:]), dtype=bool), fill=False)
    z = np.where(of_history, with_past(past.z, actual_z[past.n_history :], np.nan), actual_z)
    known = np.where(of_history, with_past(past.known_us, actual_known[past.n_history :], 0), actual_known)
    z_hats, scale = (
        with_past(past.z_hat, seen.z_hat[:n], np.nan),
        with_past(past.scale, seen.scale[:n], np.nan),
    )
    base = None if past.base is None or seen.base is None else with_past(past.base, seen.base[:n], np.nan)
    member_z_hat = (
        None
        if past.member_z_hat is None or seen.member_z_hat is None
        else with_past(past.member_z_hat, seen.member_z_hat[:n], np.nan)
    )
    regime = with_past(past.regime, seen.regime[:n], 0)
    group = build_pool_groups(release, seen.series_ids, regime)
    missing = (np.arange(len(cutoff)) < past.n_history)[:, None, None] & ~of_history
    return ReplayTimeline(
        z_hats,
        scale,
        z,
        find_learning_cutoffs(cutoff, cutoff, known, missing, past.n_history),
        np.ones(len(cutoff), dtype=bool),
        group,
        release.kind,
        base,
        series_ids=seen.series_ids,
        cutoff=cutoff,
        known_us=known,
        n_history=past.n_history,
        missing=missing,
        regime=regime,
        member_z_hat=member_z_hat,
    )


def _align_actuals(
    grid: OriginGrid, cutoff: np.ndarray, horizon_steps: int, z: np.ndarray, known_us: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """z and when it was known, (T, S) by step, laid out by cutoff and horizon (K, S, H)."""
    origin = np.searchsorted(grid.cutoff_us, cutoff)
    on_grid = (origin < len(grid.cutoff_us)) & (
        grid.cutoff_us[np.minimum(origin, len(grid.cutoff_us) - 1)] == cutoff
    )
    target = origin[:, None] + np.arange(1, horizon_steps + 1)
    inside = on_grid[:, None] & (target < len(z))
    target = np.where(inside, target, len(z))  # one step further: nothing known there
    z, known_us = (
        np.vstack([z, np.full((1, z.shape[1]), np.nan)]),
        np.vstack([known_us, np.full((1, z.shape[1]), np.iinfo(np.int64).max)]),
    )
    return z[target].transpose(0, 2, 1), known_us[target].transpose(0, 2, 1)


def _build_frame(release: Release, made: MadeForecasts) -> pl.DataFrame:
    """One row for each (requested cutoff, series with a forecast, step)."""
    steps, grid, series_ids = release.schema.horizon_steps, made.grid, made.members.series_ids
    is_known = np.isfinite(made.members.z_hat[-len(made.requested) :]).all(axis=2)
    i, s = np.nonzero(is_known)
    origin = np.array([point.pos for point in made.requested])[i]
    values = release.kind.decode_columns(release.about, np.stack(made.columns)[is_known])
    return get_forecast_schema(release.about).conform(
        pl.DataFrame(
            {
                "series_id": [series_ids[k] for k in np.repeat(s, steps)],
                "cutoff": pl.Series(np.repeat(grid.cutoff_us[origin], steps)).cast(UTC),
                "step": np.tile(np.arange(1, steps + 1, dtype=np.int32), len(i)),
                "event_time": (
                    pl.Series(grid.event_us[origin[:, None] + np.arange(1, steps + 1)].ravel()).cast(UTC)
                ),
                "model": pl.repeat(release.model, len(i) * steps, eager=True),
                **{
                    name: pl.Series(values[:, :, c].ravel()).fill_nan(None)
                    for c, name in enumerate(release.kind.list_columns(release.about))
                },
            },
            schema_overrides={"series_id": pl.String},
        )
    )


def _build_empty_frame(release: Release) -> pl.DataFrame:
    columns = dict.fromkeys(release.kind.list_columns(release.about), pl.Float64)
    return pl.DataFrame(schema={**FORECAST.columns, **columns})
