"""The feature table and its schema: what the batch stage and the service both call."""

import difflib
import math
from collections.abc import Iterable
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl

from tasks.core.about import About
from tasks.core.calendar import Calendar
from tasks.core.errors import FeatureInputError
from tasks.core.frames import FEATURES
from tasks.core.schema import SERIES_KEY, FeatureSchema, series_key
from tasks.core.transform import to_z
from tasks.features.columns import LAST, Column, check_sources, declared_columns, seasonal_names
from tasks.features.grid import lay_on_grid
from tasks.features.params import FeatureParams, Function
from tasks.features.rolling import Past
from tasks.features.user import evaluate

_KEY = ("series_id", "event_time", "known_at")
_OHLC = ("open", "high", "low", "close")
_BLOCK_STEPS = 16_384  # 128 KiB a column: the windows of one block stay in the processor's second cache


def build_features(rows: pl.DataFrame, about: About, params: FeatureParams, calendar: Calendar, until: datetime | None = None) -> pl.DataFrame:
    """Features at every grid step of every series (schema FEATURES), from the latest vintage of each row given.

    rows: SERIES, in any order; cut with `as_of` before, to see what was known at a time. until: lay every series up to this step, also
    one that stopped earlier (its missing steps are gaps); None: each ends with its last row. Features are computed in float64, kept in float32.
    Raises CalendarError for a row off the grid, FeatureInputError for a feature whose column is not there.
    """
    columns = declared_columns(about, params)
    with_y = derive_target(rows, about)
    check_sources(columns, _sources(with_y, about))
    if rows.is_empty():
        return pl.DataFrame(schema={**FEATURES.columns, **{c.name: pl.Float32 for c in columns}})
    laid = lay_on_grid(with_y, calendar, until).with_columns(z=to_z(about.target))
    values = _computed(laid, columns, about)
    features = [pl.Series(c.name, column) for c, column in zip(columns, values, strict=True)]
    return laid.select(*_KEY, "is_gap", "y", "z").with_columns(features).with_columns(pl.col(pl.Float32).fill_nan(None))


def feature_schema(about: About, params: FeatureParams) -> FeatureSchema:
    """The columns of the table in order, the part each plays, and how far each looks back. Raises FeatureInputError for a `scale` that is no std column."""
    columns = declared_columns(about, params)
    spreads = [c.name for c in columns if c.role == "spread"]
    if params.scale is not None and params.scale not in spreads:
        close = difflib.get_close_matches(params.scale, spreads, n=1)
        raise FeatureInputError(
            f"`features.scale` is {params.scale!r}, which is no std column of z; there are {spreads}."
            + (f" Did you mean {close[0]!r}?" if close else " Add `{kind: std, column: z, window_steps: [...]}` to `features.list`, or drop `scale`.")
        )
    return FeatureSchema(
        columns=tuple(c.described for c in columns), last=LAST, seasonal=seasonal_names(about), scale=params.scale,
        horizon_steps=about.horizon_steps, season_steps=about.season_steps,
    )  # fmt: skip


def derive_target(rows: pl.DataFrame, about: About) -> pl.DataFrame:
    """*rows* with the target as float64 column `y`: received, or computed from other columns; null where it is missing or not finite.

    Raises FeatureInputError naming what is missing, or a covariate called `y` or `z`: these names are the target's.
    """
    target = about.target
    if clash := {"y", "z"} & {*about.covariates.past, *about.covariates.known_ahead} - {target.column}:
        raise FeatureInputError(
            f"`about.covariates` has {sorted(clash)}, but `y` and `z` name the target in features. Rename the column under `ingest`."
        )
    needed = {"garman_klass": _OHLC, "bar_return": ("open", "close"), None: (target.column,)}[target.derive]
    if missing := [c for c in needed if c not in rows.columns]:
        raise FeatureInputError(
            f"Target {target.column!r} needs column(s) {missing}; there are {_value_columns(rows)}. Correct `about.target` in params.yaml."
        )
    y = {"garman_klass": garman_klass(), "bar_return": (pl.col("close") / pl.col("open")).log(), None: pl.col(target.column)}[target.derive]
    return rows.with_columns(_finite(y).alias("y"))


def garman_klass() -> pl.Expr:
    """Volatility of a bar as a fraction, from its open, high, low and close; the overnight gap is not in it.

    sqrt(.5 ln(H/L)^2 - (2 ln 2 - 1) ln(C/O)^2), 0 where that is negative. Source: Garman & Klass 1980, J. of Business 53(1), estimator 20.
    """
    wide, moved = (pl.col("high") / pl.col("low")).log(), (pl.col("close") / pl.col("open")).log()
    return (0.5 * wide.pow(2) - (2 * math.log(2) - 1) * moved.pow(2)).clip(lower_bound=0).sqrt()


def gap_ledger(table: pl.DataFrame) -> dict[str, Any]:
    """Of each series: steps, gap steps, and the longest run of gaps with its first and last step."""
    runs = table.with_columns(run=pl.struct("series_id", "is_gap").rle_id()).filter("is_gap")
    runs = runs.group_by("series_id", "run").agg(n_steps=pl.len(), first=pl.col("event_time").min(), last=pl.col("event_time").max())
    longest = runs.sort("series_id", "n_steps", "first", descending=[False, True, False]).unique("series_id", keep="first", maintain_order=True)
    longest_of = {row["series_id"]: {k: row[k] for k in ("n_steps", "first", "last")} for row in longest.iter_rows(named=True)}
    counts = table.group_by("series_id").agg(n_steps=pl.len(), n_gap_steps=pl.col("is_gap").sum()).sort("series_id")
    return {row.pop("series_id"): {**row, "longest_gap": longest_of.get(name)} for row in counts.iter_rows(named=True) for name in [row["series_id"]]}


def _computed(laid: pl.DataFrame, columns: list[Column], about: About) -> np.ndarray:
    """(F, N) float32, NaN where unknown. Works through the rows in blocks, each with the lookback before it, so memory stays bounded."""
    lookback = max(c.lookback_steps for c in columns)
    owner = laid["series_id"].rle_id().to_numpy().astype(np.int64)
    place = np.arange(laid.height) + (owner + 1) * lookback  # nothing stands before a series: that many empty steps keep its neighbour out
    n = laid.height + (int(owner[-1]) + 1) * lookback
    row = np.zeros(n, dtype=bool)
    row[place] = True
    out = np.empty((len(columns), laid.height), dtype=np.float32)
    ours = [(k, column) for k, column in enumerate(columns) if column.function is None]
    sources = {name: _padded(_source(laid, name, about), place, n) for name in {column.source for _, column in ours}}
    for k, column in enumerate(columns):
        if column.function is not None:
            with np.errstate(over="ignore"):
                out[k] = _of_each_series(laid, column.function, about)
    filled = 0
    for start in range(0, n, size := max(_BLOCK_STEPS, 4 * lookback)):
        stop, before = min(start + size, n), min(start, lookback)
        pasts = {name: Past(values[start - before : stop]) for name, values in sources.items()}
        rows = row[start:stop]
        now = filled + int(rows.sum())
        for k, column in ours:
            with np.errstate(over="ignore", invalid="ignore"):  # beyond float32: unknown, below
                out[k, filled:now] = column.compute(pasts[column.source])[before:][rows]
        filled = now
    out[np.isinf(out)] = np.nan
    return out


def _of_each_series(laid: pl.DataFrame, function: Function, about: About) -> np.ndarray:
    """What a user's function gives for every step: (N,) float64; called once for each series."""
    given = laid.select("event_time", *(pl.Series(name, _source(laid, name, about)) for name in function.reads))
    runs = laid["series_id"].rle()
    ends = runs.struct.field("len").cum_sum().to_list()
    parts = zip([0, *ends[:-1]], ends, runs.struct.field("value"), strict=True)
    return np.concatenate([evaluate(function, given[start:end], name) for start, end, name in parts])


def _padded(values: np.ndarray, place: np.ndarray, n: int) -> np.ndarray:
    padded = np.full(n, np.nan)
    padded[place] = values
    return padded


def _source(laid: pl.DataFrame, name: str, about: About) -> np.ndarray:
    if name.startswith("series_id:"):
        return _key_part(laid["series_id"], int(name.removeprefix("series_id:")))
    if name.startswith("event_time:"):
        expr = _CALENDAR[name.removeprefix("event_time:")]
    elif name == "ohlc":
        expr = garman_klass()
    else:
        expr = pl.col("y" if name == about.target.column else name)
    return laid.select(_finite(expr).fill_null(float("nan"))).to_series().to_numpy()


def _key_part(series_id: pl.Series, part: int) -> np.ndarray:
    """The high (0) or low (1) half of each row's series key."""
    runs = series_id.rle()
    keys = [series_key(name)[part] for name in runs.struct.field("value")]
    return np.repeat(np.array(keys, dtype=np.float64), runs.struct.field("len").to_numpy())


def _finite(expr: pl.Expr) -> pl.Expr:
    number = expr.cast(pl.Float64)
    return pl.when(number.is_finite()).then(number)


def _sources(rows: pl.DataFrame, about: About) -> Iterable[str]:
    """What features may read."""
    ohlc = ["ohlc"] if set(_OHLC) <= set(rows.columns) else []
    keys = (f"series_id:{part}" for part in range(len(SERIES_KEY)))
    return {*_value_columns(rows), "y", "z", about.target.column, *ohlc, *(f"event_time:{part}" for part in _CALENDAR), *keys}


def _value_columns(rows: pl.DataFrame) -> list[str]:
    return [c for c in rows.columns if c not in _KEY]


_CALENDAR = {
    "minute": pl.col("event_time").dt.minute(),
    "hour": pl.col("event_time").dt.hour(),
    "weekday": pl.col("event_time").dt.weekday() - 1,
    "day": pl.col("event_time").dt.day(),
    "day_of_year": pl.col("event_time").dt.ordinal_day(),
    "week": pl.col("event_time").dt.week(),
    "month": pl.col("event_time").dt.month(),
    "quarter": pl.col("event_time").dt.quarter(),
}
