"""The contract as a Great Expectations suite, run over the rows, with its result for every row."""

import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import polars as pl

from tasks.core.errors import ContractError
from tasks.edges.settings import settings
from tasks.validate.failure import Failure, said
from tasks.validate.params import ColumnRule, ValidateParams


class Expectation(NamedTuple):
    """One rule: its name, the expectation's type and arguments, and the reason a failing row gets."""

    rule: str
    kind: str
    arguments: dict[str, Any]
    reason: pl.Expr


class Checked(NamedTuple):
    """failures: for each rule, in the contract's order. suite, result: as Great Expectations states them, without times and ids."""

    failures: list[Failure]
    suite: dict[str, Any]
    result: dict[str, Any]


def expectations(params: ValidateParams) -> Iterator[Expectation]:
    """The rules of the contract, by column in the order of params.yaml, then between columns."""
    for column, rule in params.columns.items():
        yield from _of_column(column, rule)
    for row in params.rows:
        a, b = row.greater_or_equal
        yield Expectation(
            f"{a} >= {b}",
            "ExpectColumnPairValuesAToBeGreaterThanB",
            {"column_A": a, "column_B": b, "or_equal": True, "ignore_row_if": "either_value_is_missing"},
            said(f"{a} ", pl.col(a), f" is below {b} ", pl.col(b)),
        )


def _of_column(column: str, rule: ColumnRule) -> Iterator[Expectation]:
    if not rule.nullable:
        yield Expectation(f"{column} is known", "ExpectColumnValuesToNotBeNull", {"column": column}, pl.lit(f"{column} is missing"))
    if rule.min is not None:
        sign = ">" if rule.strict_min else ">="
        arguments = {"column": column, "min_value": rule.min, "strict_min": rule.strict_min}
        yield Expectation(f"{column} {sign} {rule.min:g}", "ExpectColumnValuesToBeBetween", arguments, _seen(column, f"{sign} {rule.min:g}"))
    if rule.max is not None:
        arguments = {"column": column, "max_value": rule.max}
        yield Expectation(f"{column} <= {rule.max:g}", "ExpectColumnValuesToBeBetween", arguments, _seen(column, f"<= {rule.max:g}"))
    if rule.values is not None:
        arguments = {"column": column, "value_set": list(rule.values)}
        yield Expectation(f"{column} in set", "ExpectColumnValuesToBeInSet", arguments, _seen(column, f"one of {list(rule.values)}"))


def _seen(column: str, wanted: str) -> pl.Expr:
    return said(f"{column} is ", pl.col(column), f", not {wanted}")


def check_contract(rows: pl.DataFrame, params: ValidateParams) -> Checked:
    """Run the suite over *rows*, which are not empty. Raises ContractError when an expectation could not be computed."""
    listed = list(expectations(params))
    if not listed:
        return Checked([], {"name": "contract", "expectations": []}, {"success": True, "results": []})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Great Expectations imports sre_constants, which Python deprecates
        suite, results = _run(rows.select(params.names), listed)
    by_rule = {result.expectation_config.meta["rule"]: result for result in results}  # in another order than the suite's
    failures = []
    for expected in listed:
        result = by_rule[expected.rule]
        _refuse_exception(expected.rule, result.exception_info)
        at = pl.Series(sorted(result.result.get("unexpected_index_list") or []), dtype=pl.UInt32)
        if len(at) != result.result["unexpected_count"] or result.success != (len(at) == 0):
            raise ContractError(
                f"Great Expectations counts {result.result['unexpected_count']} rows against {expected.rule!r}, but lists {len(at)}. Report it."
            )
        failures.append(Failure(expected.rule, at, expected.reason))
    return Checked(failures, suite, {"success": all(r.success for r in by_rule.values()), "results": [_facts(by_rule[e.rule]) for e in listed]})


def _run(values: pl.DataFrame, listed: list[Expectation]) -> tuple[dict[str, Any], list[Any]]:
    settings()  # telemetry off, before the import reads the environment
    import great_expectations as gx  # noqa: PLC0415  (6 s; only this stage pays it)
    import pandas as pd  # noqa: PLC0415  (comes with great_expectations)

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    frame = pd.DataFrame({c: values[c].to_numpy() for c in values.columns})
    asset = context.data_sources.add_pandas("rows").add_dataframe_asset("rows")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch(batch_parameters={"dataframe": frame})
    expected = [getattr(gx.expectations, e.kind)(**e.arguments, meta={"rule": e.rule}) for e in listed]
    suite = gx.ExpectationSuite(name="contract", expectations=expected)
    results = batch.validate(suite, result_format={"result_format": "COMPLETE", "exclude_unexpected_values": True}).results
    return suite.to_json_dict(), results


def _refuse_exception(rule: str, info: dict[str, Any]) -> None:
    """An exception comes as `success: false`, and would look like bad data."""
    raised = [info] if "raised_exception" in info else list(info.values())
    for part in raised:
        if part["raised_exception"]:
            raise ContractError(
                f"The rule {rule!r} could not be computed: {part['exception_message']}. Correct it in the dataset's `validate` section."
            )


def _facts(result: Any) -> dict[str, Any]:
    config = result.expectation_config
    kept = ("element_count", "missing_count", "unexpected_count", "unexpected_percent")
    arguments = {k: v for k, v in config.kwargs.items() if k != "batch_id"}
    facts = {k: result.result[k] for k in kept if k in result.result}
    return {"rule": config.meta["rule"], "type": config.type, "kwargs": arguments, "success": bool(result.success), "result": facts}
