"""Measure the champion's forecasts against their outcomes."""

from prefect import flow

from flows._stages import LIMIT_S, StageRun, build_run_namer, run_flow_stage


@flow(
    name="monitoring",
    flow_run_name=build_run_namer("monitoring"),
    persist_result=True,
    result_serializer="json",
)
def monitoring(limit_s: float = LIMIT_S) -> list[StageRun]:
    """Measure error and coverage of the champion's own forecasts, and the drift of the inputs."""
    return [run_flow_stage("monitor", limit_s)]
