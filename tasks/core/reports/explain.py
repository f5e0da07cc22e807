"""data/reports/explain: what the shipped forecast depends on."""

from typing import ClassVar

from tasks.core.reports.base import Report, ReportTable
from tasks.core.strict import Strict


class ExplainSummary(Report):
    """What was explained, and how exactly.

    model: what was explained; empty in a file of an earlier version.
    n_series_now: series in the clean rows.
    n_last: series whose last forecast is explained.
    n_sample: earlier forecasts that are explained, too.
    n_background: rows that an absent feature is replaced from.
    n_orders: orders in which features are added; 1 where the exact sum is computed.
    n_features: columns of the feature table.
    max_abs_gap: largest distance of base and parts from the forecast, in the space of z.
    series_last: the series whose last forecast is explained.
    unread: columns that no member reads.
    """

    PATH: ClassVar[str] = "data/reports/explain/summary.json"

    model: str = ""
    n_series_now: int
    n_last: int
    n_sample: int
    n_background: int
    n_orders: int
    n_features: int
    max_abs_gap: float
    series_last: tuple[str, ...]
    unread: tuple[str, ...]


class FeatureImportance(Strict):
    """How much one feature moves the forecast.

    feature: its column.
    mean_abs_part: mean absolute part of the sampled forecasts, in the space of z.
    """

    feature: str
    mean_abs_part: float


class FeatureImportances(ReportTable[tuple[FeatureImportance, ...]]):
    """The features by what they move the forecast, the largest part first."""

    PATH: ClassVar[str] = "data/reports/explain/importance.json"
