"""Importance of the features by every method, and their curves, on rows that are explained."""

from typing import NamedTuple

import numpy as np
import polars as pl

from tasks.core.reports.explain import FeatureImportance
from tasks.explain.background import SEED, build_x, find_tied_columns, run_members
from tasks.explain.methods import (
    compute_curves,
    compute_lime,
    compute_permutation_importance,
    compute_rank_agreement,
)
from tasks.explain.shapley import Function, compute_shapley, decide_budget
from tasks.release import Release

MAX_LIME_ROWS = 8
MAX_MEMBER_ROWS = 20
N_CURVES = 6  # features whose curves are drawn, by their mean absolute part


class ImportanceFigures(NamedTuple):
    """features: the largest part first. agreement: as in `ExplainSummary`.

    curves: one row per (feature, value, series_id, cutoff): z_hat, the mean over the horizon less
    the series' centre.
    """

    features: tuple[FeatureImportance, ...]
    agreement: dict[str, float]
    curves: pl.DataFrame


def select_outcomes(release: Release, table: pl.DataFrame, picked: pl.DataFrame) -> np.ndarray:
    """(n, H) outcomes after the rows *picked* of the feature table, less the series' centre.

    NaN where a step is missing or has not come.
    """
    steps = range(1, release.schema.horizon_steps + 1)
    keys = ["series_id", "event_time"]
    ids = picked["series_id"].unique().implode()
    later = table.lazy().filter(pl.col("series_id").is_in(ids)).select(
        *keys, *(pl.col("z").shift(-step).over("series_id").alias(str(step)) for step in steps)
    )  # fmt: skip
    found = picked.select(keys).lazy().join(later, on=keys, how="left", maintain_order="left").collect()
    z = found.select(pl.col(str(step)).fill_null(float("nan")) for step in steps).to_numpy()
    return z - release.schema.get_centres(picked["series_id"].to_list())[:, None]


def select_spread(x: np.ndarray, n: int) -> np.ndarray:
    """At most *n* rows of x (m, F), evenly spaced: its rows are in order of series and time."""
    return x[np.linspace(0, len(x) - 1, min(n, len(x))).astype(int)]


def measure_importance(
    release: Release,
    f: Function,
    table: pl.DataFrame,
    picked: pl.DataFrame,
    parts: np.ndarray,
    background: np.ndarray,
    columns: np.ndarray,
    max_evaluations: int,
) -> ImportanceFigures:
    """Importance of *columns* from the explained rows *picked* of *table* and their *parts*.

    parts: (n, F, H) Shapley values of *picked*.
    max_evaluations: as in `ExplainParams`; the members' own parts cost a quarter of it at most.
    """
    names, tied = release.schema.names, find_tied_columns(release.schema)
    x, rng = build_x(release, picked), np.random.default_rng(SEED)
    free = [int(j) for j in columns if j not in tied]
    size = np.abs(parts).mean(axis=(0, 2)) if len(parts) else np.zeros(len(names))
    by_step = np.abs(parts).mean(axis=0) if len(parts) else np.zeros(parts.shape[1:])
    spread = select_spread(x, MAX_MEMBER_ROWS)
    by_member = _compute_member_parts(release, spread, background, columns, max_evaluations // 4)
    truth = select_outcomes(release, table, picked)
    permutation = (
        compute_permutation_importance(f, x, truth, free, rng, tied) if np.isfinite(truth).any() else None
    )
    local = [compute_lime(f, row, background, free, rng, tied) for row in select_spread(x, MAX_LIME_ROWS)]
    lime = np.abs(local).mean(axis=(0, 2)) if local else None
    features = [
        FeatureImportance(
            feature=names[j],
            mean_abs_part=size[j],
            by_step=tuple(by_step[j].tolist()),
            by_member={name: float(of[j]) for name, of in by_member.items()},
            permutation=None if permutation is None or j not in free else float(permutation[free.index(j)]),
            lime=None if lime is None or j not in free else float(lime[free.index(j)]),
        )
        for j in sorted(columns, key=lambda j: (-size[j], names[j]))
    ]
    found = {"permutation": permutation, "lime": lime}
    agreement = {
        name: compute_rank_agreement(size[free], values)
        for name, values in found.items()
        if values is not None
    }
    return ImportanceFigures(
        tuple(features),
        {name: value for name, value in agreement.items() if value is not None},
        _build_curves(release, f, picked, x, [names.index(one.feature) for one in features[:N_CURVES]]),
    )


def _compute_member_parts(
    release: Release, x: np.ndarray, background: np.ndarray, columns: np.ndarray, max_evaluations: int
) -> dict[str, np.ndarray]:
    """Mean absolute part of each feature, (F,), in the forecasts of each member by itself."""
    members, steps = release.combination.members, release.schema.horizon_steps
    n_rows, n_orders = decide_budget(len(x), len(columns), len(background), steps, max_evaluations)
    shapley = compute_shapley(
        lambda rows: run_members(release, rows),
        x[:n_rows], background, columns, n_orders, SEED, find_tied_columns(release.schema),
    )  # fmt: skip
    parts = np.nan_to_num(shapley.parts).reshape(*shapley.parts.shape[:2], len(members), steps)
    sizes = np.abs(parts).mean(axis=(0, 3)) if len(parts) else np.zeros(parts.shape[1:3])
    return {name: sizes[:, m] for m, name in enumerate(members)}


def _build_curves(
    release: Release, f: Function, picked: pl.DataFrame, x: np.ndarray, columns: list[int]
) -> pl.DataFrame:
    keys = picked.select("series_id", cutoff=release.calendar.nominal_known_at())
    drawn = {release.schema.names[column]: compute_curves(f, x, column) for column in columns}
    frames = [
        keys[np.repeat(np.arange(len(x)), len(curves.values))].with_columns(
            pl.lit(name).alias("feature"),
            pl.Series("value", np.tile(curves.values, len(x)), dtype=pl.Float64),
            pl.Series("z_hat", curves.rows.ravel(), dtype=pl.Float64),
        )
        for name, curves in drawn.items()
    ]
    empty = keys.clear().with_columns(feature=pl.lit("", pl.String), value=pl.lit(0.0), z_hat=pl.lit(0.0))
    return pl.concat([empty, *frames]).select("feature", "value", "series_id", "cutoff", "z_hat")
