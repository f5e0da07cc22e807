"""Figures of rows: those that the service holds, or those of a request. Pure, as response.py."""

from collections.abc import Callable, Sequence
from datetime import datetime
from difflib import get_close_matches
from typing import Annotated, NamedTuple, TypeVar

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, Field, SkipValidation, ValidationError

from deployments.forecaster.analysis_shapes import (
    AnalyzedRows,
    AnalyzedSeries,
    ColumnDistribution,
    ColumnSummary,
    Correlation,
    Description,
    Distribution,
    SeriesCorrelation,
    SeriesDistribution,
    SeriesSummary,
)
from deployments.forecaster.forecast_problems import build_failed_error, build_unknown_series_error
from deployments.forecaster.loaded import LoadedRelease, format_iso, list_value_columns
from deployments.forecaster.own_history import parse_own_rows
from deployments.forecaster.problems import ProblemError
from deployments.forecaster.request import (
    MAX_SERIES,
    HistoryRow,
    Name,
    build_invalid_error,
    filter_unknown_keys,
    parse_json,
    parse_time,
)
from tasks.core import statistics
from tasks.core.errors import TidemillError
from tasks.core.frames import get_newest_known_at, select_as_of
from tasks.features import add_target
from tasks.features.sources import filter_finite
from tasks.features.table import filter_steps
from tasks.release import Release

MAX_VALUES = 2_000_000  # rows x columns, or rows x pairs of columns: 1 s


class AnalyzeRequest(BaseModel):
    """Which rows are analyzed."""

    model_config = ConfigDict(extra="forbid", strict=True)

    series_id: Annotated[
        Name | Annotated[list[Name], Field(min_length=1, max_length=MAX_SERIES)] | None,
        Field(description="One series, a list of them, or the name of the posted rows; absent: all."),
    ] = None
    columns: Annotated[
        Annotated[list[Name], Field(min_length=1, max_length=100)] | None,
        Field(description="Of the value columns and the target those alone; absent: all."),
    ] = None
    start: Annotated[str | None, Field(description="First step, ISO 8601 with a zone.")] = None
    end: Annotated[str | None, Field(description="Last step.")] = None
    as_of: Annotated[str | None, Field(description="Rows as they were known at this time.")] = None
    history: Annotated[
        SkipValidation[Annotated[list[HistoryRow], Field(min_length=1)] | None],
        Field(description="Rows instead of those that the service holds, as in predict."),
    ] = None


class CorrelationRequest(AnalyzeRequest):
    """Which rows, and how far the target is lagged."""

    lag_steps: Annotated[
        list[Annotated[int, Field(ge=1, le=10_000)]],
        Field(max_length=50, description="The target so many steps before, each a column of its own."),
    ] = [1]


class DistributionRequest(AnalyzeRequest):
    """Which rows, and into how many bins."""

    bins: Annotated[int, Field(ge=1, le=200)] = 20


R = TypeVar("R", bound=AnalyzeRequest)
T = TypeVar("T")


def parse_analysis(body: bytes, kind: type[R]) -> R:
    """The request in *body*. Raises ProblemError: 400 for no JSON, 422 for another fault."""
    content = parse_json(body, '{"series_id": "sp500"}')
    try:
        request = kind.model_validate(filter_unknown_keys(content, kind.model_fields.keys()))
    except ValidationError as error:
        raise build_invalid_error(error, kind, "none") from error
    if request.history is not None:
        rule = "Posted rows are one series with a name, and a list of rows."
        if not isinstance(request.series_id, str):
            raise ProblemError(422, "series_id", "no name", rule, "Send its name as a string.")
        if not (isinstance(request.history, list) and request.history):
            raise ProblemError(422, "history", "no list with a row in it", rule, "See /docs for an example.")
    return request


class _Gridded(NamedTuple):
    """A series on the steps of the calendar.

    values: by column, NaN where one is missing. target: its values, whichever columns are wanted.
    """

    series_id: str
    steps: Sequence[datetime]
    values: dict[str, np.ndarray]
    target: np.ndarray

    def describe(self) -> AnalyzedSeries:
        """What each answer says of it."""
        first, last = (format_iso(self.steps[k]) if self.steps else None for k in (0, -1))
        return {"series_id": self.series_id, "first": first, "last": last, "n_steps": len(self.steps)}


def describe_rows(loaded: LoadedRelease, body: bytes) -> Description:
    """Counts, moments and quantiles of the rows that *body* asks for. Raises ProblemError."""
    request = parse_analysis(body, AnalyzeRequest)
    lags = sorted({1, loaded.release.about.season_steps})
    series: list[SeriesSummary] = [
        {**one.describe(), "columns": {name: _summarize(v, lags) for name, v in one.values.items()}}
        for one in _grid_series(loaded, request, 0)
    ]
    return {**_describe_source(loaded, request), "series": series}


def correlate_rows(loaded: LoadedRelease, body: bytes) -> Correlation:
    """Correlations in the rows that *body* asks for. Raises ProblemError."""
    request = parse_analysis(body, CorrelationRequest)
    lags, target = sorted(set(request.lag_steps)), loaded.release.about.target.column
    series = [_correlate(one, target, lags) for one in _grid_series(loaded, request, len(lags))]
    return {**_describe_source(loaded, request), "series": series}


def count_rows(loaded: LoadedRelease, body: bytes) -> Distribution:
    """Histograms of the rows that *body* asks for. Raises ProblemError."""
    request = parse_analysis(body, DistributionRequest)
    series: list[SeriesDistribution] = [
        {**one.describe(), "columns": {name: _count(v, request.bins) for name, v in one.values.items()}}
        for one in _grid_series(loaded, request, 0)
    ]
    return {**_describe_source(loaded, request), "series": series}


def _describe_source(loaded: LoadedRelease, request: AnalyzeRequest) -> AnalyzedRows:
    version = loaded.rows_version if request.history is None else None
    return {"dataset": loaded.manifest.dataset, "rows_version": version}


def _grid_series(loaded: LoadedRelease, request: AnalyzeRequest, n_lags: int) -> list[_Gridded]:
    """The requested series. n_lags: above 0, all pairs of columns and lags are computed."""
    about, release = loaded.release.about, loaded.release
    series, rows = _select_rows(loaded, request)
    try:
        with_y = add_target(rows, about)
        target = about.target.column
        wanted = _select_columns([*dict.fromkeys([*list_value_columns(rows), target])], request.columns)
        steps_of = filter_steps(with_y, about, release.calendar).partition_by("series_id", as_dict=True)
        n = len(wanted) + n_lags
        _check_cost(sum(part.height for part in steps_of.values()), n * (n + 1) // 2 if n_lags else n)
        return [_grid_one(release, name, steps_of.get((name,)), wanted) for name in series]
    except TidemillError as error:
        raise build_failed_error(error, "rows") from error


def _grid_one(release: Release, name: str, rows: pl.DataFrame | None, wanted: Sequence[str]) -> _Gridded:
    target = release.about.target.column
    if rows is None:
        return _Gridded(name, [], {column: np.empty(0) for column in wanted}, np.empty(0))
    times = rows["event_time"]
    steps = release.calendar.grid(times[0], times[-1])
    position = steps.search_sorted(times).to_numpy()

    def align(column: str) -> np.ndarray:
        values = np.full(len(steps), np.nan)
        expr = filter_finite(pl.col("y" if column == target else column)).fill_null(float("nan"))
        values[position] = rows.select(expr).to_series().to_numpy()
        return values

    return _Gridded(name, steps.to_list(), {column: align(column) for column in wanted}, align(target))


def _select_rows(loaded: LoadedRelease, request: AnalyzeRequest) -> tuple[list[str], pl.DataFrame]:
    """The requested series, and their newest rows in the range."""
    named = [request.series_id] if isinstance(request.series_id, str) else request.series_id
    if request.history is not None:
        assert named is not None, "parse_analysis checks it"
        rows = parse_own_rows(loaded, named[0], request.history)
    elif unknown := [s for s in named or [] if s not in loaded.newest_by_series]:
        raise build_unknown_series_error(unknown, loaded.series)
    else:
        rows = loaded.rows if named is None else loaded.rows.filter(pl.col("series_id").is_in(named))
    as_of = get_newest_known_at(rows) if request.as_of is None else parse_time(request.as_of, "as_of")
    rows = select_as_of(rows, as_of)
    for name, limit in (("start", request.start), ("end", request.end)):
        if limit is not None:
            time = parse_time(limit, name)
            is_within = pl.col("event_time") >= time if name == "start" else pl.col("event_time") <= time
            rows = rows.filter(is_within)
    return list(dict.fromkeys(named or loaded.series)), rows


def _select_columns(known: list[str], wanted: list[str] | None) -> list[str]:
    if unknown := [column for column in wanted or [] if column not in known]:
        close = get_close_matches(unknown[0], known, n=1)
        way_out = f"Did you mean {close[0]!r}?" if close else "Take some of these."
        rule = f"The rows have {', '.join(known[:50])}."
        raise ProblemError(422, "columns", f"no {unknown[0][:60]!r}", rule, way_out)
    return list(dict.fromkeys(wanted or known))


def _check_cost(n_rows: int, n_columns: int) -> None:
    if n_rows * n_columns > MAX_VALUES:
        rule = f"Rows x columns, of a correlation rows x pairs of columns, are at most {MAX_VALUES:,}."
        fact = f"{n_rows:,} rows x {n_columns:,}"
        raise ProblemError(422, "rows", fact, rule, "Ask for fewer series or columns, or a shorter range.")


def _summarize(values: np.ndarray, lags: Sequence[int]) -> ColumnSummary:
    known = values[np.isfinite(values)]
    mean, std = statistics.compute_moments(values)
    return {
        "n": len(known),
        "n_missing": len(values) - len(known),
        "mean": mean,
        "std": std,
        "min": float(known.min()) if len(known) else None,
        "max": float(known.max()) if len(known) else None,
        "quantiles": statistics.compute_quantiles(values),
        "autocorrelation": {str(k): statistics.compute_autocorrelation(values, k) for k in lags},
    }


def _count(values: np.ndarray, n_bins: int) -> ColumnDistribution:
    edges, counts = statistics.compute_histogram(values, n_bins)
    quantiles = statistics.compute_quantiles(values)
    return {"n": sum(counts), "edges": edges, "counts": counts, "quantiles": quantiles}


def _correlate(one: _Gridded, target: str, lags: Sequence[int]) -> SeriesCorrelation:
    values = one.values | {f"{target}_lag_{k}": statistics.lag(one.target, k) for k in lags}
    columns = list(values.values())

    def compute(of: Callable[[np.ndarray, np.ndarray], T]) -> list[list[T]]:
        pairs = {(i, j): of(columns[i], columns[j]) for i in range(len(columns)) for j in range(i + 1)}
        return [[pairs[max(i, j), min(i, j)] for j in range(len(columns))] for i in range(len(columns))]

    return {
        **one.describe(),
        "names": list(values),
        "pearson": compute(statistics.compute_pearson),
        "spearman": compute(statistics.compute_spearman),
        "n": compute(statistics.count_pairs),
    }
