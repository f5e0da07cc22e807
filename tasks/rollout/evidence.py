"""Is the challenger better, or worse? Tests that hold however often they are looked at."""

import math
from typing import NamedTuple

import numpy as np

from tasks.core.cosine import compute_cosine_test
from tasks.core.reports.rollout import RolloutComparison
from tasks.core.rollout import RolloutEvidence

MIN_BLOCK = 5  # cutoffs of a block, where the horizon is shorter
MAX_BLOCKS = 50  # up to which errors of the tests are measured (tests/rollout)
MIN_COMPARED = 8  # cutoffs, for two degrees of freedom or less
CLIP_SD = 2.5  # a difference counts up to this many standard deviations
_BETS = np.arange(1, 20) / 20


class PairedLosses(NamedTuple):
    """Mean losses by cutoff, in order of time, in units of the usual loss.

    challenger, champion: (T,) of the cutoffs in the rollout whose outcomes are known.
    challenger_before, champion_before: (P,) of cutoffs whose outcomes were known when it began.
    """

    challenger: np.ndarray
    champion: np.ndarray
    challenger_before: np.ndarray
    champion_before: np.ndarray


class Bets(NamedTuple):
    """Values of both bets before the first block and after each.

    better, worse: (1 + B,). block: cutoffs of one.
    """

    better: np.ndarray
    worse: np.ndarray
    block: int


def compute_bets(losses: PairedLosses, horizon_steps: int, margin_frac: float) -> Bets:
    """Two bets on the differences of the losses, each of which starts with 1.

    If the challenger is not better, the first one ever reaches 1 / alpha with probability alpha at
    most (Ville 1939); the same holds for the second one if it is not worse. A bet is the mean over
    19 fixed stakes of the products of 1 + stake * x (Waudby-Smith & Ramdas 2024,
    doi:10.1093/jrsssb/qkad009). x is the mean difference of a block of `horizon_steps` cutoffs,
    at least 5, in units of 2.5 standard deviations of the differences before the rollout, cut off
    at -1 and 1. Forecasts of one block share outcomes; what is left of dependence between blocks is
    measured, not proven (tests/rollout).
    """
    difference = losses.champion - losses.challenger
    unit = CLIP_SD * _compute_sd(losses.challenger_before, losses.champion_before) or 1.0
    block = max(horizon_steps, MIN_BLOCK)
    better = _compute_wealth((difference + margin_frac * losses.champion) / unit, block)
    return Bets(better, _compute_wealth(-difference / unit, block), block)


def build_evidence(losses: PairedLosses, bets: Bets) -> RolloutEvidence:
    """What both say now."""
    champion = float(losses.champion.mean()) if len(losses.champion) else 0.0
    return RolloutEvidence(
        n_cutoffs=len(losses.champion),
        n_blocks=len(bets.better) - 1,
        gain_frac=1 - float(losses.challenger.mean()) / champion if champion > 0 else None,
        better=float(bets.better[-1]),
        worse=float(bets.worse.max()),
    )


def compare_losses(losses: PairedLosses) -> RolloutComparison | None:
    """The posterior of the mean difference under a flat prior; None for few cutoffs.

    Student's t with the standard error and degrees of freedom of the cosine test.
    """
    from scipy.special import stdtr, stdtrit

    difference, champion = losses.champion - losses.challenger, float(losses.champion.mean())
    if len(difference) < MIN_COMPARED or champion <= 0:
        return None
    test, mean = compute_cosine_test(difference), float(difference.mean())
    half = abs(mean / test.t) * float(stdtrit(test.n_terms, 0.95)) if test.t else 0.0
    return RolloutComparison(
        better_probability=float(stdtr(test.n_terms, test.t)),
        gain_low_frac=(mean - half) / champion,
        gain_high_frac=(mean + half) / champion,
    )


def _compute_sd(challenger: np.ndarray, champion: np.ndarray) -> float:
    """Of the differences, and at most that of two independent releases as good as the champion.

    A challenger whose own losses are large must not choose a unit in which nothing is large.
    """
    if not len(champion):
        return 0.0
    return float(min(np.std(champion - challenger), math.sqrt(2) * np.std(champion)))


def _compute_wealth(scaled: np.ndarray, block: int) -> np.ndarray:
    """(1 + B,) value of the bet before the first block and after each."""
    n_blocks = min(len(scaled) // block, MAX_BLOCKS)
    x = np.clip(scaled[: n_blocks * block].reshape(n_blocks, block).mean(axis=1), -1, 1)
    growth = np.cumprod(1 + _BETS[:, None] * x, axis=1).mean(axis=0)
    return np.concatenate([[1.0], growth])
