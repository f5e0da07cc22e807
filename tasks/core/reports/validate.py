"""data/reports/validate and data/clean/profile.json: what the contract found."""

from typing import ClassVar

from tasks.core.reports.base import ABSENT, IsoTime, Report, ReportTable
from tasks.core.strict import Strict


class ValidationSummary(Report):
    """How many rows keep the contract.

    received, clean, quarantined: rows; clean and quarantined add up to received.
    quarantined_frac: share of the received rows.
    by_rule: rows that break each rule; a row may break several.
    series: how many series were received.
    """

    PATH: ClassVar[str] = "data/reports/validate/summary.json"

    received: int
    clean: int
    quarantined: int
    quarantined_frac: float
    by_rule: dict[str, int]
    series: int


class ExpectationCounts(Strict):
    """Great Expectations' own counts of one expectation.

    element_count: values that it looked at.
    missing_count: of these without a value; absent where it does not count them.
    unexpected_count: of these that break the rule.
    unexpected_percent: unexpected of the known values, in percent; null without any.
    """

    element_count: int
    missing_count: int | None = ABSENT
    unexpected_count: int
    unexpected_percent: float | None = None


class ExpectationResult(Strict):
    """One rule of the contract as Great Expectations ran it.

    rule: its name in the summary.
    type: the expectation.
    kwargs: its arguments.
    success: whether no row breaks it.
    result: the counts.
    """

    rule: str
    type: str
    kwargs: dict[str, object]
    success: bool
    result: ExpectationCounts


class ContractResult(Report):
    """The contract's suite, run over the received rows.

    success: whether every expectation holds.
    results: an entry for each expectation, in the contract's order.
    """

    PATH: ClassVar[str] = "data/reports/validate/result.json"

    success: bool
    results: tuple[ExpectationResult, ...]


class ColumnProfile(Strict):
    """Figures of one column of one series, over its clean rows.

    n: rows.
    n_null: of these without a value.
    min, max, mean: in the column's unit; null without a value.
    sd: standard deviation of the sample; null for fewer than two values.
    first, last: event_time of the series' first and last row.
    """

    n: int
    n_null: int
    min: float | None
    max: float | None
    mean: float | None
    sd: float | None
    first: IsoTime
    last: IsoTime


class CleanProfile(ReportTable[dict[str, dict[str, ColumnProfile]]]):
    """Figures of the clean rows, by series and column."""

    PATH: ClassVar[str] = "data/clean/profile.json"
