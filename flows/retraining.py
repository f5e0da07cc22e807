"""Decide whether retraining is due, and start it."""

from typing import Any, Literal

from prefect import Flow, State, flow, get_run_logger
from prefect.client.schemas.objects import FlowRun

from flows._stages import LIMIT_S, StageRun, build_run_namer, run_flow_stage
from flows.promotion import promotion
from flows.training import training
from tasks.core.reports.promote import GateDecision
from tasks.core.reports.retrain import Recipe, RetrainDecision
from tasks.edges.current import find_report
from tasks.edges.params import read_dataset
from tasks.edges.registry import read_champion
from tasks.edges.rollouts import find_active_rollout
from tasks.retrain.journal import RetrainRequest, read_retrainings, write_end, write_failure, write_start


@flow(
    name="retraining",
    flow_run_name=build_run_namer("retraining"),
    persist_result=True,
    result_serializer="json",
)
def retraining(
    start: bool = True,
    reason: str | None = None,
    by: Literal["operator", "schedule"] = "operator",
    recipe: Recipe | None = None,
    limit_s: float = LIMIT_S,
) -> list[StageRun]:
    """Decide whether retraining is due; when it is, train and promote, with the reason.

    start: False only decides.
    reason: of an operator who wants it now whatever is decided, or of a schedule, which keeps to
      cool-down and budget.
    by: whose reason it is.
    recipe: instead of the decision's.
    Each start and what it brought is a line in TIDEMILL_HOME/retrain/<dataset>.jsonl.
    """
    done = [run_flow_stage("retrain", limit_s)]
    # `tidemill use` may have come in between
    dataset = read_dataset()
    decision = find_report(RetrainDecision, dataset)
    if decision is None or not start:
        return done
    request = None if reason is None else RetrainRequest(by=by, reason=reason)
    if not decision.due and (request is None or (by == "schedule" and decision.held)):
        get_run_logger().info("Not retrained: %s", decision.held or decision.reason)
        return done
    if recipe is not None:
        decision = decision.model_copy(update={"recipe": recipe, "recipe_reason": "asked for"})
    before = _find_digest(dataset)
    if "interrupted" in decision.triggers:  # it may have promoted before it was
        before = read_retrainings(dataset)[-1].digest
    started = write_start(decision, request, before)
    try:
        done += training(reason=started.reason, limit_s=limit_s, recipe=started.recipe)
        done += promotion(limit_s=limit_s)
    except Exception as error:
        write_failure(dataset, started, str(error).partition("\n")[0])
        raise
    gate = find_report(GateDecision, dataset)
    verdict = "none" if gate is None else f"{gate.decision}: {gate.reason}"
    rollout = find_active_rollout(dataset)  # of its release, if it passed; its end is not waited for
    write_end(dataset, started, rollout.challenger if rollout else _find_digest(dataset), verdict)
    return done


@retraining.on_cancellation
def _write_cancellation(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:  # noqa: ARG001
    """What a person has cancelled is not tried again as interrupted."""
    dataset = read_dataset()
    for last in read_retrainings(dataset)[-1:]:
        if last.ended_at is None:
            write_failure(dataset, last, "cancelled")


def _find_digest(dataset: str) -> str | None:
    champion = read_champion(dataset)
    return None if champion is None else champion.digest
