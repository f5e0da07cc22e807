"""What is forecast: the column or the volatility of bars, its transform and its score."""

from dataclasses import dataclass

import polars as pl

from tasks.ingest.wizard.decide.draft import EntryDraft
from tasks.ingest.wizard.inspect.figures import compute_outer_bound, convert_to_float
from tasks.ingest.wizard.inspect.inspected import InspectedFiles, OwnerAnswers
from tasks.ingest.wizard.inspect.target import (
    MOST_FLAT_FRAC,
    NEVER_CHANGES,
    add_z,
    garman_klass,
    select_target_column,
    select_transform,
)

MOST_COVARIATES = 12
MANY_SERIES = 10  # of fewer one can look at each
UNLIKE_SIZE = 10.0  # ninth decile of the series' medians over the first


@dataclass(frozen=True)
class ProposedTarget:
    """What is forecast, and the other value columns."""

    column: str
    others: tuple[str, ...]
    transform: str
    score: str


def select_target(
    look: InspectedFiles, asked: OwnerAnswers, draft: EntryDraft
) -> tuple[pl.DataFrame, ProposedTarget]:
    """Rows with `__z`, and what is forecast."""
    if look.bars and asked.target is None:
        return _build_volatility_target(look, asked, draft)
    column, others, why, question = select_target_column(look, asked.target)
    draft.questions += [question] if question else []
    draft.add_value(("about", "target", "column"), column, why)
    draft.add_value(
        ("about", "target", "unit"),
        asked.unit or f"unit of {column}",
        "as asked" if asked.unit else "not in the file: say --unit",
    )
    if asked.unit is None:
        draft.questions.append(f"Which unit has `{column}`? say --unit")
    transform = select_transform(look.rows, column, asked.season or 24)
    draft.add_value(("about", "target", "transform"), transform.value, transform.reason)
    if transform.reason == NEVER_CHANGES:
        draft.said.append(f"`{column}` never changes: the last value is right, and no model can be better.")
    score, why = _select_score(look.rows, column)
    draft.add_value(("about", "primary_score"), score, why)
    return add_z(look.rows, column, transform.value), ProposedTarget(
        column, tuple(others[:MOST_COVARIATES]), transform.value, score
    )


def _select_score(rows: pl.DataFrame, column: str) -> tuple[str, str]:
    """`mae`, and `smape` where the largest of many series would decide alone."""
    known = rows.filter(pl.col(column).is_finite())
    sizes = known.group_by("series_id").agg(pl.col(column).median())[column]
    if len(sizes) >= MANY_SERIES and convert_to_float(known[column].min()) > 0:
        wide = convert_to_float(sizes.quantile(0.9)) / convert_to_float(sizes.quantile(0.1))
        if wide > UNLIKE_SIZE:
            return (
                "smape",
                (
                    f"in percent: the sizes of {len(sizes)} series differ {wide:.0f} fold, and in the"
                    " target's unit the largest would decide alone"
                ),
            )
    return "mae", "robust, in the target's unit; rmse when large errors hurt more than in proportion"


def _build_volatility_target(
    look: InspectedFiles, asked: OwnerAnswers, draft: EntryDraft
) -> tuple[pl.DataFrame, ProposedTarget]:
    """Price bars: their volatility can be forecast, their returns cannot."""
    y = garman_klass(look.rows)
    flat = convert_to_float((y <= 0).mean())
    draft.add_value(
        ("about", "target", "column"),
        "gk_vol",
        "the bar's Garman-Klass volatility: it can be forecast; returns cannot, and an honest gate would"
        " refuse every model",
    )
    draft.add_value(("about", "target", "unit"), asked.unit or "volatility per step (fraction)")
    draft.add_value(
        ("about", "target", "derive"),
        "garman_klass",
        "from open, high, low and close; what happens between bars is not in it",
    )
    draft.questions.append(
        "The bars' volatility is forecast, since returns are not predictable. To forecast a price instead,"
        " say --target close."
    )
    rows = look.rows.with_columns(y.alias("__y"))
    if flat > MOST_FLAT_FRAC:
        draft.add_value(
            ("about", "target", "transform"),
            "none",
            f"{flat:.0%} of the bars do not move, and a log would count them as missing",
        )
        draft.add_value(("about", "primary_score"), "mae", "qlike is undefined for a volatility of 0")
        draft.questions.append(
            f"{flat:.0%} of the bars do not move at all; longer bars (for example an hour) would give a"
            " better target."
        )
        return add_z(rows, "__y", "none").drop("__y"), ProposedTarget("gk_vol", (), "none", "mae")
    least = compute_outer_bound((convert_to_float(y.filter(y > 0).median()) or 1e-4) / 100, up=False)
    draft.add_value(
        ("about", "target", "transform"), "log", "volatility is positive and its spread grows with its level"
    )
    draft.add_value(
        ("about", "target", "floor"),
        least,
        f"a hundredth of the median; {flat:.2%} of the bars are flat, say nothing about risk and count as"
        " missing",
    )
    draft.add_value(
        ("about", "primary_score"),
        "qlike",
        "the loss for variances: an underestimate of risk costs more than an overestimate",
    )
    return add_z(rows.with_columns(pl.when(pl.col("__y") >= least).then("__y")), "__y", "log").drop(
        "__y"
    ), ProposedTarget("gk_vol", (), "log", "qlike")


def describe_target(target: ProposedTarget, look: InspectedFiles) -> str:
    """The target in a few words."""
    return (
        "Garman-Klass volatility of price bars"
        if target.column == "gk_vol" and look.bars
        else f"Column {target.column}"
    )
