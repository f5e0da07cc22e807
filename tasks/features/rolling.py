"""Rolling windows over a stretch of one column, in float64, NaN where missing.

A window's result is built from windows of half its length (1, 2, 4, ... steps), joined in a fixed
order. So it costs log2(w) passes over the stretch and depends only on the window's own content: no
running sum carries anything from before. That is why the tail of a series gives the numbers of the
batch, also for prices of 1e5 with a tiny variance.
"""

from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

import numpy as np
import polars as pl

from tasks.features.specs import EWM_CUT_SPANS

Array = np.ndarray


class WindowMoments(NamedTuple):
    """Moments of each window.

    n: number of known values; one number for all windows if none is missing.
    square: sum of squared distances from the mean.
    """

    n: Array | float
    mean: Array
    square: Array

    def join(self, earlier: "WindowMoments", k: int) -> "WindowMoments":
        """These windows, each joined with the one that ends *k* steps before.

        With one n for all, the operations and their order are the same: a window without gaps has
        the same bits in both forms.
        Source: Chan, Golub & LeVeque 1983, doi:10.1080/00031305.1983.10483115.
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
        distance = earlier.mean[early] - self.mean[late]
        np.multiply(distance, share, out=mean[late])
        mean[late] += self.mean[late]
        np.multiply(distance, distance, out=square[late])
        square[late] *= n_late * share
        square[late] += earlier.square[early]
        square[late] += self.square[late]
        return WindowMoments(n, mean, square)


class Past:
    """One column over a stretch of steps; windows share the halves that they are built from.

    whole: the caller promises that no value is missing where a result is used, which is faster. A
    window with a gap, or one that reaches before the stretch, is then NaN or wrong.
    """

    def __init__(self, values: Array, *, whole: bool = False) -> None:
        self.values, self.whole = values, whole
        self._extremes: dict[str, list[Array]] = {"min": [values], "max": [values]}

    def get_before(self, k: int) -> Array:
        """The value *k* steps back, for the steps that have one: *k* fewer numbers, not copied."""
        return self.values[: max(0, len(self.values) - k)]

    def lag(self, k: int) -> Array:
        """The value *k* steps back."""
        return _align_shifted(self.values, k)

    def get_last_known(self, within: int) -> Array:
        """The latest known value, at most *within* steps back."""
        latest = self.values.copy()
        for k in range(1, within + 1):
            is_missing = np.isnan(latest)
            if not is_missing.any():
                break
            latest[is_missing] = _align_shifted(self.values, k)[is_missing]
        return latest

    def mean(self, w: int) -> Array:
        """Mean of the last *w* steps."""
        return self._filter_enough(self._compute_moments(w).mean, w)

    def std(self, w: int, ddof: int = 1) -> Array:
        """Standard deviation (n - *ddof*) of the last *w* steps; NaN unless n > *ddof*."""
        n, _, square = self._compute_moments(w)
        spread = np.sqrt(square / np.maximum(n - ddof, 1.0))
        return self._filter_enough(spread if isinstance(n, float) else np.where(n > ddof, spread, np.nan), w)

    def minimum(self, w: int) -> Array:
        """Minimum of the last *w* steps."""
        return self._filter_enough(self._compute_extreme("min", w), w)

    def maximum(self, w: int) -> Array:
        """Maximum of the last *w* steps."""
        return self._filter_enough(self._compute_extreme("max", w), w)

    def quantile(self, w: int, q: float) -> Array:
        """Quantile *q* of the last *w* steps, linear between order statistics."""
        values = pl.Series(self.values).fill_nan(None)
        quantiles = values.rolling_quantile(
            q, interpolation="linear", window_size=w, min_samples=(w + 1) // 2
        )
        return quantiles.fill_null(np.nan).to_numpy()

    def ewm(self, span: int) -> Array:
        """Mean of the known values of the last 4 spans, weights (1 - 2 / (span + 1)) ** age."""
        return self.get_decaying_mean(1 - 2 / (span + 1), EWM_CUT_SPANS * span)

    def get_decaying_mean(self, keep: float, w: int) -> Array:
        """Mean of the known values of the last *w* steps, weights *keep* ** age."""
        if self.whole:
            return (
                self._compute_decayed_sum(self.values, keep, w)
                / self._compute_decayed_sum(np.ones(w), keep, w)[-1]
            )
        is_known = ~np.isnan(self.values)
        total, weight = (
            self._compute_decayed_sum(np.where(is_known, self.values, 0.0), keep, w),
            self._compute_decayed_sum(is_known.astype(np.float64), keep, w),
        )
        return self._filter_enough(np.where(weight > 0, total / np.where(weight > 0, weight, 1.0), np.nan), w)

    def log_return(self, k: int) -> Array:
        """ln(value / value *k* steps back), exact for small moves; NaN unless both are positive."""
        before = _align_shifted(self.values, k)
        is_positive = (self.values > 0) & (before > 0)
        relative = (self.values - before) / np.where(is_positive, before, 1.0)
        return np.where(is_positive, np.log1p(relative), np.nan)

    def change(self, k: int, w: int) -> Array:
        """Mean of |value - value *k* steps back| over the last *w* steps."""
        return Past(np.abs(self.values - _align_shifted(self.values, k))).mean(w)

    def level_to_change_ratio(self, k: int, w: int) -> Array:
        """|mean| over the last *w* steps in units of `change`; NaN where nothing changes."""
        change = self.change(k, w)
        return np.where(change > 0, np.abs(self.mean(w)) / np.where(change > 0, change, 1.0), np.nan)

    def _filter_enough(self, results: Array, w: int) -> Array:
        """*results* where at least half of the last *w* steps is known, else NaN."""
        n = self._compute_moments(w).n if not self.whole else float(w)
        return results if isinstance(n, float) else np.where(2 * n >= w, results, np.nan)

    @cached_property
    def _doubled_moments(self) -> list[WindowMoments]:
        if self.whole:
            return [WindowMoments(1.0, self.values, np.zeros(len(self.values)))]
        n = (~np.isnan(self.values)).astype(np.float64)
        return [WindowMoments(n, np.where(n > 0, self.values, 0.0), np.zeros(len(n)))]

    def _compute_moments(self, w: int) -> WindowMoments:
        if w not in self._known:
            parts = list(_split_window(w))
            while len(self._doubled_moments) <= parts[0][0]:
                self._doubled_moments.append(
                    self._doubled_moments[-1].join(
                        self._doubled_moments[-1], 1 << (len(self._doubled_moments) - 1)
                    )
                )
            moments = self._doubled_moments[parts[0][0]]
            for power, before in parts[1:]:
                moments = moments.join(self._doubled_moments[power], before)
            self._known[w] = moments
        return self._known[w]

    @cached_property
    def _known(self) -> dict[int, WindowMoments]:
        return {}

    def _compute_extreme(self, kind: str, w: int) -> Array:
        pick = {"min": (np.fmin, np.minimum), "max": (np.fmax, np.maximum)}[kind][self.whole]
        levels, power = self._extremes[kind], w.bit_length() - 1
        while len(levels) <= power:
            levels.append(_join_shifted(pick, levels[-1], levels[-1], 1 << (len(levels) - 1)))
        # the two windows overlap, which does not change an extreme
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
    """*w* as powers of two, largest first: (exponent, steps between the row and the part's end)."""
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
    """ufunc(late[t], early[t - k]); late[t] in the first *k* steps."""
    joined = np.empty_like(late)
    joined[:k] = late[:k]
    ufunc(late[k:], early[: max(0, len(early) - k)], out=joined[k:])
    return joined
