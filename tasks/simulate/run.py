"""One policy from the first training to the end of the history, tick by tick.

A tick is what a refresh does in the real loop: look at the champion, decide, and when a training
starts, let the gate decide on its challenger. A release answers from the cutoff after its tick on,
since a training takes time.
"""

from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

import polars as pl

from tasks.core.calendar import parse_step_length
from tasks.core.reports.monitor import AnswerCounts, MonitorKey, MonitorReport, OutcomeFigures, ServedFigures
from tasks.core.reports.promote import GateDecision, GateKey
from tasks.core.reports.retrain import RetrainDecision
from tasks.core.reports.simulate import SimulatedTick
from tasks.edges.champions import ChampionRecord, build_champion
from tasks.edges.release_files import ReleaseIdentity
from tasks.monitor.champion import build_monitored_champion
from tasks.monitor.params import MonitorParams
from tasks.monitor.rows import compute_span
from tasks.monitor.scheduled import count_max_cutoffs, select_cutoffs
from tasks.monitor.stage import build_monitor_result
from tasks.promote.earlier_gates import EarlierGate, build_earlier_gate
from tasks.promote.params import PromoteParams
from tasks.release import Release
from tasks.retrain.journal import Retraining, RetrainRequest, build_start
from tasks.retrain.params import RetrainParams
from tasks.retrain.stage import decide_retraining
from tasks.simulate.policy import Policy
from tasks.simulate.store import StateStore
from tasks.simulate.training import SimulatedTraining

_NO_FIGURES = OutcomeFigures(
    n_steps=0, n_open=0, n_seen=0, n_known=0, n_late=0, n_corrected=0, loss=None, mae=None, bias=None,
    coverage_frac=None,
)  # fmt: skip
# Nothing is served in a simulation, and served forecasts decide nothing
_NOT_SERVED = ServedFigures(
    answers=AnswerCounts(n_answers=0, n_news=0, n_as_of=0, n_own_history=0, n_unmarked=0),
    overall=_NO_FIGURES,
    by_digest=(),
)


class PolicyRun(NamedTuple):
    """What one policy did.

    ticks: all looks at the champion.
    trainings: those after the first.
    forecasts: FORECAST with digest, of every cutoff after the first training, by the champion of
      that time.
    """

    policy: Policy
    ticks: tuple[SimulatedTick, ...]
    trainings: tuple[SimulatedTraining, ...]
    forecasts: pl.DataFrame


class _LoopState:
    """The registry and the journals of one simulated loop, in memory."""

    def __init__(self, store: StateStore) -> None:
        self.store, self.dataset = store, store.history.document.dataset
        self.promotions: list[ChampionRecord] = []
        self.retrainings: list[Retraining] = []
        self.earlier_gates: list[EarlierGate] = []
        self.last_decision: GateDecision | None = None
        self.release: Release | None = None

    @property
    def champion(self) -> ChampionRecord:
        """The champion; there is one after the first training."""
        return self.promotions[-1]

    def run_gate(self, training: SimulatedTraining, as_of: datetime) -> GateDecision:
        """Train, let the gate decide, apply the decision."""
        verdict = self.store.decide(training, self.release, self.earlier_gates)
        challenger, baseline = (
            self.store.load_trained(training, role) for role in ("challenger", "baseline")
        )
        params = self.store.history.document.parse_stage("promote", PromoteParams)
        decision = GateDecision(
            **dict(verdict),
            dataset=self.dataset,
            key=GateKey(
                challenger=_get_digest(challenger),
                baseline=_get_digest(baseline),
                rows=challenger.ensemble.data_version,
                params=params.gate_key,
            ),
            as_of=as_of,
            applied=verdict.winner_digest is not None,
        )
        if (gate := build_earlier_gate(decision, decision.key)) is not None:
            self.earlier_gates.append(gate)
        if decision.applied:
            former = None if self.release is None else _build_identity(self.release)
            self.release = baseline if decision.decision == "baseline" else challenger
            identity = _build_identity(self.release)
            self.promotions.append(build_champion(identity, decision, self.promotions, former))
        self.last_decision = decision
        return decision


def run_policy(
    policy: Policy, store: StateStore, start: int, every_steps: int, report: Callable[[str], None]
) -> PolicyRun:
    """Simulate *policy* from the cutoff *start* (a position) on.

    every_steps: steps between two ticks.
    report: called with a line for each training that starts.
    """
    history, state = store.history, _LoopState(store)
    end = len(history.cutoffs)
    ticks: list[SimulatedTick] = []
    trainings: list[SimulatedTraining] = []
    frames: list[pl.DataFrame] = []
    for position in range(start, end, every_steps):
        as_of = history.cutoffs[position]
        if position == start:
            decision = state.run_gate(SimulatedTraining(position), as_of)
            ticks.append(_build_first_tick(state, decision))
        else:
            passed_steps = position - (trainings[-1].position if trainings else start)
            tick = build_tick(state, position, policy, passed_steps)
            if tick.verdict is not None:
                trainings.append(SimulatedTraining(position, tick.recipe))
                report(f"{policy.name}: {as_of:%F}: {tick.reason}: {tick.verdict}")
            ticks.append(tick)
        assert state.release is not None
        frames.append(store.read_forecasts(state.release, position + 1, min(position + every_steps, end - 1)))
    return PolicyRun(policy, tuple(ticks), tuple(trainings), pl.concat(frames))


def build_tick(state: _LoopState, position: int, policy: Policy, passed_steps: int) -> SimulatedTick:
    """Look at the champion, decide, and train where the policy says so.

    passed_steps: steps since the last training.
    """
    monitored = build_monitor_report(state, position)
    decision = decide(state, monitored)
    reason = policy.find_reason(passed_steps)
    assert monitored.champion is not None
    recipe = decision.recipe if policy.is_decided else "full"
    tick = SimulatedTick(
        as_of=monitored.as_of,
        digest=monitored.champion.digest,
        version=monitored.champion.version,
        age_steps=monitored.champion.age_steps,
        error_ratio=monitored.champion.error_ratio,
        coverage_frac=monitored.champion.coverage_frac,
        n_blocks=monitored.n_blocks,
        alarms=tuple(level.name for level in monitored.service_levels if level.is_degraded),
        n_alarmed=0 if monitored.drift is None else monitored.drift.n_alarmed,
        is_drifting=monitored.drift is not None and monitored.drift.is_drifting,
        due=decision.due,
        triggers=decision.triggers,
        reason=reason or decision.reason,
        recipe=recipe,
    )
    if not (reason or (policy.is_decided and decision.due)):
        return tick
    before = state.champion.digest
    request = None if reason is None else RetrainRequest(by="schedule", reason=reason)
    started = build_start(decision, request, before, state.store.history.cutoffs[position])
    verdict = state.run_gate(SimulatedTraining(position, recipe), monitored.as_of)
    ended = {"ended_at": started.started_at, "new_digest": state.champion.digest}
    state.retrainings.append(started.model_copy(update=ended))
    return tick.model_copy(update={"verdict": verdict.decision, "gain_frac": verdict.gain_frac})


def decide(state: _LoopState, monitored: MonitorReport) -> RetrainDecision:
    """The decision of the stage `retrain`, with the simulated retrainings as its journal."""
    history = state.store.history
    return decide_retraining(
        monitored,
        history.document.parse_stage("retrain", RetrainParams),
        parse_step_length(history.about.every),
        state.retrainings,
        has_search=any(
            "search" in history.document.get_model_params(m) for m in history.document.list_models()
        ),
    )


def build_monitor_report(state: _LoopState, position: int) -> MonitorReport:
    """The report of the stage `monitor` at a cutoff, from the rows known by it."""
    history, champion, release = state.store.history, state.champion, state.release
    assert release is not None
    assert release.manifest is not None
    params = history.document.parse_stage("monitor", MonitorParams)
    rows = history.select_known(history.cutoffs[position])
    span, forecasts = compute_span(rows.lazy(), history.about, history.calendar), []
    for since, end in ((champion.seen_until, champion.promoted_as_of), (champion.promoted_as_of, None)):
        cutoffs = select_cutoffs(span, history.calendar, since, params.max_cutoffs, end)
        judged = cutoffs[-count_max_cutoffs(release, len(span.series_ids)) :]
        if judged:
            first, last = (history.cutoffs.index(cutoff) for cutoff in (judged[0], judged[-1]))
            forecasts.append(state.store.read_forecasts(release, first, last))
    report, _ = build_monitor_result(
        pl.concat(forecasts),
        rows,
        history.about,
        history.calendar,
        build_monitored_champion(champion, release.manifest.as_of, state.last_decision),
        params,
        history.document.parse_stage("retrain", RetrainParams),
        _NOT_SERVED,
        MonitorKey(dataset=state.dataset, rows="", champion=None, params=params.model_dump()),
    )
    return report


def _build_first_tick(state: _LoopState, decision: GateDecision) -> SimulatedTick:
    return SimulatedTick(
        as_of=decision.as_of,
        digest=state.champion.digest,
        version=state.champion.version,
        age_steps=0,
        error_ratio=None,
        coverage_frac=None,
        n_blocks=0,
        alarms=(),
        n_alarmed=0,
        is_drifting=False,
        due=False,
        triggers=(),
        reason="the first training",
        verdict=decision.decision,
        gain_frac=decision.gain_frac,
    )


def _build_identity(release: Release) -> ReleaseIdentity:
    assert release.manifest is not None
    return ReleaseIdentity.model_validate(release.manifest.model_dump())


def _get_digest(release: Release) -> str:
    return _build_identity(release).digest
