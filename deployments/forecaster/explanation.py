"""What each feature contributes to a forecast, as it is answered."""

from datetime import datetime
from typing import NamedTuple, cast

import polars as pl

from deployments.forecaster.explanation_shapes import SeriesExplanation, StepExplanation
from deployments.forecaster.loaded import LoadedRelease, format_iso
from deployments.forecaster.problems import ProblemError
from deployments.forecaster.request import BatchItem, ForecastRequest
from tasks.core.errors import CostError
from tasks.explain.forecast import ExplainedSeries, explain_forecast


class ComputedForecasts(NamedTuple):
    """Forecasts of the requested series.

    rows: that they are made from, of these series. newest: known_at of the newest row.
    own_rows: *rows*, if the request brought them.
    """

    frame: pl.DataFrame
    rows: pl.DataFrame
    newest: datetime
    as_of: datetime
    own_rows: pl.DataFrame | None


def build_explanations(
    loaded: LoadedRelease,
    request: ForecastRequest | BatchItem,
    as_of: datetime,
    own_rows: pl.DataFrame | None,
) -> list[SeriesExplanation]:
    """Of each series of *request* that is forecast at *as_of*.

    own_rows: of the history in the request.
    Raises ProblemError 422 when that is more work than is done for one request.
    """
    rows = loaded.rows if own_rows is None else own_rows  # a feature may read other series
    try:
        explained = explain_forecast(loaded.release, rows, as_of, request.series)
    except CostError as error:
        rule = f"The explanations of a request compute at most {error.n_allowed:,} numbers."
        fact = f"{len(request.series):,} series need {error.n_needed:,}"
        raise ProblemError(422, "explain", fact, rule, "Ask for fewer series.") from error
    return [_describe_series(series, request.horizon_steps) for series in explained]


def _describe_series(series: ExplainedSeries, horizon_steps: int | None) -> SeriesExplanation:
    return {
        "series_id": series.series_id,
        "weights": series.weights,
        "values": {
            name: {
                "value": value,
                "event_time": _format_or_none(series.sources[name].event_time),
                "known_at": _format_or_none(series.sources[name].known_at),
            }
            for name, value in series.values.items()
        },
        "steps": [
            cast("StepExplanation", step._asdict() | {"event_time": format_iso(step.event_time)})
            for step in series.steps[:horizon_steps]
        ],
        "n_orders": series.n_orders,
        "n_background": series.n_background,
    }


def _format_or_none(time: datetime | None) -> str | None:
    return None if time is None else format_iso(time)
