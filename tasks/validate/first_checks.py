"""The first checks, in polars: what a suite of expectations would let pass."""

from collections.abc import Iterator

import polars as pl

from tasks.core.calendar import Calendar
from tasks.core.errors import ContractError
from tasks.core.frames import SERIES
from tasks.validate.failure import RuleFailure, build_reason
from tasks.validate.params import ValidateParams


def check_shape(rows: pl.DataFrame, params: ValidateParams) -> None:
    """Raises ContractError for fewer than `min_rows` rows and for a missing column.

    A suite alone passes on 0 rows.
    """
    if rows.height < params.min_rows:
        raise ContractError(
            f"data/raw has {rows.height} rows, `validate.min_rows` is {params.min_rows}. See"
            " data/raw/ledger.json for the rows of each file, or lower `min_rows` in the dataset's entry."
        )
    if missing := [c for c in params.names if c not in rows.columns]:
        raise ContractError(
            f"The contract names column(s) {missing}, but data/raw has {_list_value_columns(rows)}."
            " Correct `validate.columns` and `validate.rows`."
        )


def find_first_failures(rows: pl.DataFrame, calendar: Calendar) -> Iterator[RuleFailure]:
    """Values that are not finite, in any column, and times that are not on the calendar.

    A null is checked by the contract.
    """
    for column in _list_value_columns(rows):
        bad = rows.select((~pl.col(column).is_finite()).fill_null(value=False).arg_true()).to_series()
        yield RuleFailure(
            f"{column} is finite", bad, build_reason(f"{column} is ", pl.col(column), ", not a finite number")
        )
    off_grid = (~calendar.is_on_grid(rows["event_time"])).arg_true()
    rule, step = (
        ("on_grid", f"every {calendar.every} as most rows are")
        if calendar.kind == "continuous"
        else ("on_calendar", f"of {calendar.kind}")
    )
    yield RuleFailure(
        rule, off_grid, build_reason(pl.col("event_time").dt.strftime("%F %T"), f" is no step {step}")
    )


def _list_value_columns(rows: pl.DataFrame) -> list[str]:
    return [c for c in rows.columns if c not in SERIES.key]
