"""The stage in one screen: first checks, the contract, the split, and a summary of both parts."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import polars as pl

from tasks.core.about import About
from tasks.core.calendar import Calendar, build_calendar
from tasks.core.errors import ContractError
from tasks.core.frames import QUARANTINE, SERIES
from tasks.core.gaps import find_gaps
from tasks.core.reports.validate import CleanProfile, ContractResult, ValidationSummary
from tasks.edges.safe_names import encode_name
from tasks.edges.settings import read_settings
from tasks.validate.contract import find_contract_failures, run_suite
from tasks.validate.failure import RuleFailure, split_quarantined
from tasks.validate.first_checks import check_shape, find_first_failures
from tasks.validate.params import ValidateParams
from tasks.validate.profile import build_profile

N_EXAMPLES = 3  # in a message; all rows are in the quarantine


class ValidatedRows(NamedTuple):
    """What the stage writes.

    clean: SERIES; quarantined: QUARANTINE.
    gaps: see `find_gaps`.
    suite, result: of Great Expectations.
    summary: counts.
    """

    clean: pl.DataFrame
    quarantined: pl.DataFrame
    profile: CleanProfile
    gaps: pl.DataFrame
    suite: dict[str, object]
    result: ContractResult
    summary: ValidationSummary


class CleanRows(NamedTuple):
    """Rows that satisfied the same checks before, more of them than are to be checked.

    n_rows: how many. first, last: of their event_time. as_of: their newest known_at.
    series_ids: theirs, each once.
    """

    n_rows: int
    first: datetime
    last: datetime
    as_of: datetime
    series_ids: pl.Series


class SplitRows(NamedTuple):
    """Rows that satisfy the contract and rows that break it.

    clean: SERIES; quarantined: QUARANTINE.
    calendar: over the reach of all rows.
    contract: failures of the contract's rules alone.
    summary: counts, with the rows that were clean before.
    """

    clean: pl.DataFrame
    quarantined: pl.DataFrame
    calendar: Calendar
    contract: list[RuleFailure]
    summary: ValidationSummary


def split_rows(
    rows: pl.DataFrame, about: About, params: ValidateParams, before: CleanRows | None = None
) -> SplitRows:
    """Split *rows* (SERIES) by the first checks and the contract.

    before: what else there is; each row's verdict is the same as in a split of all.
    Raises ContractError as `check_shape` does.
    """
    check_shape(rows, about, params, 0 if before is None else before.n_rows)
    first, last = rows.select(first=pl.col("event_time").min(), last=pl.col("event_time").max()).row(0)
    if before is not None:
        first, last = min(first or before.first, before.first), max(last or before.last, before.last)
    calendar = build_calendar(about, reach=(first, last))
    contract = find_contract_failures(rows, params)
    step = None if before is None else before.first
    failures = [*find_first_failures(rows, calendar, step), *contract]
    clean, quarantined = split_quarantined(rows, failures)
    clean, quarantined = SERIES.conform(clean), QUARANTINE.conform(quarantined)
    if clean.height + quarantined.height != rows.height:
        raise ContractError(
            f"{clean.height} clean and {quarantined.height} quarantined rows are not the {rows.height}"
            " received. This is a fault in validate."
        )
    summary = _build_summary(rows, clean, quarantined, failures, before)
    return SplitRows(clean, quarantined, calendar, contract, summary)


def validate_rows(
    rows: pl.DataFrame, about: About, params: ValidateParams, report: Callable[[str], None] = print
) -> ValidatedRows:
    """Split *rows* (SERIES), and report on both parts.

    Raises ContractError as `split_rows` and `run_suite` do.
    """
    split = split_rows(rows, about, params)
    report(
        f"validate: reporting the contract on {rows.height:,} rows (Great Expectations takes some seconds to"
        " load)"
    )
    suite, result = run_suite(rows, params, split.contract)
    return ValidatedRows(
        split.clean,
        split.quarantined,
        build_profile(split.clean),
        find_gaps(split.clean, split.calendar),
        suite,
        result,
        split.summary,
    )


def get_failed_folder(dataset: str) -> Path:
    """Where the rows and the report are that stopped the last run of *dataset*."""
    return read_settings().home / "failed" / "validate" / encode_name(dataset)


def is_over_limit(summary: ValidationSummary, params: ValidateParams) -> bool:
    """Whether more than `max_quarantine_frac` of the rows are quarantined, or all of them."""
    return summary.clean == 0 or summary.quarantined_frac > params.max_quarantine_frac


def build_limit_error(
    summary: ValidationSummary, quarantined: pl.DataFrame, params: ValidateParams, location: str
) -> ContractError:
    """The error that stops the stage: counts by rule, and the first examples.

    location: where the rows and the report are.
    """
    by_rule = ", ".join(
        f"{rule}: {n:,}"
        for rule, n in sorted(summary.by_rule.items(), key=lambda item: (-item[1], item[0]))
        if n
    )
    examples = quarantined.head(N_EXAMPLES).iter_rows(named=True)
    first = "; ".join(f"{row['series_id']} {row['event_time']:%F %T}: {row['reason']}" for row in examples)
    return ContractError(
        f"{summary.quarantined:,} of {summary.received:,} rows ({summary.quarantined_frac:.2%})"
        f" break the contract, `validate.max_quarantine_frac` allows {params.max_quarantine_frac:.2%}. By"
        f" rule: {by_rule}. First: {first}. All of them are in {location}; data/clean is unchanged."
        " Correct the feed, or correct the contract in the dataset's `validate` section."
    )


def _build_summary(
    rows: pl.DataFrame,
    clean: pl.DataFrame,
    quarantined: pl.DataFrame,
    failures: list[RuleFailure],
    before: CleanRows | None,
) -> ValidationSummary:
    n_before, ids = (0, rows["series_id"]) if before is None else (before.n_rows, before.series_ids)
    return ValidationSummary(
        received=n_before + rows.height,
        clean=n_before + clean.height,
        quarantined=quarantined.height,
        quarantined_frac=quarantined.height / (n_before + rows.height),
        by_rule={failure.rule: len(failure.rows) for failure in failures},
        series=pl.concat([ids, rows["series_id"]]).n_unique(),
    )
