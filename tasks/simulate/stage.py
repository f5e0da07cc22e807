"""The simulation in one screen: every policy over the same history, then their outcomes."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import polars as pl

from tasks.core.frames import SERIES, UTC, FrameSchema, get_newest_known_at
from tasks.core.kinds import get_kind
from tasks.core.reports.simulate import PolicyResult, SimulationReport
from tasks.edges.artifacts import read_frame, write_frame, write_report
from tasks.edges.current import find_rows
from tasks.edges.files import hold_lock
from tasks.edges.params import read_document
from tasks.edges.settings import ROOT, read_settings
from tasks.promote.params import PromoteParams
from tasks.simulate.history import ReplayedHistory
from tasks.simulate.outcome import compare_policies
from tasks.simulate.policy import DEFAULT_POLICIES, parse_policies
from tasks.simulate.run import run_policy
from tasks.simulate.store import StateStore

LOSSES = FrameSchema(
    "simulated losses",
    {"policy": pl.String, "cutoff": UTC, "loss": pl.Float64, "coverage_frac": pl.Float64},
    ("policy", "cutoff"),
)


def simulate_policies(
    names: tuple[str, ...] = DEFAULT_POLICIES,
    since: datetime | None = None,
    every_steps: int = 5,
    root: Path = ROOT,
    report: Callable[[str], None] = print,
) -> SimulationReport:
    """Replay the current dataset's history under each policy, and write the result.

    names: of the policies.
    since: first simulated time; None for the earliest.
    every_steps: steps between two looks at the champion.
    report: called with lines of progress.
    Nothing outside TIDEMILL_HOME/simulate is changed, except that fits are kept for reuse.
    Raises ParamsError for an unknown policy or a history that is too short, LeakError when a
    feature knows the future.
    """
    policies, document = parse_policies(names), read_document(root)
    folder = get_simulation_folder(document.dataset)
    rows = read_frame(find_rows(document.dataset, root), SERIES)
    with hold_lock(folder / "lock", lambda holder: report(f"waiting for the simulation of process {holder}")):
        history = ReplayedHistory(document, rows, root)
        start = history.find_start(since)
        n_steps = len(history.cutoffs) - 1 - start
        report(f"{n_steps} steps from {history.cutoffs[start]:%F}, a tick every {every_steps}")
        store = StateStore(history, folder / "state", report)
        runs = [run_policy(policy, store, start, every_steps, report) for policy in policies]
        seconds = [round(sum(map(store.get_seconds, run.trainings)), 1) for run in runs]
        outcomes = compare_policies(history, runs, seconds)
        alpha = document.parse_stage("promote", PromoteParams).alpha
        best, cheapest = select_best(outcomes.results), select_cheapest(outcomes.results, alpha)
        result = SimulationReport(
            dataset=document.dataset,
            since=history.cutoffs[start],
            as_of=get_newest_known_at(rows),
            n_steps=n_steps,
            every_steps=every_steps,
            primary_score=document.about.primary_score,
            level=get_kind(document.about.target).get_level(document.about),
            best=best.policy,
            cheapest=cheapest.policy,
            conclusion=format_conclusion(outcomes.results, document.about.primary_score, alpha),
            policies=outcomes.results,
        )
        write_frame(folder / "losses.parquet", outcomes.losses, LOSSES)
        write_report(folder / "report.json", result)
    return result


def get_simulation_folder(dataset: str) -> Path:
    """Where the simulations of *dataset* leave their report and their state."""
    return read_settings().home / "simulate" / dataset


def select_best(results: tuple[PolicyResult, ...]) -> PolicyResult:
    """The policy with the lowest loss; of equal ones that with the fewest trainings."""
    return min(results, key=lambda r: (float("inf") if r.loss is None else r.loss, r.n_retrainings))


def select_cheapest(results: tuple[PolicyResult, ...], alpha: float) -> PolicyResult:
    """The policy with the fewest trainings that the best one is not shown to beat at *alpha*."""
    best = select_best(results)
    beaten = {gain.opponent for gain in best.gains if gain.p is not None and gain.p <= alpha}
    return min(
        (r for r in results if r.policy not in beaten),
        key=lambda r: (r.n_retrainings, r.policy != best.policy),
    )


def format_conclusion(results: tuple[PolicyResult, ...], score: str, alpha: float) -> str:
    """Which policy has the lowest loss, by how much, and which one that suggests."""
    best, cheapest = select_best(results), select_cheapest(results, alpha)
    if best.loss is None:
        return "No outcome is known, so no policy can be compared."
    sentences = [f"`{best.policy}` has the lowest {score} loss, {best.loss:.4g}"]
    for gain in best.gains:
        if gain.gain_frac is None or gain.p is None:
            continue
        if gain.gain_frac == 0:
            sentences.append(f"the same as `{gain.opponent}`")
            continue
        doubt = "" if gain.p <= alpha else ", which may be luck"
        sentences.append(f"{gain.gain_frac:.2%} below `{gain.opponent}` (p = {gain.p:.3f}{doubt})")
    suggested = (
        f"Of the policies that it does not beat for certain, `{cheapest.policy}` trains least:"
        f" {cheapest.n_retrainings} trainings in {cheapest.compute_s:.0f} s of processor time,"
        f" `{best.policy}` {best.n_retrainings} in {best.compute_s:.0f} s."
        if cheapest.policy != best.policy
        else f"It trains {best.n_retrainings} times, in {best.compute_s:.0f} s of processor time."
    )
    return f"{'; '.join(sentences)}. {suggested}"
