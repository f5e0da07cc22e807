"""data/features: what was missing on the grid, and what agrees with the target later."""

from typing import ClassVar

from tasks.core.reports.base import IsoTime, ReportTable
from tasks.core.strict import Strict


class LongestGap(Strict):
    """The longest run of steps without a row.

    n_steps: its length.
    first, last: event_time of its first and last step.
    """

    n_steps: int
    first: IsoTime
    last: IsoTime


class SeriesGaps(Strict):
    """One series on the grid.

    n_steps: steps from its first to its last row.
    n_gap_steps: of these without a row.
    longest_gap: the longest run of them, the first of equals; null without any.
    """

    n_steps: int
    n_gap_steps: int
    longest_gap: LongestGap | None


class GapLedger(ReportTable[dict[str, SeriesGaps]]):
    """The gaps of each series."""

    PATH: ClassVar[str] = "data/features/gaps.json"


class LeadingColumn(Strict):
    """A column's strongest agreement with the target later.

    column: of the feature table.
    group: the rows that were looked at, `all` or a series.
    kind: `value` (the target at that step) or `mean` (over the steps up to it).
    lead_steps: how many steps later.
    r, r_now: partial correlation with the target then, and at the row's own step.
    standard_errors: of r, what it is away from 0.
    limit: standard errors that chance reaches.
    n_rows: rows that were looked at.
    """

    column: str
    group: str
    kind: str
    lead_steps: int
    r: float
    r_now: float
    standard_errors: float
    limit: float
    n_rows: int


class LeadingColumns(ReportTable[tuple[LeadingColumn, ...]]):
    """Every column's strongest agreement with the target later, in the order of the table."""

    PATH: ClassVar[str] = "data/features/leading.json"
