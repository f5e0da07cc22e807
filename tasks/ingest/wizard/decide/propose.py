"""From the inspected files to the dataset's entry: every choice with its reason."""

from tasks.ingest.times import get_zone_lag_s, is_date_step
from tasks.ingest.wizard.decide import budget
from tasks.ingest.wizard.decide.ahead import apply_known_ahead, split_rows_ahead
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


def build_proposal(inspected: InspectedFiles, answers: OwnerAnswers) -> EntryProposal:
    """The entry. Raises SourceError when the history is too short for any honest score."""
    draft = EntryDraft(
        questions=list(inspected.questions),
        facts=list(inspected.facts),
        unanswered=list(inspected.unanswered),
    )
    rows, target = select_target(inspected, answers, draft)
    n_received = rows.height
    rows, snap_reason, aggregate = align_rows(rows, inspected, answers, draft)
    rows, ahead = split_rows_ahead(rows, inspected, target, draft)
    capped, caps = apply_caps(rows)
    grid = decide_grid(rows, inspected, answers, draft)
    capped_grid = (
        grid
        if capped.height == rows.height
        else find_grid(capped, "__z", inspected.integer_time, grid.every, grid.season_steps)
    )
    horizon = decide_horizon(grid, inspected, answers, draft, ahead.n_steps)
    target = apply_known_ahead(target, ahead, horizon, draft)
    windows = list_windows(grid, capped_grid.n_steps)
    walk = budget.plan_budget(
        capped_grid.n_steps, capped_grid.n_series, horizon, grid.season_steps, windows[-1]
    )
    _add_about(inspected, grid, target, draft)
    _add_ingest(inspected, answers, caps, capped_grid, draft)
    if target.known_ahead:
        draft.add_value(("ingest", "source", "known_ahead_columns"), list(target.known_ahead))
        draft.add_value(
            ("ingest", "source", "known_ahead_steps"),
            horizon,
            f"the files have them for {ahead.n_steps} steps after the last target",
        )
    if aggregate:
        draft.add_value(("ingest", "source", "aggregate"), aggregate, snap_reason)
        draft.facts.append(
            f"{n_received} rows are aggregated to {rows.height} steps of {grid.every} by their {aggregate}."
        )
    elif snap_reason:
        draft.add_value(("ingest", "source", "snap_times"), value=True, reason=snap_reason)
        draft.facts.append(
            f"Times are aligned to the start of their step: {snap_reason}. {n_received - rows.height} rows"
            " then repeat a step."
        )
    add_validate(inspected, capped, target, draft)
    add_features(inspected, grid, target, windows, capped, walk, draft)
    add_models(grid, windows, walk, draft)
    add_walk_forward(walk, grid, capped_grid, draft)
    if draft.unanswered:
        key = "assumed" if answers.yes else "unanswered"
        draft.add_value(("ingest", "source", key), list(draft.unanswered))
    return EntryProposal(
        draft.entry,
        draft.reasons,
        tuple(draft.facts),
        (*draft.unanswered, *draft.questions),
        () if answers.yes else tuple(draft.unanswered),
    )


def _add_about(
    inspected: InspectedFiles, grid: DetectedGrid, target: ProposedTarget, draft: EntryDraft
) -> None:
    """Complete the section `about`, in the order in which people read it."""
    about = draft.entry["about"]
    draft.entry["about"] = {
        "description": (
            f"{describe_target(target, inspected)}, {grid.n_series} series every"
            f" {grid.every if not inspected.integer_time else 'step'},"
            f" {format_span(inspected.rows, inspected.integer_time)}."
        ),
        "every": grid.every,
        "calendar": grid.calendar,
        **({"integer_time": True} if inspected.integer_time else {}),
        "target": about["target"],
        "horizon_steps": about["horizon_steps"],
        "season_steps": grid.season_steps,
        **({"covariates": target.covariates} if target.covariates else {}),
        "primary_score": about["primary_score"],
    }
    zone = inspected.source.get("time_zone", "UTC")
    if is_date_step(grid.every) and (lag_s := get_zone_lag_s(inspected.rows["event_time"], zone)):
        draft.add_value(
            ("about", "publish_delay_s"),
            int(lag_s),
            f"a day of {zone} ends so much later than the day of the grid, which is UTC's",
        )
    for key in ("every", "calendar", "season_steps"):
        draft.reasons["about", key] = grid.reasons[key]
    if inspected.integer_time:
        draft.reasons["about", "integer_time"] = inspected.reasons.get(
            "time_column", "the columns are steps; series are aligned at their last value"
        )
    if target.covariates:
        draft.reasons["about", "covariates"] = "`past` are known up to the cutoff only" + (
            f"; left out: {', '.join(target.left_out)}" if target.left_out else ""
        )
    if target.left_out:
        draft.facts.append(
            f"Columns that no feature reads: {', '.join(target.left_out)}. Add those that help to"
            " about.covariates and features.list."
        )


def _add_ingest(
    inspected: InspectedFiles,
    answers: OwnerAnswers,
    caps: dict[str, int],
    capped_grid: DetectedGrid,
    draft: EntryDraft,
) -> None:
    """Set the section `ingest`."""
    source = {
        "kind": "files",
        "files": [answers.pattern],
        **{k: v for k, v in inspected.source.items() if k != "kind"},
        **caps,
    }
    draft.entry["ingest"] = {"source": source}
    for key, reason in inspected.reasons.items():
        if key in source:
            draft.reasons["ingest", "source", key] = reason
    if "max_rows_per_series" in caps:
        reason = (
            f"the newest; {capped_grid.n_series} series of that many rows train in about a minute on 2"
            " cores. Raise it when you have the time"
        )
        draft.reasons["ingest", "source", "max_rows_per_series"] = reason
        draft.facts.append(
            f"Capped: the newest {caps['max_rows_per_series']} rows of each series are used"
            " (ingest.source.max_rows_per_series)."
        )
    if "max_series" in caps:
        draft.reasons["ingest", "source", "max_series"] = (
            "more would take longer than about a minute; raise it when you have the time"
        )
        draft.facts.append(
            f"Capped: the first {caps['max_series']} series by name are used (ingest.source.max_series)."
        )
