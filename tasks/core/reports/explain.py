"""data/reports/explain: what the shipped forecast depends on."""

from typing import ClassVar

from pydantic import Field

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
    agreement: Spearman's rank correlation of the features' mean absolute parts with their
      importance by `permutation` and by `lime`, -1 to 1; empty in a file of an earlier version.
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
    agreement: dict[str, float] = Field(default_factory=dict)


class FeatureImportance(Strict):
    """How much one feature moves the forecast.

    feature: its column.
    mean_abs_part: mean absolute part of the sampled forecasts, in the space of z.
    by_step: the same of each step of the horizon.
    by_member: the same of each member's own forecasts, by name, from at most 20 of the sample.
    permutation: by what the mean absolute error of the sample grows, in the space of z, when its
      values change rows; None where no outcome is known.
    lime: mean absolute coefficient in linear models around explained forecasts, in the space of z.
    """

    feature: str
    mean_abs_part: float
    by_step: tuple[float, ...] = ()
    by_member: dict[str, float] = Field(default_factory=dict)
    permutation: float | None = None
    lime: float | None = None


class FeatureImportances(ReportTable[tuple[FeatureImportance, ...]]):
    """The features by what they move the forecast, the largest part first."""

    PATH: ClassVar[str] = "data/reports/explain/importance.json"
