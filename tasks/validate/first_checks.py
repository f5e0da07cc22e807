"""The first checks, in polars: what a suite of expectations would let pass."""

from collections.abc import Iterator
from datetime import datetime

import polars as pl

from tasks.core.about import About
from tasks.core.calendar import Calendar
from tasks.core.errors import ContractError
from tasks.core.frames import SERIES
from tasks.validate.failure import RuleFailure, build_reason
from tasks.validate.params import ColumnRule, ValidateParams


def check_shape(rows: pl.DataFrame, about: About, params: ValidateParams, n_before: int = 0) -> None:
    """Raises ContractError for too few rows, a missing column, a rule of numbers on texts.

    A suite alone passes on 0 rows. n_before: further rows, which were checked before.
    """
    if rows.height + n_before < params.min_rows:
        raise ContractError(
            f"data/raw has {rows.height + n_before} rows, `validate.min_rows` is {params.min_rows}. See"
            " data/raw/ledger.json for the rows of each file, or lower `min_rows` in the dataset's entry."
        )
    if missing := [c for c in params.names if c not in rows.columns]:
        raise ContractError(
            f"The contract names column(s) {missing}, but data/raw has {_list_value_columns(rows)}."
            " Correct `validate.columns` and `validate.rows`."
        )
    for column in params.names:
        is_text, rule = not rows.schema[column].is_numeric(), params.columns.get(column, ColumnRule())
        is_ordered = any(column in row.greater_or_equal for row in params.rows)
        if is_text and (is_ordered or rule.min is not None or rule.max is not None):
            raise ContractError(
                f"The contract orders column {column!r}, which is {about.get_column_type(column)} in"
                " `about.columns`. Only `nullable` and `values` apply to it."
            )
        if any(isinstance(value, str) != is_text for value in rule.values or ()):
            raise ContractError(
                f"`validate.columns.{column}.values` is {list(rule.values or ())}, but the column is"
                f" {about.get_column_type(column)} in `about.columns`. Texts are written in quotes."
            )


def find_first_failures(
    rows: pl.DataFrame, calendar: Calendar, step: datetime | None = None
) -> Iterator[RuleFailure]:
    """Numbers that are not finite, in any column, and times that are not on the calendar.

    A null is checked by the contract. step: one of the calendar's, where that is known.
    """
    for column in (c for c in _list_value_columns(rows) if rows.schema[c].is_numeric()):
        bad = rows.select((~pl.col(column).is_finite()).fill_null(value=False).arg_true()).to_series()
        yield RuleFailure(
            f"{column} is finite", bad, build_reason(f"{column} is ", pl.col(column), ", not a finite number")
        )
    times = rows["event_time"]
    if step is not None:  # more often than any other phase can come
        times = times.extend_constant(step, rows.height + 1)
    off_grid = (~calendar.is_on_grid(times).head(rows.height)).arg_true()
    rule, meant = (
        ("on_grid", f"every {calendar.every} as most rows are")
        if calendar.kind == "continuous"
        else ("on_calendar", f"of {calendar.kind}{_describe_ends(rows, calendar)}")
    )
    yield RuleFailure(
        rule, off_grid, build_reason(pl.col("event_time").dt.strftime("%F %T"), f" is no step {meant}")
    )


def _describe_ends(rows: pl.DataFrame, calendar: Calendar) -> str:
    """The known sessions, where rows are before the first or after the last of them."""
    if calendar.sessions is None or rows["event_time"].is_between(*calendar.sessions.gather([0, -1])).all():
        return ""
    return ", whose sessions are known from {:%F} to {:%F}".format(*calendar.sessions.gather([0, -1]))


def _list_value_columns(rows: pl.DataFrame) -> list[str]:
    return [c for c in rows.columns if c not in SERIES.key]
