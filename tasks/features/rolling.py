"""Windows over a stretch of one column, in float64, NaN where missing.

A window's result is built from windows of half its length (1, 2, 4, ... steps), joined in a fixed order. So it costs log2(w) passes over the
stretch, and it depends on the window's own content alone: no running sum carries anything in from before, which is what makes the tail
of a series give the batch's numbers, also for prices of 1e5 whose variance is tiny.
"""

from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

import numpy as np
import polars as pl

from tasks.features.params import EWM_CUT_SPANS

Array = np.ndarray


class Moments(NamedTuple):
    """Of each window: how many values are there, their mean, and the sum of squared distances from it."""

    n: Array
    mean: Array
    square: Array

    def join(self, earlier: "Moments", k: int) -> "Moments":
        """These windows together with those that end *k* steps before. Source: Chan, Golub & LeVeque 1983, doi:10.1080/00031305.1983.10483115."""
        n, mean, square = self.n.copy(), self.mean.copy(), self.square.copy()
        late, early = slice(k, None), slice(0, max(0, len(n) - k))
        n[late] += earlier.n[early]
        share = earlier.n[early] / np.maximum(n[late], 1.0)
        apart = earlier.mean[early] - mean[late]
        mean[late] += apart * share
        square[late] += earlier.square[early] + apart * apart * self.n[late] * share
        return Moments(n, mean, square)


class Past:
    """One column over a stretch of steps; the windows that features ask for share their halves."""

    def __init__(self, values: Array) -> None:
        self.values = values
        self._extremes: dict[str, list[Array]] = {"min": [values], "max": [values]}

    def lag(self, k: int) -> Array:
        """The value *k* steps back."""
        return _shift(self.values, k)

    def last_known(self, within: int) -> Array:
        """The latest value that is there, at most *within* steps back."""
        found = self.values.copy()
        for k in range(1, within + 1):
            hole = np.isnan(found)
            if not hole.any():
                break
            found[hole] = _shift(self.values, k)[hole]
        return found

    def mean(self, w: int) -> Array:
        """Mean of the last *w* steps."""
        moments = self._moments(w)
        return np.where(_enough(moments.n, w), moments.mean, np.nan)

    def std(self, w: int) -> Array:
        """Standard deviation (n - 1) of the last *w* steps; two values at least."""
        moments = self._moments(w)
        return np.where(_enough(moments.n, w) & (moments.n > 1), np.sqrt(moments.square / np.maximum(moments.n - 1, 1.0)), np.nan)

    def least(self, w: int) -> Array:
        """Minimum of the last *w* steps."""
        return np.where(_enough(self._moments(w).n, w), self._extreme("min", w), np.nan)

    def most(self, w: int) -> Array:
        """Maximum of the last *w* steps."""
        return np.where(_enough(self._moments(w).n, w), self._extreme("max", w), np.nan)

    def quantile(self, w: int, q: float) -> Array:
        """Quantile *q* of the last *w* steps, linear between order statistics."""
        values = pl.Series(self.values).fill_nan(None)
        found = values.rolling_quantile(q, interpolation="linear", window_size=w, min_samples=(w + 1) // 2)
        return found.fill_null(np.nan).to_numpy()

    def ewm(self, span: int) -> Array:
        """Mean with weights (1 - 2 / (span + 1)) ** age over the last 4 spans, of the values that are there."""
        w, keep = EWM_CUT_SPANS * span, 1 - 2 / (span + 1)
        there = ~np.isnan(self.values)
        top, weight = self._decayed(np.where(there, self.values, 0.0), keep, w), self._decayed(there.astype(np.float64), keep, w)
        return np.where(_enough(self._moments(w).n, w) & (weight > 0), top / np.where(weight > 0, weight, 1.0), np.nan)

    def log_return(self, k: int) -> Array:
        """ln(value / value *k* steps back), exact to the last digits for small moves; NaN unless both are positive."""
        before = _shift(self.values, k)
        both = (self.values > 0) & (before > 0)
        return np.where(both, np.log1p((self.values - before) / np.where(both, before, 1.0)), np.nan)

    def change(self, k: int, w: int) -> Array:
        """Mean of |value - value *k* steps back| over the last *w* steps."""
        return Past(np.abs(self.values - _shift(self.values, k))).mean(w)

    def steadiness(self, k: int, w: int) -> Array:
        """|mean| over the last *w* steps in units of `change`; NaN where nothing changes."""
        change = self.change(k, w)
        return np.where(change > 0, np.abs(self.mean(w)) / np.where(change > 0, change, 1.0), np.nan)

    @cached_property
    def _doubled(self) -> list[Moments]:
        there = ~np.isnan(self.values)
        return [Moments(there.astype(np.float64), np.where(there, self.values, 0.0), np.zeros(len(there)))]

    def _moments(self, w: int) -> Moments:
        if w not in self._known:
            parts = list(_halves(w))
            while len(self._doubled) <= parts[0][0]:
                self._doubled.append(self._doubled[-1].join(self._doubled[-1], 1 << (len(self._doubled) - 1)))
            found = self._doubled[parts[0][0]]
            for power, before in parts[1:]:
                found = found.join(self._doubled[power], before)
            self._known[w] = found
        return self._known[w]

    @cached_property
    def _known(self) -> dict[int, Moments]:
        return {}

    def _extreme(self, kind: str, w: int) -> Array:
        pick, levels, power = (np.fmin if kind == "min" else np.fmax), self._extremes[kind], w.bit_length() - 1
        while len(levels) <= power:
            levels.append(_joined(pick, levels[-1], levels[-1], 1 << (len(levels) - 1)))
        return _joined(pick, levels[power], levels[power], w - (1 << power))  # two windows that overlap: an extreme does not count twice

    @staticmethod
    def _decayed(values: Array, keep: float, w: int) -> Array:
        """Sum of values * keep ** age over the last *w* steps."""
        level, levels = values, [values]
        for power in range(w.bit_length() - 1):
            level = _joined(np.add, level, level * keep ** (1 << power), 1 << power)
            levels.append(level)
        (power, _), *rest = _halves(w)
        total = levels[power]
        for power, before in rest:
            total = _joined(np.add, total, levels[power] * keep**before, before)
        return total


def _halves(w: int) -> Iterator[tuple[int, int]]:
    """*w* as powers of two, largest first: (exponent, how many steps lie between the row and the part's end)."""
    before = 0
    for power in range(w.bit_length() - 1, -1, -1):
        if w >> power & 1:
            yield power, before
            before += 1 << power


def _enough(n: Array, w: int) -> Array:
    return 2 * n >= w


def _shift(values: Array, k: int) -> Array:
    shifted = np.full(len(values), np.nan)
    shifted[k:] = values[: max(0, len(values) - k)]
    return shifted


def _joined(ufunc: np.ufunc, late: Array, early: Array, k: int) -> Array:
    """ufunc(late[t], early[t - k]); where there is no t - k, late[t]."""
    joined = late.copy()
    ufunc(late[k:], early[: max(0, len(early) - k)], out=joined[k:])
    return joined
