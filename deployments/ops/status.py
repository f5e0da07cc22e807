"""`tidemill status`: the current dataset, its champion, the loop, the last decisions, what runs."""

from pathlib import Path
from typing import TypeVar

from deployments.ops.forecaster_process import find_served_dataset
from deployments.ops.loop_status import LoopStatus, read_loop_status
from deployments.ops.supervisor_state import read_state
from tasks.core.reports.base import IsoTime
from tasks.core.reports.ingest import IngestLedger
from tasks.core.reports.monitor import MonitorReport, MonitorVerdict
from tasks.core.reports.promote import GateDecision, Verdict
from tasks.core.reports.retrain import RetrainDecision
from tasks.core.strict import Strict
from tasks.edges.approvals import list_requests
from tasks.edges.champions import Champion
from tasks.edges.current import find_report
from tasks.edges.params import read_document
from tasks.edges.processes import is_running
from tasks.edges.registry import read_champion
from tasks.edges.rollouts import find_active_rollout
from tasks.edges.settings import ROOT, read_settings


class GateStatus(Strict):
    """What the gate decided last."""

    decision: Verdict
    reason: str
    as_of: IsoTime


class MonitorStatus(Strict):
    """What the monitor found last."""

    verdict: MonitorVerdict
    reason: str
    as_of: IsoTime


class RetrainStatus(Strict):
    """Whether retraining was due."""

    due: bool
    reason: str
    as_of: IsoTime


S = TypeVar("S", bound=Strict)  # the syntax `def f[S]` needs 3.12


class LastDecisions(Strict):
    """The last of each kind; None where the stage has not run for the dataset."""

    promote: GateStatus | None
    monitor: MonitorStatus | None
    retrain: RetrainStatus | None


class RunningPart(Strict):
    """A process of `tidemill up`. address: None where it has none."""

    pid: int
    address: str | None


class RolloutStatus(Strict):
    """A rollout that is active. weight: the challenger's share of the series."""

    challenger: str
    model: str
    state: str
    weight: float
    reason: str


class WaitingApproval(Strict):
    """A promotion that waits for a person. author: whose it is; reason: the gate's."""

    digest: str
    author: str
    reason: str
    expires_at: IsoTime | None


class CheckoutStatus(Strict):
    """State of the checkout; None where there is nothing yet.

    as_of: newest `known_at` of the data.
    approvals: what waits for a person, oldest first.
    running: by part of `tidemill up`.
    served_dataset: that the running service serves.
    loop: the loop at a glance.
    home: TIDEMILL_HOME.
    """

    dataset: str
    models: tuple[str, ...]
    as_of: IsoTime | None
    champion: Champion | None
    rollout: RolloutStatus | None
    approvals: tuple[WaitingApproval, ...]
    decisions: LastDecisions
    running: dict[str, RunningPart]
    served_dataset: str | None
    loop: LoopStatus
    home: str


def read_checkout_status(root: Path = ROOT) -> CheckoutStatus:
    """Read the status of the current dataset."""
    document = read_document(root)
    dataset = document.dataset
    record, running = read_champion(dataset), _read_running()
    ledger = find_report(IngestLedger, dataset, root)
    return CheckoutStatus(
        dataset=dataset,
        models=document.list_models(),
        as_of=None if ledger is None else ledger.as_of,
        champion=None
        if record is None
        else Champion(**record.model_dump(include=set(Champion.model_fields))),
        rollout=_copy_fields(RolloutStatus, find_active_rollout(dataset)),
        approvals=_list_waiting_approvals(dataset),
        decisions=_read_last_decisions(dataset, root),
        running=running,
        served_dataset=find_served_dataset(),
        loop=read_loop_status(document, root, is_up="worker" in running),
        home=str(read_settings().home),
    )


def _copy_fields(kind: type[S], source: object | None) -> S | None:
    """The fields of *kind* from *source*; None from None."""
    return None if source is None else kind(**{name: getattr(source, name) for name in kind.model_fields})


def _list_waiting_approvals(dataset: str) -> tuple[WaitingApproval, ...]:
    return tuple(
        WaitingApproval(
            digest=request.digest, author=request.author, reason=request.why, expires_at=request.expires_at
        )
        for request in list_requests(dataset)
        if request.state == "waiting"
    )


def _read_last_decisions(dataset: str, root: Path) -> LastDecisions:
    gate = find_report(GateDecision, dataset, root)
    monitor = find_report(MonitorReport, dataset, root)
    retrain = find_report(RetrainDecision, dataset, root)
    return LastDecisions(
        promote=GateStatus(decision=gate.decision, reason=gate.reason, as_of=gate.as_of) if gate else None,
        monitor=(
            MonitorStatus(verdict=monitor.verdict, reason=monitor.reason, as_of=monitor.as_of)
            if monitor
            else None
        ),
        retrain=(
            RetrainStatus(due=retrain.due, reason=retrain.reason, as_of=retrain.as_of) if retrain else None
        ),
    )


def _read_running() -> dict[str, RunningPart]:
    state = read_state()
    if state is None or not is_running(state.supervisor):
        return {}
    return {
        part.name: RunningPart(pid=part.pid, address=state.addresses.get(part.name))
        for part in state.parts
        if is_running(part)
    }
