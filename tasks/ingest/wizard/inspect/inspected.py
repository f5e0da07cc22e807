"""What the wizard is asked, and what it found in the files."""

from dataclasses import dataclass, field
from typing import Any

import polars as pl

from tasks.ingest.wizard.inspect.files import Format


@dataclass(frozen=True)
class OwnerAnswers:
    """What the owner said; None or empty where the files shall speak."""

    pattern: str
    format: Format
    columns: tuple[str, ...] = ()
    target: str | None = None
    time: str | None = None
    time_format: str | None = None
    time_zone: str | None = None
    series: str | None = None
    every: str | None = None
    season: int | None = None
    horizon: int | None = None
    unit: str | None = None


@dataclass(frozen=True)
class InspectedFiles:
    """What the files are.

    source: fields of the files source. rows: `series_id`, `event_time` (UTC, or an integer that is
    0 at each series' last value), then the value columns in float64; sorted. reasons: why, by
    field. bars: whether open, high, low and close are among the columns. received: rows read.
    """

    source: dict[str, Any]
    rows: pl.DataFrame
    integer_time: bool
    bars: bool
    repeated: int
    received: int
    n_files: int
    reasons: dict[str, str] = field(default_factory=dict)
    questions: tuple[str, ...] = ()
    target: str | None = None

    @property
    def values(self) -> list[str]:
        """The value columns."""
        return [c for c in self.rows.columns if c not in ("series_id", "event_time")]


@dataclass
class ColumnRoles:
    """Notes taken while looking: the source's fields, reasons and questions."""

    source: dict[str, Any]
    reasons: dict[str, str]
    questions: list[str]
