"""Scores of the intervals.

Coverage, width, pinball loss, CRPS and interval score, overall and by year, step, series and
regime. Wide intervals have high coverage, and narrow ones often miss: read coverage together with
the interval score, which penalizes both.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from tasks.core.frames import FORECAST
from tasks.core.kinds.timeline import IssuedForecasts
from tasks.core.reports.ensemble import (
    BaseQuantile,
    CoverageReport,
    CoverageTables,
    RegimeNames,
    TableRow,
)
from tasks.core.score_table import compute_mean_scores
from tasks.core.scores import pinball
from tasks.ensemble.issue import IntervalIssuer, build_issued_frame, compute_regimes
from tasks.release.combine import Regime

_REGIMES = {2: ("low", "high"), 3: ("low", "middle", "high")}


def build_coverage(
    name: str, issued: IssuedForecasts, issuer: IntervalIssuer, scored: np.ndarray, gate: np.ndarray
) -> CoverageReport:
    """Shares of outcomes inside the interval, and every score of the intervals by part.

    scored, gate: (K,) cutoffs. Everything is of the scored ones, except `gate` and the years: the
    gate's rows are out of sample too, so the last year is whole. Shares are None, and tables empty,
    where nothing is known.
    """
    about, aligned = issuer.about, issuer.aligned
    frame = build_issued_frame(name, issued, aligned, scored | gate)
    names = aligned.kind.calibration_scores
    scores = aligned.kind.score_elements(about, _add_regime(frame, issuer, scored | gate), names)
    scores = scores.filter(pl.any_horizontal(pl.col(names).is_not_null()))
    first_of_gate = aligned.panel.cutoff[int(aligned.origins[aligned.n_walk - 1])]
    walk_scores, gate_scores = (
        scores.filter(pl.col("cutoff") <= first_of_gate),
        scores.filter(pl.col("cutoff") > first_of_gate),
    )
    tables = {
        "overall": _build_table(walk_scores, names),
        "gate": _build_table(gate_scores, names),
        "by_year": _build_table(scores, names, ["year"]),
        "by_step": _build_table(walk_scores, names, ["step"]),
        "by_series": _build_table(walk_scores, names, ["series_id"]),
        "by_regime": _build_table(walk_scores.drop_nulls("regime"), names, ["regime"])
        if issuer.regime
        else (),
    }
    shares: dict[str, dict[Any, Any]] = {
        by: {row[key]: row.get("coverage_frac") for row in tables[by]} for by, key in _KEYS.items()
    }
    return CoverageReport(
        level=aligned.kind.get_level(about),
        method=issuer.params.intervals,
        overall=_get_only(tables["overall"]),
        gate=_get_only(tables["gate"]),
        by_step=tuple(shares["by_step"].get(step) for step in range(1, aligned.y.shape[2] + 1)),
        by_series={s: shares["by_series"].get(s) for s in aligned.panel.series_ids},
        by_year={str(year): share for year, share in shares["by_year"].items()},
        regime=_describe_regime(issuer.regime),
        starts_from=_score_bases(issued, issuer, scored),
        tables=CoverageTables(**tables),
    )


def _score_bases(
    issued: IssuedForecasts, issuer: IntervalIssuer, scored: np.ndarray
) -> tuple[BaseQuantile, ...]:
    """For CQR, scores of the members' own quantile forecasts and of the issued ones.

    For each quantile that members forecast, over the scored outcomes of which both are known.
    """
    about, y = issuer.about, issuer.aligned.y[scored]
    rows = []
    for name, members in issuer.quantile_members.items():
        index, quantile = [f"{q:g}" for q in about.quantiles].index(name), float(name)
        z_hats = {
            "own": issuer.aligned.quantile_forecasts[name][scored],
            "issued": issued.further[scored, ..., index],
        }
        is_known = np.isfinite(y) & np.isfinite(z_hats["own"]) & np.isfinite(z_hats["issued"])
        figures: dict[str, float] = {}
        for side, z_hat in z_hats.items() if is_known.any() else ():
            q_hat = issuer.aligned.kind.decode(about.target, z_hat[is_known])
            figures |= {
                f"{side}_below_frac": float((y[is_known] <= q_hat).mean()),
                f"{side}_pinball": float(pinball(y[is_known], q_hat, quantile).mean()),
            }
        rows.append(BaseQuantile(quantile=quantile, members=members, n=int(is_known.sum()), **figures))
    return tuple(rows)


_KEYS = {"by_step": "step", "by_series": "series_id", "by_year": "year"}


def _add_regime(frame: pl.DataFrame, issuer: IntervalIssuer, rows: np.ndarray) -> pl.DataFrame:
    """The frame with `regime` at each origin, from 0 up."""
    if issuer.regime is None:
        return frame
    aligned, k = issuer.aligned, np.flatnonzero(rows)
    regimes = pl.DataFrame(
        {
            "series_id": list(aligned.panel.series_ids) * len(k),
            "cutoff": aligned.panel.cutoff.gather(
                np.repeat(aligned.origins[k], len(aligned.panel.series_ids))
            ),
            "regime": compute_regimes(aligned, issuer.regime)[k].ravel(),
        },
        schema_overrides={"series_id": pl.String, "cutoff": FORECAST.columns["cutoff"]},
    )
    return frame.join(regimes, on=["series_id", "cutoff"], how="left", maintain_order="left")


def _describe_regime(regime: Regime | None) -> RegimeNames | None:
    """Column, thresholds and a name for each regime, the lowest first."""
    if regime is None:
        return None
    n = len(regime.above) + 1
    names = _REGIMES.get(n, tuple(str(i + 1) for i in range(n)))
    return RegimeNames(column=regime.column, above=regime.above, names=names)


def _build_table(scores: pl.DataFrame, names: Sequence[str], by: Sequence[str] = ()) -> tuple[TableRow, ...]:
    return tuple(compute_mean_scores(scores, by, names).drop("model").to_dicts())


def _get_only(table: tuple[TableRow, ...]) -> Any:
    return table[0].get("coverage_frac") if table else None
