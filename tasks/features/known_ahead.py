"""What is known ahead: the value of a column at each step of the horizon, as an origin's cutoff
knows it.

A row said ahead has no target and was known before its step was over; a price plan, a weather
forecast, an opening time. It says something of the steps after an origin and is no step itself: the
grid, and with it the last origin, ends with the last row that is not said ahead. Of several that
speak of one step the newest known by the cutoff counts, and a column that is null there is unknown.
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
    """Which rows, with their target as y, are said ahead."""
    return pl.col("y").is_null() & (pl.col("known_at") < calendar.nominal_known_at())


def build_ahead_columns(spec: Ahead, about: About) -> Iterator[Column]:
    """`<column>_ahead_<s>` for each step s of the horizon.

    Raises FeatureInputError for a column that is not declared as known ahead.
    """
    check_declared("ahead", spec.column, "known_ahead", about.covariates.known_ahead)
    for s in range(1, about.horizon_steps + 1):
        name = f"{spec.column}_ahead_{s}"
        # A default binds the loop's s
        source = FeatureSource(
            name,
            lambda laid, s=s: _read_ahead(laid, spec.column, s),  # type: ignore[misc]
            (spec.column,),
            sees="ahead",
        )
        yield Column(name, "free", 0, (source,), lambda past: past.values)


def check_declared(kind: str, column: str, key: str, declared: tuple[str, ...]) -> None:
    """Raise FeatureInputError unless *column* is among those that `about.covariates.<key>` has."""
    if column not in declared:
        raise FeatureInputError(
            f"`features.list`: {kind} of {column!r}, but `about.covariates.{key}` has {list(declared)}. Add"
            " the column there, or use kind `value`."
        )


def check_known_ahead(specs: tuple[object, ...], rows: pl.DataFrame, calendar: Calendar) -> None:
    """Raise FeatureInputError for an `ahead` of a column of which *rows*, which have y, never
    say anything ahead: its features would be empty.
    """
    said = rows.filter(is_known_ahead(calendar))
    for spec in specs:
        if isinstance(spec, Ahead) and said[spec.column].null_count() == said.height:
            raise FeatureInputError(
                f"`features.list`: ahead of {spec.column!r}, but no row says anything of it before its step"
                " is over. What is known ahead comes in rows without a target, whose `known_at` is the time"
                " at which it was said: see `ingest.known_at_column`. What is known afterwards only belongs"
                " into `about.covariates.past`."
            )


def _read_ahead(laid: GriddedRows, column: str, s: int) -> np.ndarray:
    """The value *s* steps after each row, by the newest vintage that the row's cutoff knows."""
    said = laid.rows.filter(
        (pl.col("known_at") < laid.calendar.nominal_known_at())
        & (pl.col("event_time").to_physical() <= laid.steps[-1])
    )
    said = said.filter(pl.col("event_time").to_physical() >= laid.steps[0])
    grid = pl.Series(laid.steps).cast(pl.Datetime("us", "UTC"))
    ids = laid.frame["series_id"].gather(laid.starts)
    said = said.filter(pl.col("series_id").is_in(ids.implode()))
    if said.is_empty():
        return np.full(laid.frame.height, np.nan)
    place, owner = (
        find_grid_positions(said, grid, laid.calendar),
        ids.search_sorted(said["series_id"]).to_numpy().astype(np.int64),
    )
    known_us = said["known_at"].to_physical().to_numpy()
    moments = np.unique(known_us)
    cutoff_us = laid.frame.select(laid.calendar.nominal_known_at()).to_series().to_physical().to_numpy()

    # one whole number for (series, step, rank of known_at), so that "the newest known by the
    # cutoff" is one search
    def number(owner: np.ndarray, place: np.ndarray, rank: np.ndarray) -> np.ndarray:
        return (owner * len(laid.steps) + place) * (len(moments) + 1) + rank

    vintages = number(owner, place, np.searchsorted(moments, known_us) + 1)
    order = np.argsort(vintages)
    asked_of = np.searchsorted(laid.starts, laid.first)
    asked = number(asked_of, laid.place + s, np.searchsorted(moments, cutoff_us, side="right"))
    found = np.searchsorted(vintages[order], asked, side="right") - 1
    newest = vintages[order][np.maximum(found, 0)]
    known = (found >= 0) & (newest // (len(moments) + 1) == asked // (len(moments) + 1))
    values = said.select(filter_finite(pl.col(column)).fill_null(float("nan"))).to_series().to_numpy()[order]
    return np.where(known, values[np.maximum(found, 0)], np.nan)
