"""Bring the newest rows to the service and the monitor, and decide whether to retrain."""

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event
from prefect.tasks import exponential_backoff

from flows._artifacts import build_artifact_key
from flows._stages import LIMIT_S, StageRun, build_run_namer, run_flow_stage
from tasks.core.reports.retrain import RetrainDecision
from tasks.edges.current import find_report
from tasks.edges.params import read_dataset
from tasks.edges.refreshed import RefreshReport

ROWS_REFRESHED, RETRAIN_DUE = "tidemill.rows.refreshed", "tidemill.retrain.due"


@flow(
    name="refresh",
    flow_run_name=build_run_namer("refresh"),
    persist_result=True,
    result_serializer="json",
)
def refresh(limit_s: float = LIMIT_S) -> list[StageRun]:
    """Publish the rows that the source has now, measure the champion, decide on retraining.

    Nothing is trained. Emits `tidemill.rows.refreshed` for new rows, and `tidemill.retrain.due`,
    which starts the deployment `retraining`.
    """
    done = RefreshReport.model_validate(_refresh())
    resource = {"prefect.resource.id": f"tidemill.dataset.{done.dataset}"}
    if done.is_changed:
        emit_event(ROWS_REFRESHED, resource, payload=done.model_dump(mode="json", exclude={"key"}))
    stages = [run_flow_stage("monitor", limit_s), run_flow_stage("retrain", limit_s)]
    decision = find_report(RetrainDecision, read_dataset())
    if decision is not None and decision.due:
        emit_event(RETRAIN_DUE, resource, payload={"reason": decision.reason, "as_of": str(decision.as_of)})
    return stages


@task(
    name="refresh",
    task_run_name="refresh",
    persist_result=True,
    result_serializer="json",
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=exponential_backoff(backoff_factor=4),
    retry_condition_fn=lambda _task, _run, state: "OSError" in (state.message or ""),
)
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
