"""What a release with a lower loss may still not have: gaps, wrong intervals, slow answers."""

import time

import polars as pl

from tasks.core.about import About
from tasks.core.errors import ReleaseError
from tasks.core.frames import get_newest_known_at
from tasks.promote.gate import GateResult
from tasks.promote.params import PromoteParams
from tasks.release import Release, predict_cutoffs

QUICK_S = 0.5  # no release is too slow below; a ratio of milliseconds is the machine's load
N_TIMED = 2  # forecasts of each; the faster one counts


def find_guardrail_fault(
    challenger: Release, opponent: Release, rows: pl.DataFrame, gate: GateResult, params: PromoteParams
) -> str | None:
    """What keeps a challenger that has passed from taking over; None for nothing."""
    reaches_as_far = challenger.features.last_within_steps >= opponent.features.last_within_steps
    if gate.n_missing and reaches_as_far:
        return f"it forecasts no number for {gate.n_missing} steps that the other forecasts"
    return _find_coverage_fault(challenger, gate, params) or _find_latency_fault(
        challenger, opponent, rows, params
    )


def check_release_interface(release: Release, about: About) -> None:
    """Raise ReleaseError when the release promises other than params.yaml has now."""
    for key in ("every", "calendar", "horizon_steps", "quantiles"):
        found, expected = getattr(release.about, key), getattr(about, key)
        if found != expected:
            raise ReleaseError(
                f"{release.folder} was built with `about.{key}` {found}, params.yaml has {expected}. Build it"
                " again with `dvc repro package`."
            )


def _find_coverage_fault(challenger: Release, gate: GateResult, params: PromoteParams) -> str | None:
    level, held = challenger.kind.get_level(challenger.about), gate.coverage_frac
    if level is None or held.opponent is None:
        return None
    if held.challenger is None:
        return "it has no intervals, and the other has"
    if abs(held.challenger - level) <= abs(held.opponent - level) + params.max_coverage_loss_frac:
        return None
    return (
        f"its intervals hold {held.challenger:.1%} of the outcomes where {level:.0%} are meant, the other's"
        f" {held.opponent:.1%}; `promote.max_coverage_loss_frac` = {params.max_coverage_loss_frac:g}"
    )


def _find_latency_fault(
    challenger: Release, opponent: Release, rows: pl.DataFrame, params: PromoteParams
) -> str | None:
    """The time itself is not in a verdict that passes, which repeats to its last bit."""
    ours = _time_forecast(challenger, rows)
    if ours <= QUICK_S or ours <= params.max_latency_ratio * (theirs := _time_forecast(opponent, rows)):
        return None
    return (
        f"a forecast takes {ours:.1f} s, {ours / theirs:.1f} times as long as the other's;"
        f" `promote.max_latency_ratio` = {params.max_latency_ratio:g}"
    )


def _time_forecast(release: Release, rows: pl.DataFrame) -> float:
    newest, seconds = get_newest_known_at(rows), []
    for _ in range(N_TIMED):
        start = time.perf_counter()
        predict_cutoffs(release, rows, [newest])
        seconds.append(time.perf_counter() - start)
    return min(seconds)
