"""How right the champion's forecasts turned out to be."""

from prefect import flow

from flows._stages import LIMIT_S, StageRun, run_flow_stage


@flow(name="monitoring", persist_result=True, result_serializer="json")
def monitoring(limit_s: float = LIMIT_S) -> list[StageRun]:
    """Join the champion's own forecasts with the outcomes: error, coverage, drift of the
    inputs.
    """
    return [run_flow_stage("monitor", limit_s)]
