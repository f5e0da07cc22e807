"""The gate: two releases, loaded as served, over the same cutoffs that neither has seen.

Their losses are compared in pairs, and the result is one verdict.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import numpy as np
import polars as pl

from tasks.core.about import About
from tasks.core.cosine import compute_cosine_test
from tasks.core.frames import UTC, FrameSchema, get_newest_known_at, select_as_of
from tasks.core.kinds import get_kind
from tasks.core.reports.promote import PairedFigures
from tasks.core.seasonal import Seasonal, build_seasonal_from_rows
from tasks.features import add_target
from tasks.promote.earlier_gates import EarlierGate, compute_overlap, spend_alpha, split_trial
from tasks.promote.looks import compute_look_level
from tasks.promote.params import PromoteParams
from tasks.release import Release, predict_cutoffs

LOSSES = FrameSchema("losses", {"cutoff": UTC, "challenger": pl.Float64, "opponent": pl.Float64}, ("cutoff",))
SIDES = ("challenger", "opponent")
_PAIR = ["series_id", "cutoff", "step"]


class GateResult(NamedTuple):
    """What the gate saw.

    passed: None when there are too few cutoffs to say, or too few yet for what they show.
    losses: one row per cutoff (challenger, opponent: mean scaled loss).
    mean_loss: of each side, in the primary score's own unit.
    gain_frac: part by which the challenger's scaled loss is below. coverage_frac: of each side,
    share of outcomes within its outermost quantiles. alpha: level of this look. n_planned: cutoffs
    of the last one. n_missing: pairs that the opponent forecasts and the challenger does not.
    """

    passed: bool | None
    reason: str
    n_cutoffs: int
    gain_frac: float | None
    p: float | None
    mean_loss: PairedFigures
    coverage_frac: PairedFigures
    losses: pl.DataFrame
    alpha: float
    n_planned: int = 0
    n_missing: int = 0


def run_gate(
    challenger: Release,
    opponent: Release,
    rows: pl.DataFrame,
    params: PromoteParams,
    earlier_gates: Sequence[EarlierGate] = (),
    since: datetime | None = None,
) -> GateResult:
    """Compare both releases at every cutoff since the later `seen_until`.

    Only cutoffs whose outcomes are all known count.
    earlier_gates: earlier ones. Those of these two releases from the same cutoff on are looks of
      one trial, which is planned for the cutoffs of `gate_steps`; others may have compared some of
      the rows.
    since: cutoffs before it do not count either.
    """
    cutoffs = list_gate_cutoffs(challenger, opponent, rows)
    cutoffs = [cutoff for cutoff in cutoffs if since is None or cutoff >= since]
    if not cutoffs:
        return compare_releases(challenger, opponent, rows, cutoffs, params)
    pair = tuple("" if side.manifest is None else side.manifest.digest for side in (challenger, opponent))
    trial, others = split_trial(earlier_gates, pair, cutoffs[0])
    left = spend_alpha(params.alpha, compute_overlap(others, cutoffs))
    n_planned = max(1, params.gate_steps - challenger.schema.horizon_steps + 1)
    looks = {sum(cutoff <= gate.last_cutoff for cutoff in cutoffs) for gate in trial}
    fractions = [n / n_planned for n in (*sorted(looks - {0}), len(cutoffs))]
    alpha = compute_look_level(left, fractions)
    gate = compare_releases(challenger, opponent, rows, cutoffs, params.model_copy(update={"alpha": alpha}))
    gate = gate._replace(n_planned=n_planned)
    if gate.passed is False and gate.p is not None and gate.p <= left and fractions[-1] < 1:
        reason = f"{gate.reason}, before {n_planned} cutoffs are there"
        return gate._replace(passed=None, reason=reason)
    return gate


def compare_releases(
    challenger: Release,
    opponent: Release,
    rows: pl.DataFrame,
    cutoffs: Sequence[datetime],
    params: PromoteParams,
) -> GateResult:
    """Compare both releases at *cutoffs*, each from the rows known by it."""
    pair = predict_pair(challenger, opponent, rows, cutoffs)
    return compare_forecasts(pair.challenger, pair.opponent, challenger.about, params, pair.seasonal)


class PredictedPair(NamedTuple):
    """FORECAST rows of both releases, with the outcomes as y. seasonal: of the same rows."""

    challenger: pl.DataFrame
    opponent: pl.DataFrame
    seasonal: Seasonal | None


def predict_pair(
    challenger: Release, opponent: Release, rows: pl.DataFrame, cutoffs: Sequence[datetime]
) -> PredictedPair:
    """The forecasts of both at *cutoffs*, each from the rows known by it."""
    truth = select_known_truth(rows, challenger.about)
    seasonal = build_seasonal_from_rows(truth, challenger.about, challenger.calendar)
    ours, theirs = (
        join_truth(predict_cutoffs(release, rows, cutoffs), truth) for release in (challenger, opponent)
    )
    return PredictedPair(ours, theirs, seasonal)


def list_gate_cutoffs(challenger: Release, opponent: Release, rows: pl.DataFrame) -> list[datetime]:
    """Cutoffs, one a step, from the later `seen_until` to the last whose horizon is in the data.

    The cutoff at `seen_until` itself counts: what it forecasts was known after it.
    """
    calendar, horizon = (
        challenger.calendar,
        max(challenger.schema.horizon_steps, opponent.schema.horizon_steps),
    )
    times = rows["event_time"].unique().sort()
    grid = calendar.grid(times[0], times[-1])
    cutoffs = (
        pl.DataFrame({"event_time": grid[: max(0, len(grid) - horizon)]})
        .select(calendar.nominal_known_at())
        .to_series()
    )
    return cutoffs.filter(cutoffs >= max(challenger.seen_until, opponent.seen_until)).to_list()


def select_known_truth(rows: pl.DataFrame, about: About) -> pl.DataFrame:
    """series_id, event_time, known_at, y of every step whose value is known now.

    The values are of the latest vintage.
    """
    newest = select_as_of(rows, get_newest_known_at(rows))
    return (
        add_target(newest, about)
        .select("series_id", "event_time", "known_at", "y")
        .filter(pl.col("y").is_not_null())
    )


def compare_forecasts(
    challenger: pl.DataFrame,
    opponent: pl.DataFrame,
    about: About,
    params: PromoteParams,
    seasonal: Seasonal | None = None,
) -> GateResult:
    """Compare two FORECAST frames with y.

    Only pairs (series, cutoff, step) count that both forecast and that have an outcome.

    p is of a gain of `min_gain_frac` at most: two seeds of one recipe differ, too.

    Losses of a series are divided by the mean of both sides' mean losses there, so that a large
    series does not dominate the others, and neither side chooses the unit: equal models stay equal
    when they change places. A cutoff counts with its mean over series and steps.
    """
    pairs = _scale_losses(join_losses(challenger, opponent, about, seasonal))
    losses = _compute_cutoff_means(pairs)
    mean_loss = PairedFigures(
        **{side: float(pairs[side].to_numpy().mean()) if pairs.height else None for side in SIDES}
    )
    kind = get_kind(about.target)
    covered = PairedFigures(
        challenger=kind.compute_coverage(challenger), opponent=kind.compute_coverage(opponent)
    )
    n = losses.height
    if n < params.min_gate_rows:
        reason = (
            f"{n} cutoffs have all outcomes since both were fitted, fewer than `promote.min_gate_rows` ="
            f" {params.min_gate_rows}"
        )
        return GateResult(None, reason, n, None, None, mean_loss, covered, losses, params.alpha)
    difference = losses["opponent"] * (1 - params.min_gain_frac) - losses["challenger"]
    test = compute_cosine_test(difference.to_numpy())
    gain, passed = _compute_gain(losses), test.p <= params.alpha
    reason = _format_reason(gain, test.p, n, about, params)
    missing = _count_missing(challenger, opponent, about)
    return GateResult(
        passed, reason, n, gain, test.p, mean_loss, covered, losses, params.alpha, n_missing=missing
    )


def _count_missing(challenger: pl.DataFrame, opponent: pl.DataFrame, about: About) -> int:
    """Pairs up to the challenger's horizon that only the opponent forecasts with a number."""
    point = get_kind(about.target).list_columns(about)[0]
    ours, theirs = (side.filter(pl.col(point).is_finite()).select(_PAIR) for side in (challenger, opponent))
    within = theirs.filter(pl.col("step") <= challenger["step"].max())
    return within.join(ours, on=_PAIR, how="anti").height


def _compute_gain(losses: pl.DataFrame) -> float:
    ours, theirs = (float(losses[side].to_numpy().mean()) for side in SIDES)
    return 1.0 - ours / theirs if theirs > 0 else 0.0


def join_losses(
    challenger: pl.DataFrame, opponent: pl.DataFrame, about: About, seasonal: Seasonal | None
) -> pl.DataFrame:
    """One row a pair that has an outcome: its key, and the loss of each side."""
    kind = get_kind(about.target)
    point = kind.list_columns(about)[0]
    right = opponent.select(*_PAIR, opponent_point=point)
    pairs = challenger.filter(pl.col("y").is_not_null()).join(right, on=_PAIR, how="inner").sort(_PAIR)
    scaling_errors = None if seasonal is None else seasonal.scaling_errors_of_rows(pairs)
    ours, theirs = (
        kind.compute_loss(about, pairs["y"].to_numpy(), pairs[column].to_numpy(), scaling_errors)
        for column in (point, "opponent_point")
    )
    return pairs.select(
        *_PAIR,
        challenger=pl.Series(ours, dtype=pl.Float64),
        opponent=pl.Series(theirs, dtype=pl.Float64),
    ).filter(pl.col("challenger").is_finite() & pl.col("opponent").is_finite())


def _scale_losses(pairs: pl.DataFrame) -> pl.DataFrame:
    series, ours, theirs = (
        _compute_key_index(pairs["series_id"]),
        pairs["challenger"].to_numpy(),
        pairs["opponent"].to_numpy(),
    )
    size = (_compute_index_means(series, ours) + _compute_index_means(series, theirs)) / 2
    unit = np.where(size > 0, size, 1.0)[series]
    return pairs.with_columns(
        challenger_scaled=pl.Series(ours / unit), opponent_scaled=pl.Series(theirs / unit)
    )


def _compute_cutoff_means(pairs: pl.DataFrame) -> pl.DataFrame:
    index = _compute_key_index(pairs["cutoff"])
    return pl.DataFrame(
        {
            "cutoff": pairs["cutoff"].unique().sort(),
            **{side: _compute_index_means(index, pairs[f"{side}_scaled"].to_numpy()) for side in SIDES},
        }
    )


def _compute_key_index(key: pl.Series) -> np.ndarray:
    """(m,) place of each row's key among the keys, ascending from 0."""
    return key.rank("dense").to_numpy().astype(np.int64) - 1


def _compute_index_means(index: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Mean of *values* at each index.

    Summed row by row, so that a verdict repeats to its last bit: sums of polars' threads do not.
    """
    return np.bincount(index, values) / np.bincount(index)


def join_truth(issued: pl.DataFrame, truth: pl.DataFrame) -> pl.DataFrame:
    """*issued* with the outcomes of `select_known_truth` as y, null where there is none."""
    return issued.join(truth.drop("known_at"), on=["series_id", "event_time"], how="left")


def _format_reason(gain: float, p: float, n: int, about: About, params: PromoteParams) -> str:
    side = "below" if gain >= 0 else "above"
    sentence = (
        f"its {about.primary_score} loss is {abs(gain):.1%} {side} the other's over {n} cutoffs that"
        f" neither has seen, p = {p:.3f}"
    )
    faults = [
        *(
            [f"a gain of at least {params.min_gain_frac:.1%} is asked for"]
            if gain < params.min_gain_frac
            else []
        ),
        *([f"luck is not ruled out at {params.alpha:.2g}"] if p > params.alpha else []),
    ]
    return sentence + ("; " + " and ".join(faults) if faults else "")
