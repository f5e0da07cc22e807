"""Whether it is time, and then a new run: the only arrow of the map that goes up."""

from typing import Any

from prefect import flow

from flows._stages import LIMIT_S, run_flow_stage
from flows.promotion import promotion
from flows.training import training
from tasks.edges.current import read_json_of_dataset
from tasks.edges.params import read_dataset
from tasks.edges.settings import ROOT


@flow(name="retraining", persist_result=True, result_serializer="json")
def retraining(start: bool = True, limit_s: float = LIMIT_S) -> list[dict[str, Any]]:
    """Decide whether retraining is due; when it is, train and promote, with the reason. start:
    False only decides.
    """
    done = [run_flow_stage("retrain", limit_s)]
    # `tidemill use` may have come in between
    decision = read_json_of_dataset(ROOT / "data/decisions/retrain/decision.json", read_dataset())
    if decision.get("due") and start:
        return [
            *done,
            *training(reason=str(decision["reason"]), limit_s=limit_s),
            *promotion(limit_s=limit_s),
        ]
    return done
