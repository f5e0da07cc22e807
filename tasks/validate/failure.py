"""Rows that fail a rule."""

from collections.abc import Iterable
from typing import NamedTuple

import polars as pl


class RuleFailure(NamedTuple):
    """One rule and the rows that break it. at: their positions in the received frame, ascending.
    reason: over that frame, as text.
    """

    rule: str
    at: pl.Series
    reason: pl.Expr


def split_quarantined(
    rows: pl.DataFrame, failures: Iterable[RuleFailure]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(clean, quarantined).

    A row that breaks several rules is quarantined once: `rule` is the first, `reason` names all.
    """
    numbered = rows.with_row_index("_at")
    broken = [
        numbered.select(pl.all().gather(f.at)).select(
            "_at", pl.lit(f.rule).alias("rule"), f.reason.alias("reason")
        )
        for f in failures
        if len(f.at)
    ]
    if not broken:
        nothing = rows.clear().with_columns(rule=pl.lit(None, pl.String), reason=pl.lit(None, pl.String))
        return rows, nothing
    of_row = (
        pl.concat(broken)
        .group_by("_at", maintain_order=True)
        .agg(pl.col("rule").first(), pl.col("reason").str.join("; "))
    )
    quarantined = numbered.join(of_row, on="_at", how="inner", maintain_order="left").drop("_at")
    return numbered.join(of_row, on="_at", how="anti", maintain_order="left").drop("_at"), quarantined


def build_reason(*parts: str | pl.Expr) -> pl.Expr:
    """One text of literal words and values, per row."""
    return pl.concat_str([pl.lit(part) if isinstance(part, str) else part.cast(pl.String) for part in parts])
