"""The models and the walk that scores them: `models`, `train`, `promote` and `retrain`."""

from tasks.ingest.wizard.decide import budget
from tasks.ingest.wizard.decide.draft import EntryDraft
from tasks.ingest.wizard.inspect.grid import DetectedGrid


def add_models(
    grid: DetectedGrid, windows: list[int], walk: budget.WalkForwardBudget, draft: EntryDraft
) -> None:
    """Set the section `models`: baselines, linear models, trees and a net."""
    season = grid.season_steps
    mean_steps = season if season in windows else windows[min(1, len(windows) - 1)]
    draft.add_value(
        ("models", "last_value"), {}, "a baseline that a first release must beat: the last value again"
    )
    draft.add_value(
        ("models", "window_mean"), {"window_steps": mean_steps}, f"a baseline: the mean of {mean_steps} steps"
    )
    if season > 1:
        draft.add_value(("models", "seasonal_naive"), {}, f"a baseline: the value {season} steps before")
    draft.add_value(
        ("models", "har"), {"windows_steps": sorted({1, *windows})}, "regression on the means at these spans"
    )
    draft.add_value(("models", "ridge"), {}, "pooled over the series; the one to beat")
    draft.add_value(
        ("models", "lightgbm"),
        {"max_rows": budget.LIGHTGBM_ROWS},
        "trees on the residuals of ridge; so many pairs of origin and step are drawn evenly from the history,"
        " for about a second a fit",
    )
    if walk.net:
        draft.add_value(("models", "mlp"), {}, "a small net, about a second a fit")
    else:
        draft.facts.append("No net among the models: the history is too short for one.")


def add_walk_forward(
    walk: budget.WalkForwardBudget, grid: DetectedGrid, capped_grid: DetectedGrid, draft: EntryDraft
) -> None:
    """Set the sections `train`, `promote` and `retrain`. capped_grid: of the rows that are kept."""
    draft.add_value(
        ("train", "n_cutoffs"),
        walk.n_cutoffs,
        f"as many as {capped_grid.n_steps} steps and {capped_grid.n_series} series allow without writing more"
        " forecasts than needed",
    )
    off_season = (
        ", and no multiple of the season, so that cutoffs fall on all hours"
        if grid.season_steps > 1 and walk.stride_steps > 1
        else ""
    )
    draft.add_value(
        ("train", "stride_steps"),
        walk.stride_steps,
        f"spreads them over what is left of the history{off_season}",
    )
    draft.add_value(
        ("train", "refit_every_cutoffs"),
        walk.refit_every_cutoffs,
        f"{walk.n_refits} refits at about {walk.refit_s:.1f} s each on one core for all models",
    )
    draft.add_value(("train", "min_train_steps"), walk.min_train_steps, "history before the first cutoff")
    draft.add_value(("train", "embargo_steps"), 0, "no sign of late corrections in a file")
    draft.add_value(
        ("promote", "gate_steps"),
        walk.gate_steps,
        "the newest steps, which no fit or weight sees;"
        f" {walk.gate_steps - draft.entry['about']['horizon_steps']} cutoffs in them are known to the last"
        " step",
    )
    draft.add_value(("promote", "min_gate_rows"), walk.min_gate_rows, "fewer paired cutoffs decide nothing")
    draft.add_value(
        ("retrain", "max_age_steps"),
        walk.max_age_steps,
        "the greatest age of a fit in the walk-forward that scored it",
    )
    draft.facts.append(
        f"Walk-forward: {walk.n_cutoffs} cutoffs every {walk.stride_steps} steps, {walk.n_refits} refits; the"
        f" gate has the newest {walk.gate_steps} steps."
    )
    if walk.min_gate_rows < 30:
        draft.facts.append(
            "The gate's rows are few: unless a model is much better than the baseline, the verdict of"
            " promote will be *inconclusive*."
        )
