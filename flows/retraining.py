"""Decide whether retraining is due, and start it."""

from prefect import flow

from flows._stages import LIMIT_S, StageRun, build_run_namer, run_flow_stage
from flows.promotion import promotion
from flows.training import training
from tasks.core.reports.retrain import RetrainDecision
from tasks.edges.current import find_report
from tasks.edges.params import read_dataset


@flow(
    name="retraining",
    flow_run_name=build_run_namer("retraining"),
    persist_result=True,
    result_serializer="json",
)
def retraining(start: bool = True, limit_s: float = LIMIT_S) -> list[StageRun]:
    """Decide whether retraining is due; when it is, train and promote, with the reason.

    start: False only decides.
    """
    done = [run_flow_stage("retrain", limit_s)]
    # `tidemill use` may have come in between
    decision = find_report(RetrainDecision, read_dataset())
    if decision is not None and decision.due and start:
        return [
            *done,
            *training(reason=decision.reason, limit_s=limit_s),
            *promotion(limit_s=limit_s),
        ]
    return done
