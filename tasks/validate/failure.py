"""Rows that fail a rule, and the split into clean and quarantined rows."""

from collections.abc import Iterable
from typing import NamedTuple

import polars as pl


class RuleFailure(NamedTuple):
    """One rule and the rows that break it.

    rows: their positions in the received frame, ascending.
    reason: text, over the received frame.
    """

    rule: str
    rows: pl.Series
    reason: pl.Expr


def split_quarantined(
    rows: pl.DataFrame, failures: Iterable[RuleFailure]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(clean, quarantined).

    A row that breaks several rules is quarantined once: `rule` is the first, `reason` names all.
    """
    numbered = rows.with_row_index("_index")
    broken = [
        numbered.select(pl.all().gather(f.rows)).select(
            "_index", pl.lit(f.rule).alias("rule"), f.reason.alias("reason")
        )
        for f in failures
        if len(f.rows)
    ]
    if not broken:
        no_rows = rows.clear().with_columns(rule=pl.lit(None, pl.String), reason=pl.lit(None, pl.String))
        return rows, no_rows
    reasons = (
        pl.concat(broken)
        .group_by("_index", maintain_order=True)
        .agg(pl.col("rule").first(), pl.col("reason").str.join("; "))
    )
    quarantined = numbered.join(reasons, on="_index", how="inner", maintain_order="left").drop("_index")
    return numbered.join(reasons, on="_index", how="anti", maintain_order="left").drop("_index"), quarantined


def build_reason(*parts: str | pl.Expr) -> pl.Expr:
    """The text of each row: the parts, joined; literal words and values of columns."""
    return pl.concat_str([pl.lit(part) if isinstance(part, str) else part.cast(pl.String) for part in parts])
