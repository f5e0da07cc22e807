"""The feature table and its schema, for the batch stage and for the service."""

import difflib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import polars as pl

from tasks.core.about import About
from tasks.core.calendar import Calendar
from tasks.core.errors import FeatureInputError
from tasks.core.frames import FEATURES
from tasks.core.kinds import get_kind
from tasks.core.reports.features import GapLedger, LongestGap, SeriesGaps
from tasks.core.schema import Centres, FeatureSchema
from tasks.features.bars import OHLC, build_bar_return, garman_klass
from tasks.features.columns import LAST, build_declared_columns, check_sources, list_seasonal_names
from tasks.features.compute import compute_columns
from tasks.features.grid import align_to_grid
from tasks.features.known_ahead import is_known_ahead
from tasks.features.params import FeatureParams
from tasks.features.sources import Column, GriddedRows, Sees, check_number, filter_finite

_KEY = ("series_id", "event_time", "known_at")


def build_features(
    rows: pl.DataFrame,
    about: About,
    params: FeatureParams,
    calendar: Calendar,
    last_step: datetime | None = None,
) -> pl.DataFrame:
    """Features (FEATURES) at every grid step of every series, from the latest vintage of each row.

    rows: SERIES, in any order; `as_of` selects what was known at a time. Rows known ahead (see
    `tasks.features.known_ahead`) are no steps; each origin sees those that its cutoff knows.
    last_step: the last step of every series, also of one that ended earlier (its missing steps are
    gaps); None: each series ends with its last row.
    Features are computed in float64 and stored in float32, levels as distances from the centre of
    their series (`params.centres`).
    Raises CalendarError for a row off the grid, FeatureInputError for a missing column.
    """
    columns = build_declared_columns(about, params)
    with_y = add_target(rows, about)
    check_sources(columns, _list_sources(with_y, about), about)
    steps = filter_steps(with_y, about, calendar)
    return build_feature_columns(steps, with_y, columns, about, calendar, last_step, params.centres)


def build_feature_columns(
    steps: pl.DataFrame,
    rows: pl.DataFrame,
    columns: list[Column],
    about: About,
    calendar: Calendar,
    last_step: datetime | None = None,
    centres: Centres = (),
) -> pl.DataFrame:
    """*columns* at every grid step of *steps*; `ahead` reads *rows*.

    Both have y; see `build_features`.
    """
    if steps.is_empty():
        return pl.DataFrame(schema={**FEATURES.columns, **{c.name: pl.Float32 for c in columns}})
    gridded = align_to_grid(steps, calendar, last_step).with_columns(
        z=get_kind(about.target).encode(about.target)
    )
    values = compute_columns(GriddedRows(gridded, rows, about, calendar, centres), columns)
    with ThreadPoolExecutor(pl.thread_pool_size()) as pool:
        features = list(
            pool.map(lambda c, of_column: pl.Series(c.name, of_column, nan_to_null=True), columns, values)
        )
    return gridded.select(*_KEY, "is_gap", "y", "z").with_columns(features)


def filter_steps(with_y: pl.DataFrame, about: About, calendar: Calendar) -> pl.DataFrame:
    """The rows that are steps: all except those known ahead."""
    return with_y.filter(~is_known_ahead(calendar)) if about.covariates.known_ahead else with_y


def find_newest_step(rows: pl.DataFrame, about: About, calendar: Calendar) -> datetime | None:
    """The last step of *rows*, without those known ahead; None if there is none."""
    newest: datetime | None = (
        filter_steps(add_target(rows, about), about, calendar).select(pl.col("event_time").max()).item()
    )
    return newest


def list_column_names(about: About, params: FeatureParams, *sees: Sees) -> list[str]:
    """Names of the columns with one of *sees*, in the table's order."""
    return [c.name for c in build_declared_columns(about, params) if c.sees in sees]


def build_feature_schema(about: About, params: FeatureParams) -> FeatureSchema:
    """The columns of the table in order, with role and lookback.

    Raises FeatureInputError for a `scale` that is no std column.
    """
    columns = build_declared_columns(about, params)
    spreads = [c.name for c in columns if c.role == "spread"]
    if params.scale is not None and params.scale not in spreads:
        close = difflib.get_close_matches(params.scale, spreads, n=1)
        raise FeatureInputError(
            f"`features.scale` is {params.scale!r}, which is no std column of z; there are {spreads}."
            + (
                f" Did you mean {close[0]!r}?"
                if close
                else " Add `{kind: std, column: z, window_steps: [...]}` to `features.list`, or drop `scale`."
            )
        )
    return FeatureSchema(
        columns=tuple(c.described for c in columns),
        last=LAST,
        seasonal=list_seasonal_names(about),
        scale=params.scale,
        horizon_steps=about.horizon_steps,
        season_steps=about.season_steps,
        centres=params.centres,
    )


def add_target(rows: pl.DataFrame, about: About) -> pl.DataFrame:
    """*rows* with the target as column `y` in float64; null where it is missing or not finite.

    Raises FeatureInputError for columns that are missing or no numbers, and for a covariate called
    `y` or `z`: these are names of the target.
    """
    target = about.target
    if clash := {"y", "z"} & about.covariates.all - {target.column}:
        raise FeatureInputError(
            f"`about.covariates` has {sorted(clash)}, but `y` and `z` name the target in features. Rename the"
            " column under `ingest`."
        )
    needed = {"garman_klass": OHLC, "bar_return": ("open", "close"), None: (target.column,)}[target.derive]
    if missing := [c for c in needed if c not in rows.columns]:
        raise FeatureInputError(
            f"Target {target.column!r} needs column(s) {missing}; there are {_list_value_columns(rows)}."
            " Correct `about.target` in params.yaml."
        )
    for column in needed:
        check_number(column, "`about.target`", about)
    for column in sorted(about.covariates.all):
        check_number(column, "`about.covariates`", about)
    y = {"garman_klass": garman_klass(), "bar_return": build_bar_return(), None: pl.col(target.column)}[
        target.derive
    ]
    return rows.drop(about.text_columns, strict=False).with_columns(filter_finite(y).alias("y"))


def check_static(rows: pl.DataFrame, about: About) -> None:
    """Raises FeatureInputError for a column of `about.covariates.static` that varies in time."""
    for column in about.covariates.static:
        if column not in rows.columns:
            raise FeatureInputError(
                f"`about.covariates.static` has {column!r}, which is missing; there are"
                f" {_list_value_columns(rows)}."
            )
        spans = (
            rows.group_by("series_id")
            .agg(low=pl.col(column).min(), high=pl.col(column).max())
            .filter(pl.col("low") < pl.col("high"))
        )
        if spans.height:
            name, low, high = spans.sort("series_id").row(0)
            raise FeatureInputError(
                f"`about.covariates.static` has {column!r}, but series {name!r} has {low:g} and {high:g}"
                " there. A column that changes over time belongs into `past` or `known_ahead`."
            )


def build_gap_ledger(table: pl.DataFrame) -> GapLedger:
    """Series -> steps, gap steps, and the longest run of gaps with its first and last step."""
    runs = table.with_columns(run=pl.struct("series_id", "is_gap").rle_id()).filter("is_gap")
    runs = runs.group_by("series_id", "run").agg(
        n_steps=pl.len(), first=pl.col("event_time").min(), last=pl.col("event_time").max()
    )
    longest = runs.sort("series_id", "n_steps", "first", descending=[False, True, False]).unique(
        "series_id", keep="first", maintain_order=True
    )
    longest_of = {
        row["series_id"]: LongestGap(n_steps=row["n_steps"], first=row["first"], last=row["last"])
        for row in longest.iter_rows(named=True)
    }
    counts = (
        table.group_by("series_id")
        .agg(n_steps=pl.len(), n_gap_steps=pl.col("is_gap").sum())
        .sort("series_id")
    )
    return GapLedger(
        {
            name: SeriesGaps(n_steps=n_steps, n_gap_steps=n_gap_steps, longest_gap=longest_of.get(name))
            for name, n_steps, n_gap_steps in counts.iter_rows()
        }
    )


def _list_sources(rows: pl.DataFrame, about: About) -> Iterable[str]:
    """The columns that features may read."""
    return {*_list_value_columns(rows), "y", "z", about.target.column}


def _list_value_columns(rows: pl.DataFrame) -> list[str]:
    return [c for c in rows.columns if c not in _KEY]
