"""Known-ahead covariates: a column at each step of the horizon, as known at the cutoff.

A row known ahead has no target and was known before its step was over: a price plan, a weather
forecast, an opening time. It is not a step: the grid, and with it the last origin, ends with the
last row that is not known ahead. Of several rows for one step the newest that the cutoff knows
counts; a column that is null in it is unknown.
"""

from collections.abc import Iterator

import numpy as np
import polars as pl

from tasks.core.about import About
from tasks.core.calendar import Calendar
from tasks.core.errors import FeatureInputError
from tasks.features.grid import find_grid_positions
from tasks.features.sources import Column, FeatureSource, GriddedRows, filter_finite
from tasks.features.specs import Ahead


def is_known_ahead(calendar: Calendar) -> pl.Expr:
    """Which rows, with their target as y, are known ahead."""
    return pl.col("y").is_null() & (pl.col("known_at") < calendar.nominal_known_at())


def build_ahead_columns(spec: Ahead, about: About) -> Iterator[Column]:
    """The column `<column>_ahead_<s>` for each step s of the horizon.

    Raises FeatureInputError for a column that is not declared as known ahead.
    """
    check_declared("ahead", spec.column, "known_ahead", about.covariates.known_ahead)
    for s in range(1, about.horizon_steps + 1):
        name = f"{spec.column}_ahead_{s}"
        # the default binds the loop's s
        source = FeatureSource(
            name,
            lambda gridded, s=s: _read_ahead(gridded, spec.column, s),  # type: ignore[misc]
            (spec.column,),
            sees="ahead",
        )
        yield Column(name, "free", 0, (source,), lambda past: past.values, newest_steps_back=-s)


def check_declared(kind: str, column: str, key: str, declared: tuple[str, ...]) -> None:
    """Raises FeatureInputError unless *column* is in `about.covariates.<key>`."""
    if column not in declared:
        raise FeatureInputError(
            f"`features.list`: {kind} of {column!r}, but `about.covariates.{key}` has {list(declared)}. Add"
            " the column there, or use kind `value`."
        )


def check_known_ahead(specs: tuple[object, ...], rows: pl.DataFrame, calendar: Calendar) -> None:
    """Raises FeatureInputError for an `ahead` of a column that is never known ahead.

    rows: with y. The features would be empty.
    """
    ahead = rows.filter(is_known_ahead(calendar))
    for spec in specs:
        if isinstance(spec, Ahead) and ahead[spec.column].null_count() == ahead.height:
            raise FeatureInputError(
                f"`features.list`: ahead of {spec.column!r}, but no row has it before its step is over."
                " Values known ahead come in rows without a target, whose `known_at` is the time of"
                " publication: see `ingest.source.known_at_column`. A column that is known only afterwards"
                " belongs into `about.covariates.past`."
            )


def _read_ahead(gridded: GriddedRows, column: str, s: int) -> np.ndarray:
    """The value *s* steps after each row, by the newest vintage that the row's cutoff knows."""
    ahead = gridded.rows.filter(
        (pl.col("known_at") < gridded.calendar.nominal_known_at())
        & (pl.col("event_time").to_physical() <= gridded.steps[-1])
    )
    ahead = ahead.filter(pl.col("event_time").to_physical() >= gridded.steps[0])
    grid = pl.Series(gridded.steps).cast(pl.Datetime("us", "UTC"))
    ids = gridded.frame["series_id"].gather(gridded.starts)
    ahead = ahead.filter(pl.col("series_id").is_in(ids.implode()))
    if ahead.is_empty():
        return np.full(gridded.frame.height, np.nan)
    positions = find_grid_positions(ahead, grid, gridded.calendar)
    owner = ids.search_sorted(ahead["series_id"]).to_numpy().astype(np.int64)
    known_us = ahead["known_at"].to_physical().to_numpy()
    moments = np.unique(known_us)
    cutoff_us = gridded.frame.select(gridded.calendar.nominal_known_at()).to_series().to_physical().to_numpy()

    # one whole number for (series, step, rank of known_at), so that "the newest known by the
    # cutoff" is one search
    def encode(owner: np.ndarray, positions: np.ndarray, rank: np.ndarray) -> np.ndarray:
        return (owner * len(gridded.steps) + positions) * (len(moments) + 1) + rank

    vintages = encode(owner, positions, np.searchsorted(moments, known_us) + 1)
    order = np.argsort(vintages)
    row_owner = np.searchsorted(gridded.starts, gridded.first)
    wanted = encode(row_owner, gridded.positions + s, np.searchsorted(moments, cutoff_us, side="right"))
    index = np.searchsorted(vintages[order], wanted, side="right") - 1
    newest = vintages[order][np.maximum(index, 0)]
    is_known = (index >= 0) & (newest // (len(moments) + 1) == wanted // (len(moments) + 1))
    values = ahead.select(filter_finite(pl.col(column)).fill_null(float("nan"))).to_series().to_numpy()[order]
    return np.where(is_known, values[np.maximum(index, 0)], np.nan)
