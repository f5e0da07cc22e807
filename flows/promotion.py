"""Run the gate and apply its decision."""

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE

from flows._stages import LIMIT_S, StageRun, build_run_namer, run_flow_stage
from tasks.core.reports.promote import GateDecision
from tasks.edges.approvals import list_requests
from tasks.edges.mlflow_delivery import publish_runs
from tasks.edges.params import read_dataset, read_params
from tasks.edges.run_stage import delete_unused_cache
from tasks.edges.settings import ROOT, read_settings
from tasks.promote.apply import apply_decision
from tasks.promote.params import PromoteParams


@flow(
    name="promotion",
    flow_run_name=build_run_namer("promotion"),
    persist_result=True,
    result_serializer="json",
)
def promotion(limit_s: float = LIMIT_S) -> list[StageRun]:
    """Decide whether the challenger becomes champion, on rows that neither has seen, and apply it.

    The stage applies it to this checkout's own registry. Only this flow changes a shared registry,
    after checking that the release's bytes and the champion are still those of the decision, so
    that an old checkout cannot change production. With `promote.approval: required` the decision is
    applied by the run of this flow after the approval, or by `tidemill approve` itself; nothing
    waits in a run.
    """
    done = [run_flow_stage("promote", limit_s)]
    if read_settings().mlflow_uri or read_params("promote", PromoteParams).approval == "required":
        _apply()
    if delete_unused_cache():
        get_run_logger().info(
            "DVC's cache was above TIDEMILL_KEEP_CACHE_MB; removed what no current artifact needs"
        )
    return done


@task(
    name="apply", task_run_name="apply", persist_result=True, result_serializer="json", cache_policy=NO_CACHE
)
def _apply() -> str | None:
    champion = apply_decision(ROOT / GateDecision.PATH)
    get_run_logger().info("Champion: %s", champion.version if champion else "as before")
    for request in list_requests(read_dataset()):
        if request.state == "waiting":
            get_run_logger().info("%s waits for `tidemill approve`", request.digest[:12])
    publish_runs()
    return champion.digest if champion else None
