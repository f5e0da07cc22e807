"""Means of groups of rows, summed row by row.

Sums of polars' threads differ in the last bit from one number of threads to the next. These are of
the rows in their order, so what they decide, and the digest of a report, is the same everywhere.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl


class SummedGroups:
    """Rows of one frame with the same values of *keys*, in ascending order of these.

    groups: the keys and the number of rows `n` of each.
    """

    def __init__(self, frame: pl.DataFrame, keys: Sequence[str]) -> None:
        self._frame = frame
        self.groups = frame.group_by(keys).agg(pl.len().alias("n")).sort(keys)
        rank = frame.select(pl.struct(keys).rank("dense")).to_series() if frame.height else pl.Series([1])
        self._group = rank.to_numpy()[: frame.height].astype(np.int64) - 1

    def compute_means(self, column: str) -> pl.Series:
        """The mean of the known values of *column* in each group, null without any."""
        return self._to_series(column, self._sum_means(self._read(column)))

    def compute_sds(self, column: str) -> pl.Series:
        """Their standard deviation (n - 1), null with fewer than two."""
        values = self._read(column)
        means, n = self._sum_means(values), self._count(values)
        squares = self._sum_means(np.square(values - means[self._group]))
        with np.errstate(divide="ignore", invalid="ignore"):
            return self._to_series(column, np.where(n > 1, np.sqrt(squares * n / (n - 1)), np.nan))

    def _read(self, column: str) -> np.ndarray:
        """Float64, NaN where null."""
        return self._frame[column].cast(pl.Float64).fill_null(float("nan")).to_numpy()

    def _count(self, values: np.ndarray) -> np.ndarray:
        return np.bincount(self._group[~np.isnan(values)], minlength=self.groups.height)

    def _sum_means(self, values: np.ndarray) -> np.ndarray:
        known = ~np.isnan(values)
        total = np.bincount(self._group[known], values[known], self.groups.height)
        with np.errstate(divide="ignore", invalid="ignore"):
            out: np.ndarray = total / self._count(values)
        return out

    def _to_series(self, column: str, values: np.ndarray) -> pl.Series:
        return pl.Series(column, values, dtype=pl.Float64).fill_nan(None)
