"""Explain forecasts as they are served: a base and a part for each feature, in the target's unit.

The members are explained in the space in which they are combined, all in one pass over the same
orders; the ensemble's parts are the sum of theirs by the weights that this forecast has. From there
to the target's unit all parts are multiplied by one number, the slope of the transform between base
and forecast. What turns the ensemble's point into the served one has parts of its own.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import numpy as np
import polars as pl

from tasks.core.errors import CostError
from tasks.explain.background import (
    MAX_GAP_SD,
    N_PROBES,
    SEED,
    build_table,
    build_x,
    find_tied_columns,
    run_members,
    select_sample,
)
from tasks.explain.params import ExplainParams
from tasks.explain.shapley import ShapleyParts, compute_shapley, decide_budget, find_used_columns
from tasks.features.traced import ValueSource, find_value_sources
from tasks.release import Release, make_forecasts
from tasks.release.combine import compute_row_weights, compute_weight_groups
from tasks.release.origins import MemberForecasts

LEAST_DISTANCE = 1e-6  # of base and forecast in the space of z, for the slope between them


class Background(NamedTuple):
    """x: (B, F) rows that give the values of an unknown feature. columns: that a member reads.

    max_gap: by which base and parts may miss a forecast, in the space of z.
    """

    x: np.ndarray
    columns: np.ndarray
    max_gap: float


class ExplainedStep(NamedTuple):
    """One step; base and all parts add up to y_hat, the served point, in the target's unit.

    features: part of each that is read. members: undivided part of each that has no explainer.
    calibration: what the errors of the past add to the ensemble's point. bounds: what the nearest
    allowed value adds to that.
    """

    step: int
    event_time: datetime
    y_hat: float
    base: float
    features: dict[str, float]
    members: dict[str, float]
    calibration: float
    bounds: float


class ExplainedSeries(NamedTuple):
    """The forecast of one series.

    weights: of each member, the mean over the steps. values: of the features as the members read
    them, None where unknown. sources: the newest row behind each.
    n_orders, n_background: how exact the parts are.
    """

    series_id: str
    weights: dict[str, float]
    values: dict[str, float | None]
    sources: dict[str, ValueSource]
    steps: list[ExplainedStep]
    n_orders: int
    n_background: int


def explain_forecast(
    release: Release,
    rows: pl.DataFrame,
    as_of: datetime,
    series: Sequence[str],
    params: ExplainParams | None = None,
) -> list[ExplainedSeries]:
    """Explain those of *series* that can be forecast at *as_of*, in this order.

    rows: as for `predict_cutoffs`.
    Raises CostError when one order of the features is more than `max_evaluations` for them.
    """
    params = params or ExplainParams()
    made = make_forecasts(release, rows, [as_of])
    if made is None:
        return []
    members, names = made.members, release.combination.members
    if not (index := _find_forecast(members, series)):
        return []
    x, schema = members.x[-1, index], release.schema
    background = _get_background(release, params.n_background)
    n_orders = _decide_orders(release, background, len(index), params.max_evaluations)
    shapley, columns = _explain_members(release, x, background, n_orders)
    shape = (len(index), len(names), schema.horizon_steps)
    weights = _find_weights(release, members, index, shapley.z_hat.reshape(shape))
    points = made.columns[-1][index][:, :, 0]
    origin = made.grid.event_time[made.requested[-1].pos]
    ahead = release.calendar.list_next_steps(origin, schema.horizon_steps)
    out = []
    for row, i in enumerate(index):
        one = _OneForecast(
            shapley.parts[row].reshape(-1, *shape[1:]),
            shapley.base.reshape(shape[1:]),
            shapley.z_hat[row].reshape(shape[1:]),
            shapley.gap[row].reshape(shape[1:]).max(axis=1) <= background.max_gap,
            weights[row],
            members.centre[i],
            points[row],
        )
        own_centre = [members.centre[i] if c.role == "level" else 0.0 for c in schema.columns]
        values = x[row].astype(np.float64) + own_centre
        series_id = members.series_ids[i]
        sources = find_value_sources(
            rows, release.about, release.features, release.calendar, (series_id, origin), as_of
        )
        of_member = weights[row].mean(axis=1).tolist()
        out.append(
            ExplainedSeries(
                series_id,
                dict(zip(names, of_member, strict=True)),
                {name: v if np.isfinite(v) else None for name, v in zip(schema.names, values, strict=True)},
                sources,
                _build_steps(release, one, columns, ahead.to_list()),
                n_orders,
                len(background.x),
            )
        )
    return out


def _find_forecast(members: MemberForecasts, series: Sequence[str]) -> list[int]:
    """Positions of those of *series* that are forecast at the last point."""
    position_of = {name: i for i, name in enumerate(members.series_ids)}
    is_forecast = np.isfinite(members.z_hat[-1]).all(axis=1)
    return [i for name in series if (i := position_of.get(name)) is not None and is_forecast[i]]


class _OneForecast(NamedTuple):
    """parts (F, M, H), base and z_hat (M, H) of the members; all without the centre.

    is_divided: (M,). weights: (M, H). point: (H,) as calibrated, with the centre.
    """

    parts: np.ndarray
    base: np.ndarray
    z_hat: np.ndarray
    is_divided: np.ndarray
    weights: np.ndarray
    centre: float
    point: np.ndarray


def _build_steps(
    release: Release, one: _OneForecast, columns: np.ndarray, ahead: Sequence[datetime]
) -> list[ExplainedStep]:
    kind, target = release.kind, release.about.target
    unbounded = target.model_copy(update={"bounds": None})
    used = one.weights != 0
    base, z_hat = (np.where(used, np.nan_to_num(values), 0.0) for values in (one.base, one.z_hat))
    z_base, z_full = ((one.weights * values).sum(axis=0) + one.centre for values in (base, z_hat))
    middle, half = (z_base + z_full) / 2, np.maximum(np.abs(z_full - z_base) / 2, LEAST_DISTANCE)
    slope = (kind.decode(unbounded, middle + half) - kind.decode(unbounded, middle - half)) / (2 * half)
    divided = (one.weights * one.is_divided[:, None])[None]
    of_feature = slope * np.where(divided != 0, divided * np.nan_to_num(one.parts), 0.0).sum(axis=1)
    of_member = slope * one.weights * (z_hat - base)
    y_base, y_full, y_point = (kind.decode(unbounded, z) for z in (z_base, z_full, one.point))
    y_hat = kind.decode(target, one.point)
    names = [release.schema.names[j] for j in columns]
    undivided = [
        (name, part)
        for name, part, is_divided, is_used in zip(
            release.combination.members, of_member, one.is_divided, used.any(axis=1), strict=True
        )
        if is_used and not is_divided
    ]
    return [
        ExplainedStep(
            h + 1,
            ahead[h],
            float(y_hat[h]),
            float(y_base[h]),
            dict(zip(names, of_feature[columns, h].tolist(), strict=True)),
            {name: float(part[h]) for name, part in undivided},
            float(y_point[h] - y_full[h]),
            float(y_hat[h] - y_point[h]),
        )
        for h in range(len(y_hat))
    ]


def _explain_members(
    release: Release, x: np.ndarray, background: Background, n_orders: int
) -> tuple[ShapleyParts, np.ndarray]:
    """The parts of all members, (n, F, M * H), and the columns that have one."""
    tied, every = find_tied_columns(release.schema), np.arange(x.shape[1])
    for columns in (background.columns, every):  # all of them, should one have looked unread
        shapley = compute_shapley(
            lambda rows: run_members(release, rows), x, background.x, columns, n_orders, SEED, tied
        )
        if (np.nan_to_num(shapley.gap) <= background.max_gap).all():
            break
    return shapley, columns


def _find_weights(
    release: Release, members: MemberForecasts, index: Sequence[int], z_hats: np.ndarray
) -> np.ndarray:
    """(n, M, H) weights of the members in the requested forecasts; z_hats (n, M, H)."""
    if members.weights is not None:
        moved = release.combination.model_copy(update={"table": members.weights[-1].T[:, :, None]})
        return compute_row_weights(moved, z_hats, np.asarray(index))
    group = compute_weight_groups(release.combination, members.x[-1, index], release.schema)
    return compute_row_weights(release.combination, z_hats, group)


def _get_background(release: Release, n_background: int) -> Background:
    """From the rows that travel with the release, as far as it was fitted; made once for it."""
    key = f"explain {n_background}"
    if key not in release.cache:
        table = build_table(release, release.rows)
        possible = table.filter(pl.col(release.schema.last).is_not_null())
        seen = possible.filter(pl.col("known_at") <= release.seen_until)
        rng = np.random.default_rng(SEED)
        sample = build_x(release, select_sample(possible, N_PROBES, rng))
        x = build_x(release, select_sample(seen if seen.height else possible, n_background, rng))
        columns = find_used_columns(lambda rows: run_members(release, rows), sample, x)
        spread = table.select(pl.col("z").std()).item() or 1.0
        release.cache[key] = Background(x, columns, MAX_GAP_SD * spread)
    found: Background = release.cache[key]
    return found


def _decide_orders(release: Release, background: Background, n_series: int, max_evaluations: int) -> int:
    sizes = (len(background.columns), len(background.x), release.schema.horizon_steps)
    n_rows, n_orders = decide_budget(n_series, *sizes, max_evaluations)
    n_needed = n_series * 2 * (sizes[0] + 1) * sizes[1] * sizes[2]
    if n_needed > max_evaluations:
        raise CostError(
            f"An explanation of {n_series:,} series computes {n_needed:,} numbers or more, and at most"
            f" {max_evaluations:,} are computed for a request. Ask for {n_rows:,} series.",
            n_needed,
            max_evaluations,
        )
    return n_orders
