"""The section `validate`: bounds for each column, and what a bar is."""

from typing import Any

import polars as pl

from tasks.ingest.wizard.decide.draft import EntryDraft
from tasks.ingest.wizard.inspect import bars
from tasks.ingest.wizard.inspect.figures import compute_outer_bound, convert_to_float
from tasks.ingest.wizard.inspect.inspected import InspectedFiles


def add_validate(look: InspectedFiles, capped: pl.DataFrame, draft: EntryDraft) -> None:
    """Write the section `validate`."""
    draft.add_value(
        ("validate", "min_rows"),
        max(1, capped.height // 2),
        "half of what the files give today; fewer is a broken delivery",
    )
    for column in look.values:
        rule, reason = build_column_rule(
            look.rows[column],
            price=look.bars and column in bars.PRICES,
            volume=look.bars and column not in bars.PRICES,
        )
        draft.add_value(("validate", "columns", column), rule, reason)
    if look.bars:
        pairs = [["high", "low"], ["high", "open"], ["high", "close"], ["open", "low"], ["close", "low"]]
        draft.add_value(
            ("validate", "rows"),
            [{"greater_or_equal": pair} for pair in pairs],
            "what a bar is: high is its greatest price, low its least",
        )


def build_column_rule(
    values: pl.Series, *, price: bool = False, volume: bool = False
) -> tuple[dict[str, Any], str]:
    """Bounds for a column with slack, and why. values: everything that was seen of it."""
    known = values.drop_nulls()
    least, most = convert_to_float(known.min()), convert_to_float(known.max())
    seen = f"seen {least:.6g} to {most:.6g}"
    rule: dict[str, Any]
    if price:
        rule, why = (
            {
                "min": 0,
                "strict_min": True,
            },
            f"a price is positive; {seen}, and a trend has no upper bound",
        )
    elif volume and least >= 0:
        rule, why = {"min": 0}, f"not negative; {seen}"
    elif least >= 0 and (least == 0 or most / least >= 10):
        rule, why = (
            {
                "min": 0,
                "max": compute_outer_bound(10 * most or 1.0),
            },
            f"{seen}; up to ten times the largest",
        )
    else:
        slack = (most - least) or abs(most) or 1.0
        low = compute_outer_bound(least - slack, up=False)
        rule, why = (
            {
                "min": max(0, low) if least > 0 else low,
                "max": compute_outer_bound(most + slack),
            },
            f"{seen}; as much again on either side",
        )
    if least > 0 and rule["min"] == 0:
        rule["strict_min"] = True
    if missing := values.null_count():
        rule["nullable"] = True
        why += f"; {missing} cells are empty"
    return rule, why
