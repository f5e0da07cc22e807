"""The plan of a walk, before it starts: logged, and written next to the forecasts.

Nothing in it changes from run to run.
"""

from typing import NamedTuple

import numpy as np

from tasks.core.folds import Fold, WalkForward
from tasks.core.panel import Panel
from tasks.core.reports.train import FoldPlan, PlanReport
from tasks.train.params import ModelTraining


class FitPlan(NamedTuple):
    """The fits of a walk and what they serve.

    folds: ascending.
    origins: as of which something is fitted, the most wanted first (`warm`: ascending).
    n_rows: of each of *origins*, how many rows its window holds.
    last_origin: that of seen_until, as of which the shipped fit is made.
    refit: as in ModelTraining.
    """

    folds: list[Fold]
    origins: list[int]
    n_rows: list[int]
    last_origin: int
    refit: str

    def get_fit_origin(self, fold: Fold) -> int:
        """The origin as of which the fit was made that serves *fold*."""
        return self.folds[0].fit_at if self.refit == "frozen" else fold.fit_at

    def count_left_out(self, done: set[int]) -> int:
        """Cutoffs without forecasts, since no fit as of one of *done* serves them."""
        return sum(len(f.origins) for f in self.folds if self.get_fit_origin(f) not in done)

    @property
    def release_cutoff(self) -> int:
        """The origin of the fit that is shipped and forecasts the gate's rows."""
        return self.folds[0].fit_at if self.refit == "frozen" else self.last_origin


def plan_fits(
    panel: Panel, folds: list[Fold], walk: WalkForward, last_origin: int, training: ModelTraining
) -> FitPlan:
    """Which fits *folds* and the release need.

    Of independent ones the newest come first, since a budget takes the last.
    """
    every = (
        [folds[0].fit_at] if training.refit == "frozen" else sorted({f.fit_at for f in folds} | {last_origin})
    )
    origins = every if training.refit == "warm" else every[::-1]
    known = np.isfinite(panel.x[:, :, panel.schema.index(panel.schema.last)]).sum(axis=1)
    n_before = np.concatenate([[0], np.cumsum(known)])
    n_rows = [int(n_before[origin + 1] - n_before[get_window_start(origin, walk)]) for origin in origins]
    return FitPlan(folds, origins, n_rows, last_origin, training.refit)


def get_window_start(origin: int, walk: WalkForward) -> int:
    """The first origin that a fit as of *origin* learns from."""
    return 0 if walk.window_steps is None else max(0, origin + 1 - walk.window_steps)


def describe_plan(plan: FitPlan, panel: Panel, walk: WalkForward) -> str:
    """The plan as a sentence."""
    first, last = panel.cutoff[int(plan.folds[0].origins[0])], panel.cutoff[plan.last_origin]
    window = "all that is known" if walk.window_steps is None else f"the last {walk.window_steps} steps"
    return (
        f"{walk.n_cutoffs} cutoffs from {first:%F} to {last:%F} in {len(plan.folds)} folds,"
        f" {len(panel.series_ids)} series; {len(plan.origins)} fits ({plan.refit}) on {window},"
        f" {min(plan.n_rows)} to {max(plan.n_rows)} rows, embargo {walk.embargo_steps} steps"
    )


def build_plan_report(plan: FitPlan, panel: Panel, walk: WalkForward, done: set[int]) -> PlanReport:
    """The plan as plan.json.

    done: origins as of which a fit is made; folds without one were left out when the budget ended.
    """
    n_rows = dict(zip(plan.origins, plan.n_rows, strict=True))
    return PlanReport(
        refit=plan.refit,
        n_steps=len(panel.event_time),
        n_series=len(panel.series_ids),
        horizon_steps=panel.schema.horizon_steps,
        n_fits=len(plan.origins),
        n_cutoffs=walk.n_cutoffs,
        n_cutoffs_left_out=plan.count_left_out(done),
        seen_until=panel.cutoff[plan.last_origin],
        last_origin=plan.last_origin,
        release_origin=plan.release_cutoff,
        walk=WalkForward(**walk.model_dump(include=set(WalkForward.model_fields))),
        folds=tuple(
            FoldPlan(
                fit_at=panel.cutoff[(origin := plan.get_fit_origin(fold))],
                learns_from=panel.event_time[get_window_start(origin, walk)],
                n_rows=n_rows[origin],
                first_cutoff=panel.cutoff[int(fold.origins[0])],
                last_cutoff=panel.cutoff[int(fold.origins[-1])],
                n_cutoffs=len(fold.origins),
                fit_origin=origin,
                first_origin=int(fold.origins[0]),
                last_origin=int(fold.origins[-1]),
                done=origin in done,
            )
            for fold in plan.folds
        ),
    )
