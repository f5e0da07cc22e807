"""What the owner of the files has answered, and what the wizard found in them."""

from dataclasses import dataclass, field
from typing import Any

import polars as pl

from tasks.ingest.wizard.inspect.files import Format


@dataclass(frozen=True)
class OwnerAnswers:
    """What the owner of the files has answered; None or empty where the files decide."""

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

    source: fields of the source `files`.
    rows: `series_id`, `event_time` (UTC, or an integer that is 0 at each series' last value), then
    the value columns in float64; sorted.
    bars: whether open, high, low and close are among the columns.
    repeated: rows that repeat a key; received: rows read.
    reasons: by field of *source*.
    questions: what the files do not answer.
    target: the value column, if the layout decides it.
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
    """What is known so far of the columns: fields of the source, reasons and questions."""

    source: dict[str, Any]
    reasons: dict[str, str]
    questions: list[str]
