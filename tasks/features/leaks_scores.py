"""Finding a feature set that is too good.

Three tests on a sample; each finds what a recomputation cannot see or did not sample. A column that
nearly determines the future target: the source itself has later values. Features of rows that were
drawn at random, so that the past has no information about the future: a skill there reads ahead. A
skill beyond what the target can have.
"""

from collections.abc import Mapping

import numpy as np
import polars as pl

from tasks.core.about import About
from tasks.core.calendar import Calendar
from tasks.core.errors import FeatureInputError
from tasks.core.leaks import LeakFinding
from tasks.features.columns import build_declared_columns
from tasks.features.known_ahead import is_known_ahead
from tasks.features.leaks_ridge import (
    MIN_ROWS,
    OriginPairs,
    RidgeScores,
    build_pairs,
    compute_partial_r2,
    compute_ranks,
    find_strongest_column,
    iterate_scales,
    score_ridge,
)
from tasks.features.params import FeatureParams
from tasks.features.sources import OHLC_VOLATILITY, Column
from tasks.features.table import add_target, build_features

SHUFFLED_STEPS, SHUFFLED_SERIES = 2000, 8
MAX_STANDARD_ERRORS = 4.5  # chance exceeds it once in 300,000 feature sets
# an honest walk has R2 near 0 and 50.7 to 51.5 % on hourly crypto returns
RETURN_R2, RETURN_HIT_FRAC = 0.01, 0.53
WHITE_MEAN_SD = 0.1  # a return's mean is within so many standard deviations of 0


def find_determined(
    table: pl.DataFrame, about: About, params: FeatureParams
) -> tuple[list[LeakFinding], Mapping[str, object]]:
    """Columns from outside that nearly determine the target, 1 or `horizon_steps` steps later.

    They explain nearly all of its variance that its own past does not explain.
    """
    foreign = [
        c
        for c in build_declared_columns(about, params)
        if not _is_of_target(c, about) and c.name not in params.leaks.leading
    ]
    bound, largest = params.leaks.max_determined_frac, 0.0
    findings: dict[str, LeakFinding] = {}
    for step in sorted({1, about.horizon_steps}) if foreign else ():
        pairs = build_pairs(table, about, [], step)
        for column in foreign:
            share = max(compute_partial_r2(x, pairs) for x in iterate_scales(table, column.name, about))
            largest = max(largest, share)
            if share > bound:
                findings.setdefault(
                    column.name, _build_determined_finding(column.name, share, step, table, pairs)
                )
    return list(findings.values()), {
        "n_columns": len(foreign),
        "most_frac": round(largest, 3),
        "bound": bound,
    }


def list_possible_leads(about: About, params: FeatureParams) -> list[str]:
    """Names of the columns that might hold later targets: those from outside, and all functions.

    A column of the target's past alone cannot, known-ahead columns may, and
    `features.leaks.leading` lists those that do.
    Raises FeatureInputError for a name in that list that is no feature.
    """
    columns = build_declared_columns(about, params)
    allowed = set(params.leaks.leading)
    if unknown := sorted(allowed - {c.name for c in columns}):
        raise FeatureInputError(
            f"`features.leaks.leading` has {unknown}, which no entry of `features.list` computes; there are"
            f" {[c.name for c in columns]}. Correct it in params.yaml."
        )
    foreign = (c for c in columns if c.code is not None or not _is_of_target(c, about))
    return [c.name for c in foreign if c.sees not in {"row", "ahead"} and c.name not in allowed]


def find_shuffled_forecasts(
    rows: pl.DataFrame, about: About, params: FeatureParams, calendar: Calendar
) -> tuple[list[LeakFinding], Mapping[str, object]]:
    """Skill on rows that were drawn at random from each series: there should be none.

    In them the past has no information about the future. Columns known ahead stay unchanged. The
    target is compared by its rank, so that one huge value cannot decide.
    """
    drawn = _draw_rows(rows, about, calendar)
    if drawn.is_empty():
        return [], {"n": 0}
    table = build_features(drawn, about, params, calendar)
    names, figures = table.columns[6:], {"bound": MAX_STANDARD_ERRORS}
    findings: list[LeakFinding] = []
    for step in sorted({1, about.horizon_steps}):
        pairs = build_pairs(table, about, names, step)
        if len(pairs.y) < MIN_ROWS:
            continue
        scored = score_ridge(pairs._replace(y=compute_ranks(pairs.y)))
        errors = scored.r * float(np.sqrt(scored.n))
        figures |= {f"n_step_{step}": scored.n, f"standard_errors_step_{step}": round(errors, 2)}
        if errors > MAX_STANDARD_ERRORS and not findings:
            feature = find_strongest_column(pairs, names)
            findings.append(
                LeakFinding(
                    rule="shuffled_target",
                    feature=feature,
                    seen=round(scored.r, 3),
                    allowed=0.0,
                    n_rows=scored.n,
                    says=f"A ridge forecasts rows that were drawn at random {step} step(s) ahead: "
                    f"correlation {scored.r:.3f} over {scored.n} pairs, {errors:.1f} standard errors from 0. "
                    f"Only a feature that reads later steps can do that; the strongest is {feature!r}. "
                    f"Compute it from the step and those before it.",
                )
            )
    return findings, figures


def find_too_good(
    table: pl.DataFrame, about: About, params: FeatureParams
) -> tuple[list[LeakFinding], Mapping[str, object]]:
    """Skill of a ridge over all features, one step ahead, above the dataset's bounds.

    The bounds are those of params, or those of a return if the target behaves like one.
    """
    names = table.columns[6:]
    pairs = build_pairs(table, about, names, 1)
    if len(pairs.y) < MIN_ROWS:
        return [], {"n": len(pairs.y), "reason": f"fewer than {MIN_ROWS} pairs are no evidence"}
    of_past, scored = score_ridge(pairs._replace(x=pairs.past)), score_ridge(pairs)
    max_r2, max_hit, reason = _decide_bounds(table, about, params, of_past)
    r2_error = 2 * np.sqrt(max(scored.r2, 0.0)) * (1 - scored.r2) / np.sqrt(scored.n_origins)  # delta method
    hit_error = 0.5 / np.sqrt(scored.n_origins)
    figures = {
        "r2": round(scored.r2, 3),
        "r2_of_own_past": round(of_past.r2, 3),
        "hit_frac": round(scored.hit_frac, 3),
        "max_r2": max_r2,
        "max_hit_frac": max_hit,
        "n_origins": scored.n_origins,
        "reason": reason,
    }
    broken = []
    if max_r2 is not None and scored.r2 - 3 * r2_error > max_r2:
        broken.append(("R2", scored.r2, max_r2, "max_r2"))
    if max_hit is not None and scored.hit_frac - 3 * hit_error > max_hit:
        broken.append(("hit rate", scored.hit_frac, max_hit, "max_hit_frac"))
    feature = find_strongest_column(pairs, names) if broken else ""
    return [
        LeakFinding(
            rule="too_good",
            feature=feature,
            seen=round(seen, 3),
            allowed=bound,
            n_rows=scored.n,
            says=f"A ridge over all features has an out-of-sample {score} of {seen:.3f} one step ahead over "
            f"{scored.n_origins} origins; the bound is {bound:g} ({reason}). The strongest feature is "
            f"{feature!r}. "
            f"Check where its column comes from and when it was known; if it is honest, set "
            f"`features.leaks.{key}` above it.",
        )
        for score, seen, bound, key in broken
    ], figures


def _decide_bounds(
    table: pl.DataFrame, about: About, params: FeatureParams, of_past: RidgeScores
) -> tuple[float | None, float | None, str]:
    """max_r2, max_hit_frac, and where they come from."""
    leaks = params.leaks
    z = table["z"].drop_nulls().to_numpy()
    is_like_return = (
        about.target.transform == "none"
        and abs(z.mean()) < WHITE_MEAN_SD * max(z.std(), 1e-300)
        and of_past.r**2 < RETURN_R2
    )
    if about.target.derive == "bar_return" or is_like_return:
        reason = (
            "a return: its own past explains nothing of it" if leaks.max_r2 is None else "set in params.yaml"
        )
        return leaks.max_r2 or RETURN_R2, leaks.max_hit_frac or RETURN_HIT_FRAC, reason
    if leaks.max_r2 is None and leaks.max_hit_frac is None:
        return (
            None,
            None,
            (
                f"no bound: the target's own past explains {max(of_past.r2, 0.0):.2f} more than the best"
                " naive forecast; `features.leaks.max_r2` sets one"
            ),
        )
    return leaks.max_r2, leaks.max_hit_frac, "set in params.yaml"


def _is_of_target(column: Column, about: About) -> bool:
    """Whether a column is computed from the target's own past, the time or the series' name.

    Whether it reads ahead is found by a recomputation.
    """
    target_columns = {"z", "y", about.target.column}
    return all(
        source.sees == "row"
        or source == OHLC_VOLATILITY
        or (source.sees != "ahead" and target_columns.issuperset(source.needs))
        for source in column.sources
    )


def _build_determined_finding(
    name: str, share: float, step: int, table: pl.DataFrame, pairs: OriginPairs
) -> LeakFinding:
    row = table.row(int(pairs.rows[-1]), named=True)
    return LeakFinding(
        rule="target_in_features",
        feature=name,
        series_id=row["series_id"],
        cutoff=row["known_at"].isoformat(),
        seen=round(share, 3),
        n_rows=len(pairs.y),
        lead_steps=step,
        says=f"{name!r} explains {share:.1%} of the target {step} step(s) later, beyond its own past, over "
        f"{len(pairs.y)} rows: the column holds later values, or is the target under another name. Check "
        "where it comes from; a column that honestly leads the target belongs into "
        f"`features.leaks.leading: [{name}]`.",
    )


def _draw_rows(rows: pl.DataFrame, about: About, calendar: Calendar) -> pl.DataFrame:
    """The newest steps of some series, each with the values of a random step of the same series.

    The steps are drawn with replacement, so that the other steps have no information either.
    """
    columns = [c for c in rows.columns if c not in about.text_columns]
    rows = add_target(rows, about).filter(~is_known_ahead(calendar)).select(columns)
    ids = rows["series_id"].unique().sort()
    sampled = (
        ids.gather(np.unique(np.linspace(0, len(ids) - 1, min(len(ids), SHUFFLED_SERIES)).astype(np.int64)))
        if len(ids)
        else ids
    )
    is_newest = pl.col("event_time").rank("dense", descending=True).over("series_id") <= SHUFFLED_STEPS
    part = rows.filter(pl.col("series_id").is_in(sampled.implode())).sort(
        "series_id", "event_time", "known_at"
    )
    part = part.unique(["series_id", "event_time"], keep="last", maintain_order=True).filter(is_newest)
    runs = (
        part["series_id"].rle().struct.field("len").to_numpy().astype(np.int64)
        if part.height
        else np.array([], dtype=np.int64)
    )
    rng = np.random.default_rng(0)
    start = np.cumsum(runs) - runs
    drawn = (
        np.concatenate([first + rng.integers(0, n, n) for first, n in zip(start, runs, strict=True)])
        if len(runs)
        else runs
    )
    kept = ("series_id", "event_time", "known_at", *about.covariates.known_ahead)
    return part.with_columns(
        calendar.nominal_known_at().alias("known_at"),
        *(part[c].gather(drawn) for c in part.columns if c not in kept),
    )
