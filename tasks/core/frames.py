"""One schema per artifact: which columns, which types, which order.

The doors check it on the way in and on the way out. Every frame is long and sorted by its key.
Times are UTC with microseconds; `event_time` is the start of a step, `known_at` the moment a value
could first be known. A correction is a new row with a later `known_at` (a vintage).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

import polars as pl

from tasks.core.errors import FrameError

UTC = pl.Datetime("us", "UTC")
Columns = Mapping[str, pl.DataType | type[pl.DataType]]


@dataclass(frozen=True)
class FrameSchema:
    """Columns a frame must have, the key it is sorted by, and the type of any further column
    (None: no further columns).
    """

    name: str
    columns: Columns
    key: tuple[str, ...]
    further: tuple[type[pl.DataType], ...] | None = None
    unique: bool = True
    optional: Columns = field(default_factory=dict)

    def check(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return *frame* as it is.

        Raises FrameError that names the column and what was expected of it.
        """
        known = {**self.columns, **self.optional}
        self._check_complete(frame)
        for column, dtype in frame.schema.items():
            if column in known and dtype != known[column]:
                raise FrameError(
                    f"{self.name}: column {column!r} is {dtype}, the schema says {known[column]}."
                )
            if column not in known and (self.further is None or dtype not in self.further):
                raise FrameError(f"{self.name}: column {column!r} ({dtype}) is not part of the schema.")
        unsorted, repeats = self._order(frame)
        if unsorted:
            raise FrameError(f"{self.name}: rows are not sorted by {list(self.key)}.")
        if self.unique and repeats:
            raise FrameError(f"{self.name}: the key {list(self.key)} repeats.")
        return frame

    def _order(self, frame: pl.DataFrame) -> tuple[bool, bool]:
        """Whether some key lies before that of the row above, nulls first, and whether some key
        equals it.

        Column by column: structs take twice the time.
        """
        back, tie = pl.lit(value=False), pl.lit(value=True)
        for column in self.key:
            key, last = pl.col(column), pl.col(column).shift(1)
            below = (key < last).fill_null(key.is_null() & last.is_not_null())
            back, tie = back | (tie & below), tie & key.eq_missing(last)
        later = frame.select(back=back, tie=tie).slice(1)
        return bool(later["back"].any()), bool(later["tie"].any())

    def _check_complete(self, frame: pl.DataFrame) -> None:
        if missing := [c for c in self.columns if c not in frame.columns]:
            raise FrameError(
                f"{self.name}: column(s) {missing} are missing; there are {frame.columns}. Rebuild the stage"
                " that writes it."
            )

    def conform(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Cast the schema's columns, put them first, sort by the key, then check."""
        self._check_complete(frame)
        known = {c: t for c, t in {**self.columns, **self.optional}.items() if c in frame.columns}
        rest = [pl.col(c) for c in frame.columns if c not in known]
        typed = frame.select([*(pl.col(c).cast(t) for c, t in known.items()), *rest])
        return self.check(typed.sort(self.key) if self._order(typed)[0] else typed)


_KEY: Columns = {"series_id": pl.String, "event_time": UTC, "known_at": UTC}

# data/raw, data/clean: value columns in float64, as received.
SERIES = FrameSchema("series", _KEY, ("series_id", "event_time", "known_at"), further=(pl.Float64,))

# data/raw/repeated.parquet: rows whose key had come before, with the file that brought them again.
REPEATED = FrameSchema(
    "repeated",
    {**_KEY, "file": pl.String},
    ("series_id", "event_time", "known_at"),
    further=(pl.Float64,),
    unique=False,
)

# data/quarantine: the rows that failed, with the rule and the reason.
QUARANTINE = FrameSchema(
    "quarantine",
    {**_KEY, "rule": pl.String, "reason": pl.String},
    ("series_id", "event_time", "known_at"),
    further=(pl.Float64,),
    unique=False,
)

# data/features: one row per grid step. y: target in its unit; z: target after its transform;
# features are float32, null where unknown.
FEATURES = FrameSchema(
    "features",
    {**_KEY, "is_gap": pl.Boolean, "y": pl.Float64, "z": pl.Float64},
    ("series_id", "event_time"),
    further=(pl.Float32,),
)

# data/features/vintages.parquet: y and z of the rows that a later vintage corrected, as they were
# known from known_at on. The table has the newest.
VINTAGES = FrameSchema(
    "vintages", {**_KEY, "y": pl.Float64, "z": pl.Float64}, ("series_id", "event_time", "known_at")
)

# data/forecasts/<model> and everything that is served or scored, with the columns of the target's
# kind (tasks.core.kinds): of a numeric target y_hat and quantiles, in its unit. y null until known.
FORECAST = FrameSchema(
    "forecast",
    {
        "series_id": pl.String,
        "cutoff": UTC,
        "step": pl.Int32,
        "event_time": UTC,
        "model": pl.String,
    },
    ("model", "series_id", "cutoff", "step"),
    further=(pl.Float64,),
    optional={"y_hat": pl.Float64, "y": pl.Float64},
)

# A body's history.parquet: out-of-sample forecasts of its ensemble before seen_until, in the space
# of z; they feed the conformal state.
# scale: what residuals are divided by, at the origin. z and its known_at are as known at
# seen_until, null where it was not known yet.
# regime: whose residuals its interval came from, where regimes are told apart. q_...: the members'
# own quantiles, where intervals start from them.
# z_hat_<member>: what each member said alone, where weights follow recent losses.
HISTORY = FrameSchema(
    "history",
    {
        "series_id": pl.String,
        "cutoff": UTC,
        "step": pl.Int32,
        "event_time": UTC,
        "z_hat": pl.Float64,
        "scale": pl.Float64,
        "z": pl.Float64,
        "known_at": UTC,
    },
    ("series_id", "cutoff", "step"),
    further=(pl.Float64,),
    optional={"regime": pl.Int32},
)

# What the service stores of each answer: the forecast, its id, the wall clock, the release that
# spoke.
SERVED = FrameSchema(
    "served",
    {**FORECAST.columns, "prediction_id": pl.String, "made_at": UTC, "digest": pl.String},
    ("prediction_id", "series_id", "step"),
    further=(pl.Float64,),
    optional={"y_hat": pl.Float64},
)


def format_quantile_column(quantile: float) -> str:
    """0.1 -> `q_0.1`."""
    return f"q_{quantile:g}"


def format_quantile_columns(quantiles: Iterable[float]) -> list[str]:
    """Names of the quantile columns, in the order given."""
    return [format_quantile_column(q) for q in quantiles]


def select_as_of(frame: pl.DataFrame, at: datetime) -> pl.DataFrame:
    """What was known at *at*: of each (series_id, event_time) the latest vintage with `known_at`
    <= *at*; sorted by the key.
    """
    known = frame.filter(pl.col("known_at") <= at).sort("series_id", "event_time", "known_at")
    return known.unique(subset=["series_id", "event_time"], keep="last", maintain_order=True)


def get_newest_known_at(frame: pl.DataFrame) -> datetime:
    """The newest `known_at`: the data's own now. Raises FrameError when there are no rows."""
    newest = frame["known_at"].max()
    if not isinstance(newest, datetime):
        raise FrameError(
            "There are no rows, so nothing is known at any time. Look into data/quarantine, or bring rows"
            " with `tidemill use`."
        )
    return newest
