"""What columns read: float64 numbers at every row of the grid, NaN where unknown.

A source says how far it sees, since three things follow from that. `own`: values of the row's
series, up to the row; late rows change them.
`row`: known from the row's key alone (a date, whose row it is). `others`: values of other series at
the row's step. `ahead`: rows after the origin, as known at its cutoff. A request that brings the
history of one series can give the first two and not the others.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import polars as pl

from tasks.core.about import About
from tasks.core.calendar import Calendar
from tasks.core.errors import FeatureInputError
from tasks.core.schema import SERIES_KEY, FeatureColumn, encode_series_id
from tasks.features.bars import OHLC, garman_klass
from tasks.features.grid import find_series_starts

Role = Literal["level", "spread", "free"]
Sees = Literal["own", "row", "others", "ahead"]


@dataclass(frozen=True)
class GriddedRows:
    """The grid that sources are read from. frame: as `align_to_grid` gives it, with y and z.
    rows: what was laid, all vintages given.
    """

    frame: pl.DataFrame
    rows: pl.DataFrame
    about: About
    calendar: Calendar

    @cached_property
    def first(self) -> np.ndarray:
        """For each row the position of its series' first row."""
        starts = self.starts
        return np.repeat(starts, np.diff(np.append(starts, self.frame.height)))

    @cached_property
    def starts(self) -> np.ndarray:
        """The position of each series' first row."""
        return find_series_starts(self.frame["series_id"])

    @cached_property
    def steps(self) -> np.ndarray:
        """Microseconds since 1970 of the grid under all rows, ascending, the horizon of the last
        origin included.
        """
        times = self.frame["event_time"]
        first, last = times.min(), times.max()
        # Of a frame with rows
        grid = pl.concat(
            [self.calendar.grid(first, last), self.calendar.list_next_steps(last, self.about.horizon_steps)]  # type: ignore[arg-type]
        )
        return grid.to_physical().to_numpy()

    @cached_property
    def place(self) -> np.ndarray:
        """The position of each row in `steps`."""
        return np.searchsorted(self.steps, self.event_us)

    @cached_property
    def event_us(self) -> np.ndarray:
        """Microseconds since 1970 of each row's step."""
        return self.frame["event_time"].to_physical().to_numpy()

    def numbers(self, expr: pl.Expr) -> np.ndarray:
        """*expr* over the frame, NaN where it is null or not finite."""
        return self.frame.select(filter_finite(expr).fill_null(float("nan"))).to_series().to_numpy()

    def values(self, column: str) -> np.ndarray:
        """A received column, the target by its own name, y or z."""
        return self.numbers(pl.col("y" if column == self.about.target.column else column))


@dataclass(frozen=True)
class FeatureSource:
    """Numbers to read. name: of two with one name only one is read. needs: received columns, y
    or z, without which there is nothing to read.
    """

    name: str
    read: Callable[[GriddedRows], np.ndarray] = field(compare=False, repr=False)
    needs: tuple[str, ...] = ()
    sees: Sees = "own"


@dataclass(frozen=True)
class Column:
    """One feature. compute: from the past of each source, in their order, to the column's
    numbers, the last step's last. code: hash of a user's function's source.
    """

    name: str
    role: Role
    lookback_steps: int
    sources: tuple[FeatureSource, ...]
    compute: Callable[..., np.ndarray]
    code: str | None = None

    @property
    def described(self) -> FeatureColumn:
        """Its entry in the schema."""
        return FeatureColumn(
            name=self.name, role=self.role, lookback_steps=self.lookback_steps, code=self.code
        )

    @property
    def sees(self) -> Sees:
        """How far it sees. All sources of a column see alike."""
        return self.sources[0].sees


def check_number(column: str, reader: str, about: About) -> None:
    """Raise FeatureInputError unless *column*, which *reader* reads, holds numbers."""
    if column in about.text_columns:
        raise FeatureInputError(
            f"{reader} reads column {column!r}, which is {about.get_column_type(column)} in `about.columns`."
            " Features and models read numbers alone; no model reads texts or categories yet."
        )


def build_received_source(column: str) -> FeatureSource:
    """A value column, y or z."""
    return FeatureSource(column, lambda laid: laid.values(column), (column,))


OHLC_VOLATILITY = FeatureSource("ohlc", lambda laid: laid.numbers(garman_klass()), OHLC)


def build_key_source(part: int) -> FeatureSource:
    """The high (0) or low (1) half of each row's series key."""

    def read(laid: GriddedRows) -> np.ndarray:
        names = laid.frame["series_id"].gather(laid.starts)
        keys = np.array([encode_series_id(name)[part] for name in names], dtype=np.float64)
        return np.repeat(keys, np.diff(np.append(laid.starts, laid.frame.height)))

    return FeatureSource(SERIES_KEY[part], read, sees="row")


def filter_finite(expr: pl.Expr) -> pl.Expr:
    """*expr* as float64, null where it is not finite."""
    number = expr.cast(pl.Float64)
    return pl.when(number.is_finite()).then(number)
