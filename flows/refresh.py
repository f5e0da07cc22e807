"""Bring the newest rows to the service and the monitor, and decide whether to retrain."""

from collections.abc import Callable
from typing import TypeVar

from prefect import Task, flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff

from flows._artifacts import build_artifact_key
from flows._events import RetrainDue, RolloutMoved, RowsRefreshed, publish_event
from flows._stages import LIMIT_S, StageRun, build_run_namer, run_flow_stage
from tasks.core.reports.retrain import RetrainDecision
from tasks.edges.current import find_report
from tasks.edges.params import read_dataset
from tasks.edges.refreshed import RefreshReport
from tasks.edges.rollouts import find_active_rollout

Result = TypeVar("Result")


@flow(
    name="refresh",
    flow_run_name=build_run_namer("refresh"),
    persist_result=True,
    result_serializer="json",
)
def refresh(limit_s: float = LIMIT_S) -> list[StageRun]:
    """Publish the rows that the source has now, measure the champion, decide on retraining.

    Nothing is trained. A rollout that is active is judged last. Emits `tidemill.rows.refreshed` for
    new rows, `tidemill.retrain.due`, which starts the deployment `retraining`, and
    `tidemill.rollout.moved`.
    """
    done = RefreshReport.model_validate(_refresh())
    if done.is_changed:
        figures = {name: getattr(done, name) for name in RowsRefreshed.model_fields}
        publish_event(RowsRefreshed(**figures))
    stages = [run_flow_stage("monitor", limit_s), run_flow_stage("retrain", limit_s)]
    decision = find_report(RetrainDecision, read_dataset())
    if decision is not None and decision.due:
        figures = {name: getattr(decision, name) for name in RetrainDue.model_fields}
        publish_event(RetrainDue(**figures))
    if find_active_rollout(read_dataset()) is not None and (moved := _judge()) is not None:
        publish_event(RolloutMoved.model_validate(moved))
    return stages


def _build_task(name: str, retry_on: str) -> Callable[[Callable[..., Result]], Task[..., Result]]:
    """A decorator. retry_on: the name of the error after which the task is tried again."""
    return task(
        name=name,
        task_run_name=name,
        persist_result=True,
        result_serializer="json",
        cache_policy=NO_CACHE,
        retries=2,
        retry_delay_seconds=exponential_backoff(backoff_factor=4),
        retry_condition_fn=lambda _task, _run, state: retry_on in (state.message or ""),
    )


@_build_task("rollout", "RolloutError")  # an operator has moved it meanwhile
def _judge() -> dict[str, object] | None:
    """Returns a RolloutMoved as plain data, since Prefect stores JSON; None when nothing moved."""
    from tasks.rollout.stage import judge_rollout  # with onnxruntime, which most refreshes do not need

    judgement = judge_rollout(report=get_run_logger().info)
    if judgement is None or judgement.action == "wait":
        return None
    rollout = judgement.rollout
    moved = RolloutMoved(
        dataset=rollout.dataset,
        as_of=rollout.moved_as_of,
        challenger=rollout.challenger,
        action=judgement.action,
        weight=rollout.weight,
        reason=judgement.reason,
    )
    return moved.model_dump(mode="json")


@_build_task("refresh", "OSError")
def _refresh() -> dict[str, object]:
    """Returns a RefreshReport as plain data, since Prefect stores JSON."""
    from tasks.refresh.stage import refresh_rows  # with Delta, which the deployment's pull does not need

    done = refresh_rows(report=get_run_logger().info)
    figures = done.model_dump(mode="json", exclude={"key", "by_rule"}) | done.by_rule
    create_table_artifact(
        key=build_artifact_key("refresh", "table"),
        table=[{"figure": name, "value": str(value)} for name, value in figures.items()],
        description="The rows that the service and the monitor have now.",
    )
    plain: dict[str, object] = done.model_dump(mode="json")
    return plain
