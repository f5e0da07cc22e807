"""How right the champion's forecasts turned out to be."""

from typing import Any

from prefect import flow

from flows._stages import LIMIT_S, run_flow_stage


@flow(name="monitoring", persist_result=True, result_serializer="json")
def monitoring(limit_s: float = LIMIT_S) -> list[dict[str, Any]]:
    """Join the champion's own forecasts with what came true: error, coverage, drift of the
    inputs.
    """
    return [run_flow_stage("monitor", limit_s)]
