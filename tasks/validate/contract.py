"""The contract: which rows break it, in polars, and its report as a Great Expectations suite.

Great Expectations takes seconds to load, so polars finds the rows; the suite must name the same.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import polars as pl
import polars.selectors as cs

from tasks.core.errors import ContractError
from tasks.core.numbers import format_number
from tasks.core.reports.validate import ContractResult, ExpectationCounts, ExpectationResult
from tasks.edges.settings import read_settings
from tasks.validate.failure import RuleFailure, build_reason
from tasks.validate.params import ColumnRule, ValidateParams

_ROUNDED = " rounded"  # the suite compares a column of whole numbers with this one


class RuleExpectation(NamedTuple):
    """One rule of the contract.

    kind, arguments: of the expectation.
    is_broken: whether a row breaks it; null where a value is missing.
    reason: of a failing row, as text.
    """

    rule: str
    kind: str
    arguments: dict[str, object]
    is_broken: pl.Expr
    reason: pl.Expr


class ContractReport(NamedTuple):
    """The suite and its result, of Great Expectations, without times and ids."""

    suite: dict[str, object]
    result: ContractResult


def build_expectations(params: ValidateParams) -> Iterator[RuleExpectation]:
    """The rules of the contract, by column in the order of params.yaml, then between columns."""
    for column, rule in params.columns.items():
        yield from _build_column_expectations(column, rule)
    for row in params.rows:
        a, b = row.greater_or_equal
        yield RuleExpectation(
            f"{a} >= {b}",
            "ExpectColumnPairValuesAToBeGreaterThanB",
            {"column_A": a, "column_B": b, "or_equal": True, "ignore_row_if": "either_value_is_missing"},
            pl.col(a) < pl.col(b),
            build_reason(f"{a} ", pl.col(a), f" is below {b} ", pl.col(b)),
        )


def _build_column_expectations(column: str, rule: ColumnRule) -> Iterator[RuleExpectation]:
    value = pl.col(column)
    of_column: dict[str, object] = {"column": column}
    between = "ExpectColumnValuesToBeBetween"
    if not rule.nullable:
        yield RuleExpectation(
            f"{column} is known",
            "ExpectColumnValuesToNotBeNull",
            of_column,
            value.is_null(),
            pl.lit(f"{column} is missing"),
        )
    if rule.min is not None:
        allowed = f"{'>' if rule.strict_min else '>='} {format_number(rule.min)}"
        yield RuleExpectation(
            f"{column} {allowed}",
            between,
            {**of_column, "min_value": rule.min, "strict_min": rule.strict_min},
            value <= rule.min if rule.strict_min else value < rule.min,
            _build_value_reason(column, allowed),
        )
    if rule.max is not None:
        allowed = f"<= {format_number(rule.max)}"
        yield RuleExpectation(
            f"{column} {allowed}",
            between,
            {**of_column, "max_value": rule.max},
            value > rule.max,
            _build_value_reason(column, allowed),
        )
    if rule.integer:
        yield RuleExpectation(
            f"{column} is whole",
            "ExpectColumnPairValuesToBeEqual",
            {
                "column_A": column,
                "column_B": f"{column}{_ROUNDED}",
                "ignore_row_if": "either_value_is_missing",
            },
            value != value.round(),
            _build_value_reason(column, "a whole number"),
        )
    if rule.values is not None:
        yield RuleExpectation(
            f"{column} in set",
            "ExpectColumnValuesToBeInSet",
            {**of_column, "value_set": list(rule.values)},
            ~value.is_in(list(rule.values)),
            _build_value_reason(column, f"one of {list(rule.values)}"),
        )


def _build_value_reason(column: str, allowed: str) -> pl.Expr:
    return build_reason(f"{column} is ", pl.col(column), f", not {allowed}")


def find_contract_failures(rows: pl.DataFrame, params: ValidateParams) -> list[RuleFailure]:
    """The rows that break each rule, in the contract's order; NaN counts as missing."""
    values = rows.select(params.names).with_columns(
        cs.float().fill_nan(None), cs.categorical().cast(pl.String)
    )
    expectations = list(build_expectations(params))
    broken = values.select(
        e.is_broken.fill_null(value=False).arg_true().implode().alias(e.rule) for e in expectations
    )
    return [RuleFailure(e.rule, broken[e.rule][0], e.reason) for e in expectations]


def run_suite(rows: pl.DataFrame, params: ValidateParams, failures: Sequence[RuleFailure]) -> ContractReport:
    """The report of Great Expectations over *rows*, which are not empty.

    failures: what `find_contract_failures` found in them.
    Raises ContractError when an expectation could not be computed or finds other rows.
    """
    expectations = list(build_expectations(params))
    if not expectations:
        nothing = ContractResult(success=True, results=())
        return ContractReport({"name": "contract", "expectations": []}, nothing)
    with warnings.catch_warnings():
        # Great Expectations imports sre_constants, which Python deprecates
        warnings.simplefilter("ignore", DeprecationWarning)
        rounded = (
            pl.col(c).round().name.suffix(_ROUNDED) for c, rule in params.columns.items() if rule.integer
        )
        suite, results = _run_suite(rows.select(*params.names, *rounded), expectations)
    # the results are not in the order of the suite
    by_rule = {result.expectation_config.meta["rule"]: result for result in results}
    for failure in failures:
        result = by_rule[failure.rule]
        _check_no_exception(failure.rule, result.exception_info)
        found = sorted(result.result.get("unexpected_index_list") or [])
        if found != failure.rows.to_list() or result.result["unexpected_count"] != len(found):
            raise ContractError(
                f"Great Expectations finds {result.result['unexpected_count']} rows against"
                f" {failure.rule!r}, polars {len(failure.rows)}. This is a fault in validate: report it"
                " with the rows in data/raw."
            )
    return ContractReport(
        suite,
        ContractResult(
            success=all(r.success for r in by_rule.values()),
            results=tuple(_build_result(by_rule[e.rule]) for e in expectations),
        ),
    )


def _run_suite(
    values: pl.DataFrame, expectations: list[RuleExpectation]
) -> tuple[dict[str, object], list[Any]]:
    read_settings()  # telemetry off, before the import reads the environment
    import great_expectations as gx
    import pandas as pd

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    values = values.with_columns(pl.col(pl.Categorical).cast(pl.String))
    frame = pd.DataFrame({c: values[c].to_numpy() for c in values.columns})
    asset = context.data_sources.add_pandas("rows").add_dataframe_asset("rows")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch(batch_parameters={"dataframe": frame})
    gx_expectations = [
        getattr(gx.expectations, e.kind)(**e.arguments, meta={"rule": e.rule}) for e in expectations
    ]
    suite = gx.ExpectationSuite(name="contract", expectations=gx_expectations)
    results = batch.validate(
        suite, result_format={"result_format": "COMPLETE", "exclude_unexpected_values": True}
    ).results
    return suite.to_json_dict(), results


def _check_no_exception(rule: str, info: Mapping[str, Any]) -> None:
    """Raises ContractError for an exception, which otherwise would look like bad data.

    info: of one result, or of each metric of it.
    """
    parts = [info] if "raised_exception" in info else list(info.values())
    for part in parts:
        if part["raised_exception"]:
            raise ContractError(
                f"The rule {rule!r} could not be computed: {part['exception_message']}. Correct it in the"
                " dataset's `validate` section."
            )


def _build_result(result: Any) -> ExpectationResult:
    config = result.expectation_config
    counts = {key: result.result[key] for key in ExpectationCounts.model_fields if key in result.result}
    return ExpectationResult(
        rule=config.meta["rule"],
        type=config.type,
        kwargs={key: value for key, value in config.kwargs.items() if key != "batch_id"},
        success=bool(result.success),
        result=ExpectationCounts(**counts),
    )
