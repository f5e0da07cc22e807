"""Windows over a stretch of one column, in float64, NaN where missing.

A window's result is built from windows of half its length (1, 2, 4, ... steps), joined in a fixed
order. So it costs log2(w) passes over the stretch, and it depends on the window's own content
alone: no running sum carries anything in from before, which is what makes the tail of a series give
the batch's numbers, also for prices of 1e5 whose variance is tiny.
"""

from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

import numpy as np
import polars as pl

from tasks.features.specs import EWM_CUT_SPANS

Array = np.ndarray


class WindowMoments(NamedTuple):
    """Of each window: how many values are there (one number for all, where none is missing),
    their mean, and the sum of squared distances from it.
    """

    n: Array | float
    mean: Array
    square: Array

    def join(self, earlier: "WindowMoments", k: int) -> "WindowMoments":
        """These windows together with those that end *k* steps before.

        Source: Chan, Golub & LeVeque 1983, doi:10.1080/00031305.1983.10483115. With one n for all,
        the same operations in the same order: a window without holes has the same bits in both
        forms.
        """
        late, early = slice(k, None), slice(0, max(0, len(self.mean) - k))
        n = (
            self.n + earlier.n
            if isinstance(self.n, float) or isinstance(earlier.n, float)
            else _join_shifted(np.add, self.n, earlier.n, k)
        )
        n_late, n_early, n_both = (
            m if isinstance(m, float) else m[part]
            for m, part in ((self.n, late), (earlier.n, early), (n, late))
        )
        share = n_early / np.maximum(n_both, 1.0)
        mean, square = np.empty_like(self.mean), np.empty_like(self.square)
        mean[:k], square[:k] = self.mean[:k], self.square[:k]
        apart = earlier.mean[early] - self.mean[late]
        np.multiply(apart, share, out=mean[late])
        mean[late] += self.mean[late]
        np.multiply(apart, apart, out=square[late])
        square[late] *= n_late * share
        square[late] += earlier.square[early]
        square[late] += self.square[late]
        return WindowMoments(n, mean, square)


class Past:
    """One column over a stretch of steps; the windows that features ask for share their halves.

    whole: promises that no value that counts is missing, and takes the shorter way. A window that
    has a hole in it, or reaches before the stretch, is then NaN or wrong: whoever promises looks
    after them.
    """

    def __init__(self, values: Array, *, whole: bool = False) -> None:
        self.values, self.whole = values, whole
        self._extremes: dict[str, list[Array]] = {"min": [values], "max": [values]}

    def get_before(self, k: int) -> Array:
        """The value *k* steps back of each step that has one in the stretch: *k* numbers fewer,
        and no copy.
        """
        return self.values[: max(0, len(self.values) - k)]

    def lag(self, k: int) -> Array:
        """The value *k* steps back."""
        return _align_shifted(self.values, k)

    def get_last_known(self, within: int) -> Array:
        """The latest value that is there, at most *within* steps back."""
        found = self.values.copy()
        for k in range(1, within + 1):
            hole = np.isnan(found)
            if not hole.any():
                break
            found[hole] = _align_shifted(self.values, k)[hole]
        return found

    def mean(self, w: int) -> Array:
        """Mean of the last *w* steps."""
        return self._filter_enough(self._compute_moments(w).mean, w)

    def std(self, w: int, ddof: int = 1) -> Array:
        """Standard deviation (n - *ddof*) of the last *w* steps; more than *ddof* values at
        least.
        """
        n, _, square = self._compute_moments(w)
        spread = np.sqrt(square / np.maximum(n - ddof, 1.0))
        return self._filter_enough(spread if isinstance(n, float) else np.where(n > ddof, spread, np.nan), w)

    def least(self, w: int) -> Array:
        """Minimum of the last *w* steps."""
        return self._filter_enough(self._compute_extreme("min", w), w)

    def most(self, w: int) -> Array:
        """Maximum of the last *w* steps."""
        return self._filter_enough(self._compute_extreme("max", w), w)

    def quantile(self, w: int, q: float) -> Array:
        """Quantile *q* of the last *w* steps, linear between order statistics."""
        values = pl.Series(self.values).fill_nan(None)
        found = values.rolling_quantile(q, interpolation="linear", window_size=w, min_samples=(w + 1) // 2)
        return found.fill_null(np.nan).to_numpy()

    def ewm(self, span: int) -> Array:
        """Mean with weights (1 - 2 / (span + 1)) ** age over the last 4 spans, of the values
        that are there.
        """
        return self.get_decaying_mean(1 - 2 / (span + 1), EWM_CUT_SPANS * span)

    def get_decaying_mean(self, keep: float, w: int) -> Array:
        """Mean with weights *keep* ** age over the last *w* steps, of the values that are there."""
        if self.whole:
            return (
                self._compute_decayed_sum(self.values, keep, w)
                / self._compute_decayed_sum(np.ones(w), keep, w)[-1]
            )
        there = ~np.isnan(self.values)
        top, weight = (
            self._compute_decayed_sum(np.where(there, self.values, 0.0), keep, w),
            self._compute_decayed_sum(there.astype(np.float64), keep, w),
        )
        return self._filter_enough(np.where(weight > 0, top / np.where(weight > 0, weight, 1.0), np.nan), w)

    def log_return(self, k: int) -> Array:
        """ln(value / value *k* steps back), exact to the last digits for small moves; NaN unless
        both are positive.
        """
        before = _align_shifted(self.values, k)
        both = (self.values > 0) & (before > 0)
        return np.where(both, np.log1p((self.values - before) / np.where(both, before, 1.0)), np.nan)

    def change(self, k: int, w: int) -> Array:
        """Mean of |value - value *k* steps back| over the last *w* steps."""
        return Past(np.abs(self.values - _align_shifted(self.values, k))).mean(w)

    def level_to_change_ratio(self, k: int, w: int) -> Array:
        """|mean| over the last *w* steps in units of `change`; NaN where nothing changes."""
        change = self.change(k, w)
        return np.where(change > 0, np.abs(self.mean(w)) / np.where(change > 0, change, 1.0), np.nan)

    def _filter_enough(self, found: Array, w: int) -> Array:
        """*found* where at least half of the last *w* steps is there."""
        n = self._compute_moments(w).n if not self.whole else float(w)
        return found if isinstance(n, float) else np.where(2 * n >= w, found, np.nan)

    @cached_property
    def _doubled_moments(self) -> list[WindowMoments]:
        if self.whole:
            return [WindowMoments(1.0, self.values, np.zeros(len(self.values)))]
        there = ~np.isnan(self.values)
        return [
            WindowMoments(there.astype(np.float64), np.where(there, self.values, 0.0), np.zeros(len(there)))
        ]

    def _compute_moments(self, w: int) -> WindowMoments:
        if w not in self._known:
            parts = list(_split_window(w))
            while len(self._doubled_moments) <= parts[0][0]:
                self._doubled_moments.append(
                    self._doubled_moments[-1].join(
                        self._doubled_moments[-1], 1 << (len(self._doubled_moments) - 1)
                    )
                )
            found = self._doubled_moments[parts[0][0]]
            for power, before in parts[1:]:
                found = found.join(self._doubled_moments[power], before)
            self._known[w] = found
        return self._known[w]

    @cached_property
    def _known(self) -> dict[int, WindowMoments]:
        return {}

    def _compute_extreme(self, kind: str, w: int) -> Array:
        pick = {"min": (np.fmin, np.minimum), "max": (np.fmax, np.maximum)}[kind][self.whole]
        levels, power = self._extremes[kind], w.bit_length() - 1
        while len(levels) <= power:
            levels.append(_join_shifted(pick, levels[-1], levels[-1], 1 << (len(levels) - 1)))
        # Two windows that overlap: an extreme does not count twice
        return _join_shifted(pick, levels[power], levels[power], w - (1 << power))

    @staticmethod
    def _compute_decayed_sum(values: Array, keep: float, w: int) -> Array:
        """Sum of values * keep ** age over the last *w* steps."""
        level, levels = values, [values]
        for power in range(w.bit_length() - 1):
            level = _join_shifted(np.add, level, level * keep ** (1 << power), 1 << power)
            levels.append(level)
        (power, _), *rest = _split_window(w)
        total = levels[power]
        for power, before in rest:
            total = _join_shifted(np.add, total, levels[power] * keep**before, before)
        return total


def _split_window(w: int) -> Iterator[tuple[int, int]]:
    """*w* as powers of two, largest first: (exponent, how many steps lie between the row and the
    part's end).
    """
    before = 0
    for power in range(w.bit_length() - 1, -1, -1):
        if w >> power & 1:
            yield power, before
            before += 1 << power


def _align_shifted(values: Array, k: int) -> Array:
    shifted = np.empty_like(values)
    shifted[:k] = np.nan
    shifted[k:] = values[: max(0, len(values) - k)]
    return shifted


def _join_shifted(ufunc: np.ufunc, late: Array, early: Array, k: int) -> Array:
    """ufunc(late[t], early[t - k]); where there is no t - k, late[t]."""
    joined = np.empty_like(late)
    joined[:k] = late[:k]
    ufunc(late[k:], early[: max(0, len(early) - k)], out=joined[k:])
    return joined
