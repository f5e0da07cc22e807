"""What a release with a lower loss may still not have: wrong intervals, and slow answers."""

import time

import polars as pl

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
    return _find_coverage_fault(challenger, gate, params) or _find_latency_fault(
        challenger, opponent, rows, params
    )


def _find_coverage_fault(challenger: Release, gate: GateResult, params: PromoteParams) -> str | None:
    level, held = challenger.kind.get_level(challenger.about), gate.coverage_frac
    if level is None or held.challenger is None or held.opponent is None:
        return None
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
