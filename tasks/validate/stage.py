"""The stage in one screen: first checks, the contract, the split, and a summary of both parts."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import polars as pl

from tasks.core.about import About
from tasks.core.calendar import build_calendar
from tasks.core.errors import ContractError
from tasks.core.frames import QUARANTINE, SERIES
from tasks.core.gaps import find_gaps
from tasks.core.reports.validate import CleanProfile, ContractResult, ValidationSummary
from tasks.edges.safe_names import encode_name
from tasks.edges.settings import read_settings
from tasks.validate.contract import check_contract
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


def validate_rows(
    rows: pl.DataFrame, about: About, params: ValidateParams, report: Callable[[str], None] = print
) -> ValidatedRows:
    """Split *rows* (SERIES) into those that satisfy the contract and those that break it.

    Raises ContractError as `check_shape` does.
    """
    check_shape(rows, about, params)
    calendar = build_calendar(
        about, reach=rows.select(first=pl.col("event_time").min(), last=pl.col("event_time").max()).row(0)
    )
    report(
        f"validate: checking the contract on {rows.height:,} rows (Great Expectations takes some seconds to"
        " load)"
    )
    check = check_contract(rows, params)
    failures = [*find_first_failures(rows, calendar), *check.failures]
    clean, quarantined = split_quarantined(rows, failures)
    clean, quarantined = SERIES.conform(clean), QUARANTINE.conform(quarantined)
    if clean.height + quarantined.height != rows.height:
        raise ContractError(
            f"{clean.height} clean and {quarantined.height} quarantined rows are not the {rows.height}"
            " received. This is a fault in validate."
        )
    return ValidatedRows(
        clean,
        quarantined,
        build_profile(clean),
        find_gaps(clean, calendar),
        check.suite,
        check.result,
        _build_summary(rows, clean, quarantined, failures),
    )


def get_failed_folder(dataset: str) -> Path:
    """Where the rows and the report are that stopped the last run of *dataset*."""
    return read_settings().home / "failed" / "validate" / encode_name(dataset)


def is_over_limit(validated: ValidatedRows, params: ValidateParams) -> bool:
    """Whether more than `max_quarantine_frac` of the rows are quarantined, or all of them."""
    return validated.clean.is_empty() or validated.summary.quarantined_frac > params.max_quarantine_frac


def build_limit_error(validated: ValidatedRows, params: ValidateParams, location: str) -> ContractError:
    """The error that stops the stage: counts by rule, and the first examples.

    location: where the rows and the report are.
    """
    summary = validated.summary
    by_rule = ", ".join(
        f"{rule}: {n:,}"
        for rule, n in sorted(summary.by_rule.items(), key=lambda item: (-item[1], item[0]))
        if n
    )
    examples = validated.quarantined.head(N_EXAMPLES).iter_rows(named=True)
    first = "; ".join(f"{row['series_id']} {row['event_time']:%F %T}: {row['reason']}" for row in examples)
    return ContractError(
        f"{summary.quarantined:,} of {summary.received:,} rows ({summary.quarantined_frac:.2%})"
        f" break the contract, `validate.max_quarantine_frac` allows {params.max_quarantine_frac:.2%}. By"
        f" rule: {by_rule}. First: {first}. All of them are in {location}; data/clean is unchanged."
        " Correct the feed, or correct the contract in the dataset's `validate` section."
    )


def _build_summary(
    rows: pl.DataFrame, clean: pl.DataFrame, quarantined: pl.DataFrame, failures: list[RuleFailure]
) -> ValidationSummary:
    return ValidationSummary(
        received=rows.height,
        clean=clean.height,
        quarantined=quarantined.height,
        quarantined_frac=quarantined.height / rows.height,
        by_rule={failure.rule: len(failure.rows) for failure in failures},
        series=rows["series_id"].n_unique(),
    )
