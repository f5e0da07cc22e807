"""What is forecast: the column or the volatility of bars, its transform and its score."""

from dataclasses import dataclass

import polars as pl

from tasks.ingest.wizard.decide.draft import EntryDraft
from tasks.ingest.wizard.inspect.figures import compute_outer_bound, convert_to_float
from tasks.ingest.wizard.inspect.inspected import InspectedFiles, OwnerAnswers
from tasks.ingest.wizard.inspect.target import (
    MAX_FLAT_FRAC,
    NEVER_CHANGES,
    add_z,
    garman_klass,
    select_target_column,
    select_transform,
)

MAX_COVARIATES = 12
MIN_SERIES_FOR_SMAPE = 10  # fewer can be looked at one by one
MAX_SIZE_RATIO = 10.0  # ninth decile of the series' medians over the first; above it, smape


@dataclass(frozen=True)
class ProposedTarget:
    """What is forecast, and the other value columns.

    others: known up to the cutoff. known_ahead: known over the horizon. left_out: read by nothing.
    """

    column: str
    others: tuple[str, ...]
    transform: str
    score: str
    known_ahead: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def covariates(self) -> dict[str, list[str]]:
        """As in `about.covariates`; empty without any."""
        found = {"past": list(self.others), "known_ahead": list(self.known_ahead)}
        return {key: columns for key, columns in found.items() if columns}


def select_target(
    inspected: InspectedFiles, answers: OwnerAnswers, draft: EntryDraft
) -> tuple[pl.DataFrame, ProposedTarget]:
    """Rows with `__z`, the target after its transform, and what is forecast."""
    if inspected.bars and answers.target is None:
        return _build_volatility_target(inspected, answers, draft)
    column, others, reason, question = select_target_column(inspected, answers.target)
    draft.questions += [question] if question else []
    draft.add_value(("about", "target", "column"), column, reason)
    draft.add_value(
        ("about", "target", "unit"),
        answers.unit or f"unit of {column}",
        "as asked" if answers.unit else "not in the file: give --unit",
    )
    if answers.unit is None:
        draft.questions.append(f"Which unit has `{column}`? give --unit")
    if _is_count(inspected.rows[column]):
        draft.add_value(
            ("about", "target", "integer"),
            True,  # noqa: FBT003  (the entry's value)
            "whole numbers from 0 on: quantiles are whole numbers, too",
        )
    transform = select_transform(inspected.rows, column, answers.season or 24)
    draft.add_value(("about", "target", "transform"), transform.value, transform.reason)
    if transform.reason == NEVER_CHANGES:
        draft.facts.append(f"`{column}` never changes: the last value is right, and no model can be better.")
    score, reason = _select_score(inspected.rows, column)
    draft.add_value(("about", "primary_score"), score, reason)
    return add_z(inspected.rows, column, transform.value), ProposedTarget(
        column,
        tuple(others[:MAX_COVARIATES]),
        transform.value,
        score,
        left_out=tuple(others[MAX_COVARIATES:]),
    )


def _is_count(values: pl.Series) -> bool:
    """Whether all values are whole numbers from 0 on, and 0 is one of them."""
    known = values.drop_nulls().cast(pl.Float64)
    return bool(len(known)) and known.min() == 0 and bool((known == known.floor()).all())


def _select_score(rows: pl.DataFrame, column: str) -> tuple[str, str]:
    """`mae`; `smape` if the largest of many series would decide alone."""
    known = rows.filter(pl.col(column).is_finite())
    sizes = known.group_by("series_id").agg(pl.col(column).median())[column]
    if len(sizes) >= MIN_SERIES_FOR_SMAPE and convert_to_float(known[column].min()) > 0:
        ratio = convert_to_float(sizes.quantile(0.9)) / convert_to_float(sizes.quantile(0.1))
        if ratio > MAX_SIZE_RATIO:
            reason = (
                f"in percent: the sizes of {len(sizes)} series differ {ratio:.0f} fold, and in the"
                " target's unit the largest would decide alone"
            )
            return "smape", reason
    return "mae", "robust, in the target's unit; rmse when large errors hurt more than in proportion"


def _build_volatility_target(
    inspected: InspectedFiles, answers: OwnerAnswers, draft: EntryDraft
) -> tuple[pl.DataFrame, ProposedTarget]:
    """The volatility of price bars, which can be forecast; their returns cannot."""
    y = garman_klass(inspected.rows)
    flat_frac = convert_to_float((y <= 0).mean())
    draft.add_value(
        ("about", "target", "column"),
        "gk_vol",
        "the bar's Garman-Klass volatility: it can be forecast; returns cannot, and an honest gate would"
        " refuse every model",
    )
    draft.add_value(("about", "target", "unit"), answers.unit or "volatility per step (fraction)")
    draft.add_value(
        ("about", "target", "derive"),
        "garman_klass",
        "from open, high, low and close; what happens between bars is not in it",
    )
    draft.questions.append(
        "The bars' volatility is forecast, since returns are not predictable. To forecast a price instead,"
        " give --target close."
    )
    rows = inspected.rows.with_columns(y.alias("__y"))
    if flat_frac > MAX_FLAT_FRAC:
        draft.add_value(
            ("about", "target", "transform"),
            "none",
            f"{flat_frac:.0%} of the bars do not move, and a log would count them as missing",
        )
        draft.add_value(("about", "primary_score"), "mae", "qlike is undefined for a volatility of 0")
        draft.questions.append(
            f"{flat_frac:.0%} of the bars do not move at all; longer bars (for example an hour) would give a"
            " better target."
        )
        return add_z(rows, "__y", "none").drop("__y"), ProposedTarget("gk_vol", (), "none", "mae")
    floor = compute_outer_bound((convert_to_float(y.filter(y > 0).median()) or 1e-4) / 100, up=False)
    draft.add_value(
        ("about", "target", "transform"), "log", "volatility is positive and its spread grows with its level"
    )
    draft.add_value(
        ("about", "target", "floor"),
        floor,
        f"a hundredth of the median; {flat_frac:.2%} of the bars are flat, carry no information about risk"
        " and count as missing",
    )
    draft.add_value(
        ("about", "primary_score"),
        "qlike",
        "the loss for variances: an underestimate of risk costs more than an overestimate",
    )
    rows = add_z(rows.with_columns(pl.when(pl.col("__y") >= floor).then("__y")), "__y", "log")
    return rows.drop("__y"), ProposedTarget("gk_vol", (), "log", "qlike")


def describe_target(target: ProposedTarget, inspected: InspectedFiles) -> str:
    """The target in a few words."""
    return (
        "Garman-Klass volatility of price bars"
        if target.column == "gk_vol" and inspected.bars
        else f"Column {target.column}"
    )
