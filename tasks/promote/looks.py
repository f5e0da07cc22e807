"""Planned looks: the level of a test that is made again as its rows come in (O'Brien-Fleming)."""

import math
from collections.abc import Sequence

import numpy as np

_N_GRID = 401  # a fifth of a standard deviation apart for daily looks within a year
_REACH_SD = 8.0
_MIN_LEVEL = 1e-12  # what is less is left to later looks


def spend_level(alpha: float, fraction: float) -> float:
    """The part of *alpha* that looks up to this *fraction* of the rows may use (Lan & DeMets 1983).

    Source: doi:10.1093/biomet/70.3.659, the spending function of O'Brien & Fleming 1979, one-sided.
    """
    from scipy.special import ndtr, ndtri

    if fraction >= 1:
        return alpha
    return 2.0 * float(ndtr(ndtri(alpha / 2) / math.sqrt(fraction))) if fraction > 0 else 0.0


def compute_look_level(alpha: float, fractions: Sequence[float]) -> float:
    """The level of the look at the last of *fractions*; those at the others passed nothing.

    fractions: of the planned rows, above 0, ascending, those above 1 counting as 1. All looks
    together pass something that is not better with probability *alpha* at most. One look at all
    rows has the whole level; one at the same rows as another, none.
    The chance of a first crossing at a look is integrated over the values of a Brownian motion that
    no earlier look crossed (Armitage, McPherson & Rowe 1969).
    """
    from scipy.special import ndtr, ndtri

    t = min(1.0, fractions[0])
    level = spent = spend_level(alpha, t)
    bound = min(-float(ndtri(level)), _REACH_SD) * math.sqrt(t)
    x = np.linspace(-_REACH_SD * math.sqrt(t), bound, _N_GRID)
    density = np.exp(-(x**2) / (2 * t)) / math.sqrt(2 * math.pi * t)
    for later in (min(1.0, fraction) for fraction in fractions[1:]):
        sd, to_spend = math.sqrt(max(0.0, later - t)), spend_level(alpha, later) - spent
        if sd == 0 or to_spend < _MIN_LEVEL:
            level = 0.0
            continue
        mass = density * (x[1] - x[0])
        mass[[0, -1]] /= 2
        bound = _find_bound(x, mass, sd, to_spend, _REACH_SD * math.sqrt(later))
        level, spent, t = float(ndtr(-bound / math.sqrt(later))), spent + to_spend, later
        y = np.linspace(-_REACH_SD * math.sqrt(t), bound, _N_GRID)
        density = np.exp(-(((y[:, None] - x) / sd) ** 2) / 2) @ mass / (sd * math.sqrt(2 * math.pi))
        x = y
    return level


def _find_bound(x: np.ndarray, mass: np.ndarray, sd: float, to_spend: float, reach: float) -> float:
    """The value that a step of *sd* from *x*, which has *mass*, is above with chance *to_spend*."""
    from scipy.optimize import brentq
    from scipy.special import ndtr

    bound: float = brentq(lambda b: float(mass @ ndtr((x - b) / sd)) - to_spend, -reach, reach)
    return bound
