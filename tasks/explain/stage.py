"""The stage: explain forecasts of the whole ensemble.

Select rows, explain the ensemble there, check that the parts add up, summarize.
"""

from typing import NamedTuple

import numpy as np
import polars as pl

from tasks.core.errors import StageError
from tasks.core.reports.explain import ExplainSummary, FeatureImportances
from tasks.explain.background import (
    MAX_GAP_SD,
    N_PROBES,
    SEED,
    build_table,
    build_x,
    find_tied_columns,
    select_sample,
)
from tasks.explain.importance import measure_importance
from tasks.explain.params import ExplainParams
from tasks.explain.shapley import ShapleyParts, compute_shapley, decide_budget, find_used_columns
from tasks.release import Release, predict_ensemble


class Explanation(NamedTuple):
    """The result of the stage.

    attributions: one row per (series_id, cutoff, step, feature).
    importance: features by mean absolute part, with what other methods find.
    curves: as in `ImportanceFigures`.
    summary: figures of the stage.
    """

    attributions: pl.DataFrame
    importance: FeatureImportances
    curves: pl.DataFrame
    summary: ExplainSummary


def explain_release(release: Release, rows: pl.DataFrame, params: ExplainParams) -> Explanation:
    """Explain the last forecast of each series and a sample of earlier ones.

    Raises StageError when parts do not add up.
    """
    table = build_table(release, rows)
    rng = np.random.default_rng(SEED)
    possible = table.filter(pl.col(release.schema.last).is_not_null())
    last = possible.filter(pl.col("event_time") == table["event_time"].max())
    sample = select_sample(possible, params.n_sample, rng)
    background = build_x(
        release,
        select_sample(possible.filter(pl.col("known_at") <= release.seen_until), params.n_background, rng),
    )

    def f(x: np.ndarray) -> np.ndarray:
        return predict_ensemble(release, x)

    every = np.arange(len(release.schema.names))
    tied = find_tied_columns(release.schema)
    # All of them, should one have looked unread
    for columns in (find_used_columns(f, build_x(release, sample.head(N_PROBES)), background), every):
        n_rows, n_orders = decide_budget(
            last.height + sample.height,
            len(columns),
            len(background),
            release.schema.horizon_steps,
            params.max_evaluations,
        )
        last, sample = _select_within(last, sample, n_rows)
        picked = pl.concat([last, sample])
        explained = compute_shapley(f, build_x(release, picked), background, columns, n_orders, SEED, tied)
        most = MAX_GAP_SD * (table.select(pl.col("z").std()).item() or 1.0)
        if explained.gap.max() <= most:
            break
    _check_sums(explained, picked, most)
    figures = measure_importance(
        release, f, table, sample, explained.parts[last.height :], background, columns, params.max_evaluations
    )
    return Explanation(
        _build_attributions(release, picked, last.height, columns, explained),
        FeatureImportances(figures.features),
        figures.curves,
        ExplainSummary(
            model=release.model,
            n_series_now=table["series_id"].n_unique(),
            n_last=last.height,
            n_sample=sample.height,
            n_background=len(background),
            n_orders=n_orders,
            n_features=len(release.schema.names),
            max_abs_gap=float(explained.gap.max()),
            series_last=tuple(last["series_id"]),
            unread=tuple(name for j, name in enumerate(release.schema.names) if j not in columns),
            agreement=figures.agreement,
        ),
    )


def _select_within(
    last: pl.DataFrame, sample: pl.DataFrame, n_rows: int
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """At most *n_rows* of both.

    At least half of them are last forecasts, as far as there are any.
    """
    n_last = min(last.height, max(n_rows - sample.height, -(-n_rows // 2)))
    return last.head(n_last), sample.head(n_rows - n_last)


def _check_sums(explained: ShapleyParts, picked: pl.DataFrame, most: float) -> None:
    gap = explained.gap.max(axis=1)
    worst = int(gap.argmax())
    if not gap[worst] <= most:
        raise StageError(
            f"explain: base and parts miss z_hat by {gap[worst]:.2g} for series"
            f" {picked['series_id'][worst]!r} at {picked['event_time'][worst]:%F %T}Z; float32 explains"
            f" {most:.2g} at most ({MAX_GAP_SD:g} sd of z). A member's result depends on what else is in the"
            " batch: compare `tasks.release.predict_ensemble` of that row alone with that of many."
        )


def _build_attributions(
    release: Release, picked: pl.DataFrame, n_last: int, columns: np.ndarray, explained: ShapleyParts
) -> pl.DataFrame:
    steps, names = release.schema.horizon_steps, [release.schema.names[j] for j in columns]
    n_rows, n_names = picked.height, len(names)
    ahead = [release.calendar.list_next_steps(origin, steps) for origin in picked["event_time"]]
    centre = release.schema.get_centres(picked["series_id"].to_list())
    z_hat = explained.z_hat + centre[:, None]
    base = np.broadcast_to(explained.base, z_hat.shape) + centre[:, None]
    of_row = picked.select(
        "series_id", cutoff=release.calendar.nominal_known_at(), is_last=pl.int_range(pl.len()) < n_last
    )
    frame = of_row[np.repeat(np.arange(n_rows), steps * n_names)]
    return frame.with_columns(
        pl.Series("step", np.tile(np.repeat(np.arange(1, steps + 1, dtype=np.int32), n_names), n_rows)),
        pl.concat(ahead).gather(np.repeat(np.arange(n_rows * steps), n_names)).alias("event_time"),
        pl.Series("feature", names * (n_rows * steps), dtype=pl.String),
        pl.Series("part", explained.parts[:, columns, :].transpose(0, 2, 1).ravel()),
        pl.Series("base", np.repeat(base.ravel(), n_names)),
        pl.Series("z_hat", np.repeat(z_hat.ravel(), n_names)),
    )
