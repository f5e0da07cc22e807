"""The sources of columns: float64 numbers at every row of the grid, NaN where unknown.

A source states what it sees. `own`: values of the row's series up to the row; late rows change
them. `row`: the row's key alone (its time, its series). `others`: values of other series at the
row's step. `ahead`: rows after the origin, as known at its cutoff. A request with the history of
one series can provide `own` and `row` only.
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
from tasks.core.schema import SERIES_KEY, Centres, FeatureColumn, encode_series_id
from tasks.features.bars import OHLC, garman_klass
from tasks.features.grid import find_series_starts

Role = Literal["level", "spread", "free"]
Sees = Literal["own", "row", "others", "ahead"]


@dataclass(frozen=True)
class GriddedRows:
    """Rows aligned to the grid, from which sources read.

    frame: as `align_to_grid` returns it, with y and z.
    rows: before, with all their vintages.
    centres: of the series that have one.
    """

    frame: pl.DataFrame
    rows: pl.DataFrame
    about: About
    calendar: Calendar
    centres: Centres = ()

    @cached_property
    def centre(self) -> np.ndarray | None:
        """What is subtracted from the levels of each row; None where no series has a centre."""
        names, of_series = self.frame["series_id"].gather(self.starts), dict(self.centres)
        if not any(name in of_series for name in names):
            return None
        lengths = np.diff(np.append(self.starts, self.frame.height))
        return np.repeat([of_series.get(name, 0.0) for name in names], lengths)

    @cached_property
    def first(self) -> np.ndarray:
        """For each row the index of its series' first row."""
        starts = self.starts
        return np.repeat(starts, np.diff(np.append(starts, self.frame.height)))

    @cached_property
    def starts(self) -> np.ndarray:
        """Index of each series' first row."""
        return find_series_starts(self.frame["series_id"])

    @cached_property
    def steps(self) -> np.ndarray:
        """The grid of all rows and of the last origin's horizon, in microseconds since 1970."""
        times = self.frame["event_time"]
        first, last = times.min(), times.max()
        grid = pl.concat(
            [self.calendar.grid(first, last), self.calendar.list_next_steps(last, self.about.horizon_steps)]  # type: ignore[arg-type]
        )
        return grid.to_physical().to_numpy()

    @cached_property
    def positions(self) -> np.ndarray:
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
    """Numbers that columns read.

    name: sources of one name are read once.
    needs: received columns, y or z, that must exist.
    of_series: the one series whose values it sees; None: its row's own, or with `others` all.
    """

    name: str
    read: Callable[[GriddedRows], np.ndarray] = field(compare=False, repr=False)
    needs: tuple[str, ...] = ()
    sees: Sees = "own"
    of_series: str | None = None


@dataclass(frozen=True)
class Column:
    """One feature.

    compute: from the `Past` of each source, in their order, to the column's numbers; the last
    number is that of the last step.
    code: sha256 of the source of a user's function.
    newest_steps_back: the newest step that it reads is so many before the row; below 0, after it.
    """

    name: str
    role: Role
    lookback_steps: int
    sources: tuple[FeatureSource, ...]
    compute: Callable[..., np.ndarray]
    code: str | None = None
    newest_steps_back: int = 0

    @property
    def described(self) -> FeatureColumn:
        """Its entry in the schema."""
        return FeatureColumn(
            name=self.name, role=self.role, lookback_steps=self.lookback_steps, code=self.code
        )

    @property
    def sees(self) -> Sees:
        """What it sees; the same for all sources of a column."""
        return self.sources[0].sees


def check_number(column: str, reader: str, about: About) -> None:
    """Raise FeatureInputError unless *column*, which *reader* reads, holds numbers."""
    if column in about.text_columns:
        raise FeatureInputError(
            f"{reader} reads column {column!r}, which is {about.get_column_type(column)} in `about.columns`."
            " Features and models read numbers alone; no model reads texts or categories yet."
        )


def build_received_source(column: str) -> FeatureSource:
    """The source of a value column, y or z."""
    return FeatureSource(column, lambda gridded: gridded.values(column), (column,))


OHLC_VOLATILITY = FeatureSource("ohlc", lambda gridded: gridded.numbers(garman_klass()), OHLC)


def build_key_source(part: int) -> FeatureSource:
    """The source of the high (0) or low (1) half of each row's series key."""

    def read(gridded: GriddedRows) -> np.ndarray:
        names = gridded.frame["series_id"].gather(gridded.starts)
        keys = np.array([encode_series_id(name)[part] for name in names], dtype=np.float64)
        return np.repeat(keys, np.diff(np.append(gridded.starts, gridded.frame.height)))

    return FeatureSource(SERIES_KEY[part], read, sees="row")


def filter_finite(expr: pl.Expr) -> pl.Expr:
    """*expr* as float64, null where it is not finite."""
    number = expr.cast(pl.Float64)
    return pl.when(number.is_finite()).then(number)
