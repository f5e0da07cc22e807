"""Schemas of analyses; see shapes.py."""

from typing import Annotated

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

_CLOSED = ConfigDict(extra="forbid")


class AnalyzedRows(TypedDict):
    """What was analyzed. rows_version: of the rows that the service holds; null for posted ones."""

    dataset: str
    rows_version: str | None


class AnalyzedSeries(TypedDict):
    """A series. first, last: its steps in the range, null where it has none there."""

    series_id: str
    first: str | None
    last: str | None
    n_steps: Annotated[int, Field(description="Of the calendar, from the first to the last.")]


@with_config(_CLOSED)
class ColumnSummary(TypedDict):
    """A column of a series. A figure is null where it is undefined."""

    n: int
    n_missing: Annotated[int, Field(description="Steps without a value.")]
    mean: float | None
    std: Annotated[float | None, Field(description="With the denominator n - 1.")]
    min: float | None
    max: float | None
    quantiles: dict[str, float | None]
    autocorrelation: Annotated[
        dict[str, float | None], Field(description="By steps back: one, and a season.")
    ]


@with_config(_CLOSED)
class SeriesSummary(AnalyzedSeries):
    """The columns of a series."""

    columns: dict[str, ColumnSummary]


@with_config(_CLOSED)
class Description(AnalyzedRows):
    """Counts, missing steps, moments and quantiles."""

    series: list[SeriesSummary]


@with_config(_CLOSED)
class SeriesCorrelation(AnalyzedSeries):
    """Matrices in the order of *names*; null where fewer than three pairs are known."""

    names: Annotated[
        list[str], Field(description="The columns, then `<target>_lag_<k>`: the target k steps before.")
    ]
    pearson: list[list[float | None]]
    spearman: list[list[float | None]]
    n: Annotated[list[list[int]], Field(description="Pairs of which both are known.")]


@with_config(_CLOSED)
class Correlation(AnalyzedRows):
    """Correlations between columns, and with the target before."""

    series: list[SeriesCorrelation]


@with_config(_CLOSED)
class ColumnDistribution(TypedDict):
    """edges: of the bins, one more than counts; both are empty without a value."""

    n: int
    edges: list[float]
    counts: list[int]
    quantiles: dict[str, float | None]


@with_config(_CLOSED)
class SeriesDistribution(AnalyzedSeries):
    """The columns of a series."""

    columns: dict[str, ColumnDistribution]


@with_config(_CLOSED)
class Distribution(AnalyzedRows):
    """Histograms and quantiles."""

    series: list[SeriesDistribution]
