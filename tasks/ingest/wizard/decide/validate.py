"""The section `validate`: bounds for each column, and the invariants of a bar."""

from typing import Any

import polars as pl

from tasks.core.numbers import format_number
from tasks.ingest.wizard.decide.draft import EntryDraft
from tasks.ingest.wizard.decide.target import ProposedTarget
from tasks.ingest.wizard.inspect import bars
from tasks.ingest.wizard.inspect.figures import compute_outer_bound, convert_to_float
from tasks.ingest.wizard.inspect.inspected import InspectedFiles


def add_validate(
    inspected: InspectedFiles, capped: pl.DataFrame, target: ProposedTarget, draft: EntryDraft
) -> None:
    """Set the section `validate`. capped: the rows that ingest will keep."""
    draft.add_value(
        ("validate", "min_rows"),
        max(1, capped.height // 2),
        "half of what the files give today; fewer is a broken delivery",
    )
    for column in inspected.values:
        rule, reason = build_column_rule(
            inspected.rows[column],
            price=inspected.bars and column in bars.PRICES,
            volume=inspected.bars and column not in bars.PRICES,
        )
        if target.known_ahead and column not in target.known_ahead:
            rule["nullable"] = True  # the rows of what is known ahead have nothing else
        draft.add_value(("validate", "columns", column), rule, reason)
    if inspected.bars:
        pairs = [["high", "low"], ["high", "open"], ["high", "close"], ["open", "low"], ["close", "low"]]
        draft.add_value(
            ("validate", "rows"),
            [{"greater_or_equal": pair} for pair in pairs],
            "the invariants of a bar: high is its greatest price, low its least",
        )


def build_column_rule(
    values: pl.Series, *, price: bool = False, volume: bool = False
) -> tuple[dict[str, Any], str]:
    """Bounds for a column with slack, and the reason.

    values: all that are known of it.
    price, volume: whether it is one of a bar.
    """
    known = values.drop_nulls()
    low, high = convert_to_float(known.min()), convert_to_float(known.max())
    seen = f"seen {format_number(low)} to {format_number(high)}"
    rule: dict[str, Any]
    if price:
        rule = {"min": 0, "strict_min": True}
        reason = f"a price is positive; {seen}, and a trend has no upper bound"
    elif volume and low >= 0:
        rule, reason = {"min": 0}, f"not negative; {seen}"
    elif low >= 0 and (low == 0 or high / low >= 10):
        rule = {"min": 0, "max": compute_outer_bound(10 * high or 1.0)}
        reason = f"{seen}; up to ten times the largest"
    else:
        slack = (high - low) or abs(high) or 1.0
        lower = compute_outer_bound(low - slack, up=False)
        rule = {"min": max(0, lower) if low > 0 else lower, "max": compute_outer_bound(high + slack)}
        reason = f"{seen}; as much again on either side"
    if low > 0 and rule["min"] == 0:
        rule["strict_min"] = True
    if n_missing := values.null_count():
        rule["nullable"] = True
        reason += f"; {n_missing} cells are empty"
    return rule, reason
