"""From what the files are to the dataset's entry: every choice with its reason."""

from tasks.ingest.wizard.decide import budget
from tasks.ingest.wizard.decide.draft import EntryDraft, EntryProposal
from tasks.ingest.wizard.decide.features import add_features
from tasks.ingest.wizard.decide.steps import (
    align_rows,
    apply_caps,
    decide_grid,
    decide_horizon,
    format_span,
    list_windows,
)
from tasks.ingest.wizard.decide.target import ProposedTarget, describe_target, select_target
from tasks.ingest.wizard.decide.training import add_models, add_walk_forward
from tasks.ingest.wizard.decide.validate import add_validate
from tasks.ingest.wizard.inspect.grid import DetectedGrid, find_grid
from tasks.ingest.wizard.inspect.inspected import InspectedFiles, OwnerAnswers


def build_proposal(look: InspectedFiles, asked: OwnerAnswers) -> EntryProposal:
    """The entry. Raises SourceError when the history is too short for any honest score."""
    draft = EntryDraft(questions=list(look.questions))
    rows, target = select_target(look, asked, draft)
    before = rows.height
    rows, snapped = align_rows(rows, look, asked)
    capped, limits = apply_caps(rows)
    grid = decide_grid(rows, look, asked, draft)
    kept = (
        grid
        if capped.height == rows.height
        else find_grid(capped, "__z", look.integer_time, grid.every, grid.season_steps)
    )
    horizon = decide_horizon(grid, look, asked, draft)
    windows = list_windows(grid, kept.n_steps)
    walk = budget.plan_budget(kept.n_steps, kept.n_series, horizon, grid.season_steps, windows[-1])
    _add_about(look, grid, target, draft)
    _add_ingest(look, asked, limits, kept, draft)
    if snapped:
        draft.add_value(("ingest", "source", "snap_times"), value=True, reason=snapped)
        draft.said.append(
            f"Times are moved back to the start of their step: {snapped}. {before - rows.height} rows then"
            " repeat a step."
        )
    add_validate(look, capped, draft)
    add_features(look, grid, target, windows, capped, walk, draft)
    add_models(grid, windows, walk, draft)
    add_walk_forward(walk, grid, kept, draft)
    return EntryProposal(draft.entry, draft.reasons, tuple(draft.said), tuple(draft.questions))


def _add_about(look: InspectedFiles, grid: DetectedGrid, target: ProposedTarget, draft: EntryDraft) -> None:
    about = draft.entry["about"]
    first = {
        "description": (
            f"{describe_target(target, look)}, {grid.n_series} series every"
            f" {grid.every if not look.integer_time else 'step'},"
            f" {format_span(look.rows, look.integer_time)}."
        ),
        "every": grid.every,
        "calendar": grid.calendar,
    }
    last = {"season_steps": grid.season_steps} | (
        {"covariates": {"past": list(target.others)}} if target.others else {}
    )
    integer = {"integer_time": True} if look.integer_time else {}
    draft.entry["about"] = (
        first
        | integer
        | {k: about[k] for k in ("target", "horizon_steps")}
        | last
        | {"primary_score": about["primary_score"]}
    )
    for key in ("every", "calendar", "season_steps"):
        draft.reasons["about", key] = grid.reasons[key]
    if look.integer_time:
        draft.reasons["about", "integer_time"] = look.reasons.get(
            "time_column", "the columns are steps; series are aligned at their last value"
        )
    if target.others:
        left_out = len(look.values) - 1 - len(target.others)
        draft.reasons["about", "covariates"] = "known up to the cutoff only" + (
            f"; {left_out} further columns are left out" if left_out else ""
        )


def _add_ingest(
    look: InspectedFiles, asked: OwnerAnswers, limits: dict[str, int], kept: DetectedGrid, draft: EntryDraft
) -> None:
    source = {
        "kind": "files",
        "files": [asked.pattern],
        **{k: v for k, v in look.source.items() if k != "kind"},
        **limits,
    }
    draft.entry["ingest"] = {"source": source}
    for key, reason in look.reasons.items():
        if key in source:
            draft.reasons["ingest", "source", key] = reason
    if "max_rows_per_series" in limits:
        why = (
            f"the newest; {kept.n_series} series of that many rows train in about a minute on 2 cores. Raise"
            " it when you have the time"
        )
        draft.reasons["ingest", "source", "max_rows_per_series"] = why
        draft.said.append(
            f"Capped: the newest {limits['max_rows_per_series']} rows of each series are used"
            " (ingest.source.max_rows_per_series)."
        )
    if "max_series" in limits:
        draft.reasons["ingest", "source", "max_series"] = (
            "more would take longer than about a minute; raise it when you have the time"
        )
        draft.said.append(
            f"Capped: the first {limits['max_series']} series by name are used (ingest.source.max_series)."
        )
