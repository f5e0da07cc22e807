"""Statistics across the series that have a value at a step.

Only the row's own step counts, as known at its cutoff: a row that arrived later is not in it. Sums
run over the series by name, so that neither the order of rows nor other steps change the bits.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import polars as pl

from tasks.core.errors import FeatureInputError
from tasks.features.sources import Column, FeatureSource, GriddedRows, Role
from tasks.features.specs import Cross


class CrossSection(NamedTuple):
    """The known values, step after step and series by name.

    row: index of each value in the frame.
    step: of each row of the frame, 0 to n - 1.
    start, n: of each step in the values.
    """

    values: np.ndarray
    row: np.ndarray
    step: np.ndarray
    start: np.ndarray
    n: np.ndarray


def build_cross_columns(spec: Cross, role: Role) -> Iterator[Column]:
    """The columns `<column>_cross_<of>`; of a named series `<column>_cross_series_<id>`."""
    for of in spec.of:
        name = f"{spec.column}_cross_{of}" + (f"_{spec.series_id}" if of == "series" else "")
        column = spec.column
        read = (
            _build_reader(column, _READ[of])
            if of != "series"
            else lambda gridded, c=column: _read_series(gridded, c, str(spec.series_id))
        )
        role_in_z: Role = "spread" if of == "std" else "free" if of in {"rank", "share"} else "level"
        yield Column(
            name,
            role_in_z if role == "level" else "free",
            0,
            (
                FeatureSource(
                    name, read, (column,), sees="others", of_series=spec.series_id if of == "series" else None
                ),
            ),
            lambda past: past.values,
        )


def check_named_series(specs: tuple[object, ...], rows: pl.DataFrame) -> None:
    """Raises FeatureInputError for a `cross` of a series that is not in *rows*."""
    known = rows["series_id"].unique().sort().to_list()
    for spec in specs:
        if isinstance(spec, Cross) and spec.series_id is not None and spec.series_id not in known:
            shown = f"{known[:8]}" + (" and more" if len(known) > 8 else "")
            raise FeatureInputError(
                f"`features.list`: cross of {spec.column!r} reads series {spec.series_id!r}, which is"
                f" missing; there are {shown}."
            )


def _build_reader(
    column: str, of: Callable[[CrossSection, np.ndarray], np.ndarray]
) -> Callable[[GriddedRows], np.ndarray]:
    def read(gridded: GriddedRows) -> np.ndarray:
        values = gridded.values(column)
        return of(_build_cross_section(values, gridded.positions), values)

    return read


def _build_cross_section(values: np.ndarray, positions: np.ndarray) -> CrossSection:
    order = np.argsort(positions, kind="stable")
    row = order[~np.isnan(values[order])]
    steps, start, n = np.unique(positions[row], return_index=True, return_counts=True)
    step = np.searchsorted(steps, positions)
    is_known = step < len(steps)
    is_known[is_known] = steps[step[is_known]] == positions[is_known]
    return CrossSection(values[row], row, np.where(is_known, step, len(steps)), start, n)


def _align_to_rows(of_step: np.ndarray, steps: CrossSection) -> np.ndarray:
    """A number of each step at every row; NaN at steps where no series has a value."""
    return np.append(of_step, np.nan)[steps.step]


def _compute_sum(values: np.ndarray, steps: CrossSection) -> np.ndarray:
    return np.add.reduceat(values, steps.start) if len(steps.start) else np.zeros(0)


def _compute_mean(steps: CrossSection, _values: np.ndarray) -> np.ndarray:
    return _align_to_rows(_compute_sum(steps.values, steps) / steps.n, steps)


def _compute_std(steps: CrossSection, _values: np.ndarray) -> np.ndarray:
    deviation = steps.values - np.repeat(_compute_sum(steps.values, steps) / steps.n, steps.n)
    return _align_to_rows(
        np.where(
            steps.n > 1,
            np.sqrt(_compute_sum(deviation * deviation, steps) / np.maximum(steps.n - 1, 1)),
            np.nan,
        ),
        steps,
    )


def _sort_values(steps: CrossSection) -> np.ndarray:
    """Positions in `values`, those of each step from the lowest value to the highest."""
    return np.lexsort((steps.values, np.repeat(np.arange(len(steps.n)), steps.n)))


def _compute_median(steps: CrossSection, _values: np.ndarray) -> np.ndarray:
    values = steps.values[_sort_values(steps)]
    low, high = (
        (values[steps.start + half] for half in ((steps.n - 1) // 2, steps.n // 2))
        if len(steps.n)
        else (np.zeros(0),) * 2
    )
    return _align_to_rows(low + (high - low) / 2, steps)


def _compute_others_mean(steps: CrossSection, values: np.ndarray) -> np.ndarray:
    is_known = ~np.isnan(values)
    total, n = (
        _align_to_rows(_compute_sum(steps.values, steps), steps),
        _align_to_rows(steps.n.astype(np.float64), steps) - is_known,
    )
    return np.where(n > 0, (total - np.where(is_known, values, 0.0)) / np.maximum(n, 1), np.nan)


def _compute_share(steps: CrossSection, values: np.ndarray) -> np.ndarray:
    total = _align_to_rows(_compute_sum(steps.values, steps), steps)
    return np.where(total != 0, values / np.where(total != 0, total, 1.0), np.nan)


def _compute_rank(steps: CrossSection, _values: np.ndarray) -> np.ndarray:
    """Ranks from 0 to 1; equal values have the mean of their ranks, a series alone has 0.5."""
    order = _sort_values(steps)
    values, owner = steps.values[order], np.repeat(np.arange(len(steps.n)), steps.n)
    is_new = np.ones(len(values), dtype=bool)
    is_new[1:] = (values[1:] != values[:-1]) | (owner[1:] != owner[:-1])
    first = np.flatnonzero(is_new)
    last = np.append(first[1:], len(values)) - 1
    tied = np.cumsum(is_new) - 1
    rank = (first[tied] + last[tied]) / 2 - steps.start[owner]
    of_values = np.where(steps.n[owner] > 1, rank / np.maximum(steps.n[owner] - 1, 1), 0.5)
    ranks = np.full(len(steps.step), np.nan)
    ranks[steps.row[order]] = of_values
    return ranks


def _read_series(gridded: GriddedRows, column: str, series_id: str) -> np.ndarray:
    """The values of one series at the step of every row."""
    is_series = gridded.frame.select(pl.col("series_id") == series_id).to_series().to_numpy()
    of_step = np.full(len(gridded.steps), np.nan)
    of_step[gridded.positions[is_series]] = gridded.values(column)[is_series]
    return of_step[gridded.positions]


_READ: dict[str, Callable[[CrossSection, np.ndarray], np.ndarray]] = {
    "mean": _compute_mean,
    "median": _compute_median,
    "std": _compute_std,
    "others_mean": _compute_others_mean,
    "rank": _compute_rank,
    "share": _compute_share,
}
