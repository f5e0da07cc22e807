"""Decide whether retraining is due, and start it."""

from prefect import flow

from flows._stages import LIMIT_S, StageRun, build_run_namer, run_flow_stage
from flows.promotion import promotion
from flows.training import training
from tasks.core.reports.retrain import RetrainDecision
from tasks.edges.current import find_report
from tasks.edges.params import read_dataset
from tasks.edges.registry import read_champion
from tasks.retrain.journal import write_end, write_start


@flow(
    name="retraining",
    flow_run_name=build_run_namer("retraining"),
    persist_result=True,
    result_serializer="json",
)
def retraining(start: bool = True, reason: str | None = None, limit_s: float = LIMIT_S) -> list[StageRun]:
    """Decide whether retraining is due; when it is, train and promote, with the reason.

    start: False only decides.
    reason: of a person who wants it now, whatever is decided.
    Each start and what it brought is a line in TIDEMILL_HOME/retrain/<dataset>.jsonl.
    """
    done = [run_flow_stage("retrain", limit_s)]
    # `tidemill use` may have come in between
    dataset = read_dataset()
    decision = find_report(RetrainDecision, dataset)
    if decision is None or not start or not (decision.due or reason):
        return done
    started = write_start(decision, reason, _find_digest(dataset))
    done += [*training(reason=started.reason, limit_s=limit_s), *promotion(limit_s=limit_s)]
    write_end(dataset, started, _find_digest(dataset))
    return done


def _find_digest(dataset: str) -> str | None:
    champion = read_champion(dataset)
    return None if champion is None else champion.digest
