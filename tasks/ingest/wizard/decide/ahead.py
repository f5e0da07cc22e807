"""Columns that the files have for steps that are still to come."""

from dataclasses import dataclass, replace

import polars as pl

from tasks.ingest.wizard.decide.draft import EntryDraft
from tasks.ingest.wizard.decide.target import ProposedTarget
from tasks.ingest.wizard.inspect.figures import convert_to_int
from tasks.ingest.wizard.inspect.inspected import InspectedFiles

MIN_KNOWN_FRAC = 0.9  # of the steps to come, in which a column must be known
MAX_MISSING_FRAC = 0.05  # of the past; where the target is often missing, its newest may be as well


@dataclass(frozen=True)
class RowsAhead:
    """What the files have after the last target.

    columns: known in these steps. n_steps: how many there are of each series, at least; 0 if none.
    """

    columns: tuple[str, ...] = ()
    n_steps: int = 0


def split_rows_ahead(
    rows: pl.DataFrame, inspected: InspectedFiles, target: ProposedTarget, draft: EntryDraft
) -> tuple[pl.DataFrame, RowsAhead]:
    """The rows up to the last target of each series, and what the files have after it."""
    if inspected.integer_time or not target.others or target.column not in rows.columns:
        return rows, RowsAhead()
    known = pl.col(target.column).is_not_null()
    last = pl.col("event_time").filter(known).max().over("series_id")
    is_past = rows.select((pl.col("event_time") <= last).fill_null(value=False)).to_series()
    past, later = rows.filter(is_past), rows.filter(~is_past)
    if not later.height or past[target.column].null_count() > MAX_MISSING_FRAC * past.height:
        return rows, RowsAhead()
    columns = [c for c in target.others if later[c].is_not_null().mean() >= MIN_KNOWN_FRAC]  # type: ignore[operator]
    if not columns:
        return rows, RowsAhead()
    lengths = later.group_by("series_id").len()["len"]
    n_steps = convert_to_int(lengths.min()) if len(lengths) == past["series_id"].n_unique() else 0
    first = later.select(pl.col("event_time").min()).item()
    names = ", ".join(f"`{c}`" for c in columns)
    draft.facts.append(
        f"The newest {later.height} rows (from {first:%F}) have no `{target.column}`: they are steps to come,"
        f" and {names} is known ahead."
    )
    draft.questions.append(
        f"Is {names} always known {n_steps} steps ahead? If not, move it to about.covariates.past and remove"
        " ingest.source.known_ahead_columns and the feature `ahead`."
    )
    return past, RowsAhead(tuple(columns), n_steps)


def apply_known_ahead(
    target: ProposedTarget, ahead: RowsAhead, horizon_steps: int, draft: EntryDraft
) -> ProposedTarget:
    """*target* with the columns that are known for the whole horizon."""
    if not ahead.columns:
        return target
    if ahead.n_steps < horizon_steps:
        draft.facts.append(
            f"The horizon of {horizon_steps} steps is longer than the {ahead.n_steps} steps that every series"
            f" has of {', '.join(ahead.columns)}: they count as known up to the cutoff only."
        )
        return target
    return replace(
        target,
        others=tuple(c for c in target.others if c not in ahead.columns),
        known_ahead=ahead.columns,
    )
