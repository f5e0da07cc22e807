"""Is one model better than another, and which of many may be the best?

All tests take mean losses by cutoff, in order of time. The gate decides by the cosine test
(tasks/core/cosine.py), which keeps its level on 60 autocorrelated days. The Diebold-Mariano test is
the field's own, so its figures can be compared with those of papers. It has more power and, on
short autocorrelated samples, a level up to twice the nominal one. Neither holds for the best of
many models, since choosing is also a look at the data. The model confidence set is for that: it
holds the best model with a given probability.
"""

from typing import NamedTuple

import numpy as np

from tasks.core.errors import ScoreInputError

LEAST = 8  # cutoffs; fewer do not show a long-run variance


class DieboldMariano(NamedTuple):
    """Result of `diebold_mariano`.

    t: mean difference over its standard error, with Harvey's correction.
    p: one-sided, small when the mean is above 0.
    lags: of the variance.
    """

    t: float
    p: float
    lags: int


class ConfidenceSet(NamedTuple):
    """Result of `model_confidence_set`.

    p: (M,) of each model; those with p >= alpha are the set. It falls in the order in which models
      leave, and is 1 for the last one.
    """

    p: np.ndarray

    def members(self, alpha: float) -> np.ndarray:
        """(M,) bool: the set that holds the best model with probability 1 - alpha."""
        out: np.ndarray = self.p >= alpha
        return out


def diebold_mariano(differences: np.ndarray, overlap: int = 1) -> DieboldMariano:
    """Test of mean(differences) <= 0 against > 0.

    differences: (n,) in order of time, the other model's loss minus ours. Without any spread p is 0
      or 1 by their sign, 1 when they are 0.
    overlap: how many neighbouring differences share outcomes, the horizon in strides; 1 for none.
    The long-run variance is that of Newey & West with a Bartlett kernel over max(overlap - 1, 4 (n
    / 100)^(2/9)) lags, so it is never negative. t is shrunk for small samples by Harvey's factor
    and has n - 1 degrees of freedom.
    Raises ScoreInputError for fewer than 8 differences or an overlap that leaves none.
    Source: Diebold & Mariano 1995, doi:10.1080/07350015.1995.10524599; Newey & West 1987,
    doi:10.2307/1913610, lags: 1994, doi:10.2307/2297912; Harvey, Leybourne & Newbold 1997,
    doi:10.1016/S0169-2070(96)00719-4.
    """
    from scipy.special import stdtr

    d = np.asarray(differences, dtype=np.float64)
    n = len(d)
    if n < LEAST or not 1 <= overlap < n / 2:
        raise ScoreInputError(
            f"Diebold-Mariano needs {LEAST} cutoffs and more than twice the overlap; there are {n} with an"
            f" overlap of {overlap}."
        )
    lags = min(n - 1, max(overlap - 1, int(4 * (n / 100) ** (2 / 9))))
    mean, centred = float(d.mean()), d - d.mean()
    covariances = np.array([centred[lag:] @ centred[: n - lag] for lag in range(lags + 1)]) / n
    variance = covariances[0] + 2 * np.sum((1 - np.arange(1, lags + 1) / (lags + 1)) * covariances[1:])
    if np.sqrt(max(variance, 0.0)) <= 1e-12 * max(abs(mean), 1e-300):  # rounding of a constant
        return DieboldMariano(
            float(np.copysign(np.inf, mean)) if mean else 0.0, 0.0 if mean > 0 else 1.0, lags
        )
    harvey = np.sqrt((n + 1 - 2 * overlap + overlap * (overlap - 1) / n) / n)
    t = float(harvey * mean / np.sqrt(variance / n))
    return DieboldMariano(t, float(stdtr(n - 1, -t)), lags)


def compute_block_size(n: int, overlap: int = 1) -> int:
    """Block for `model_confidence_set` of *n* cutoffs: 2 sqrt(n), at most a quarter of them.

    It is longer than the losses' memory. Measured on four equal models, alpha 10 %: 250 cutoffs
    with autocorrelation 0, .5, .8 lose one in 8, 9, 13 % of samples at a block of 32, in 9, 14, 29
    % at 8 (1,000 cutoffs: 9, 10, 13 % at 32).
    """
    return max(1, min(n // 4, max(2 * overlap, round(2 * np.sqrt(n)))))


def model_confidence_set(losses: np.ndarray, block: int, seed: int, n_bootstrap: int = 1000) -> ConfidenceSet:
    """p of each model: which of them may be the best, as far as the losses show.

    losses: (n, M) mean losses of n cutoffs in order of time.
    block: cutoffs of a block of the bootstrap, see `compute_block_size`.
    As long as equality is rejected, the model that is worst against the mean of all leaves
    (statistic T_max). The distribution comes from a circular bootstrap of blocks. Each draw is
    studentised by its own blocks, which keeps the level with few long ones. The same draws serve
    every round.
    Raises ScoreInputError for fewer than 8 cutoffs, losses that are not known, or a block longer
    than half of the sample.
    Source: Hansen, Lunde & Nason 2011, doi:10.3982/ECTA5771; studentised blocks: Goetze & Kuensch
    1996, doi:10.1214/aos/1069362303.
    """
    n, n_models = losses.shape
    if n < LEAST or not np.isfinite(losses).all() or not 1 <= block <= n // 2:
        raise ScoreInputError(
            f"A confidence set needs {LEAST} cutoffs with every loss known, and a block of at most half of"
            f" them; there are {n}, the block has {block}."
        )
    rng, mean = np.random.default_rng(seed), losses.mean(axis=0)
    sums = np.cumsum(np.vstack([np.zeros(n_models), losses - mean, (losses - mean)[: block - 1]]), axis=0)
    blocks = (sums[block:] - sums[:-block]) / block  # the mean of the block that starts at each cutoff
    drawn = rng.integers(0, n, (n_bootstrap, round(n / block)))
    p, left, highest = np.ones(n_models), np.arange(n_models), 0.0
    while len(left) > 1:
        t, t_drawn = _compute_t_max(mean[left], blocks[:, left], drawn)
        highest = max(highest, float(np.mean(t_drawn >= t.max())))
        worst = int(np.argmax(t))
        p[left[worst]] = highest
        left = np.delete(left, worst)
    return ConfidenceSet(p)


def _compute_t_max(mean: np.ndarray, blocks: np.ndarray, drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far each model (M,) is above the mean of all, in standard errors.

    Returns these, and the highest such figure of each draw (n_bootstrap,).
    """
    # Below it are models that are one and the same
    n_blocks, least = drawn.shape[1], 1e-12 * np.abs(mean).max()
    around = blocks - blocks.mean(axis=1, keepdims=True)
    parts = around[drawn]
    error, means = np.sqrt(np.square(around).mean(axis=0) / n_blocks), parts.mean(axis=1)
    errors = np.sqrt(np.square(parts - means[:, None]).sum(axis=1) / (n_blocks - 1) / n_blocks)
    t = np.divide(mean - mean.mean(), error, out=np.zeros_like(mean), where=error > least)
    t_drawn = np.divide(means, errors, out=np.zeros_like(means), where=errors > least)
    return t, t_drawn.max(axis=1)
