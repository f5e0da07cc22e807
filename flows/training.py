"""Run all stages from the source to a sealed challenger."""

from prefect import flow, get_run_logger

from flows._stages import LIMIT_S, StageRun, build_run_namer, run_flow_stage
from tasks.core.reports.retrain import Recipe
from tasks.edges.params import read_dataset
from tasks.edges.recipe import write_recipe

STAGES = ("ingest", "validate", "features", "train", "ensemble", "explain", "quantize", "package")


@flow(
    name="training", flow_run_name=build_run_namer("training"), persist_result=True, result_serializer="json"
)
def training(reason: str = "asked for", limit_s: float = LIMIT_S, recipe: Recipe = "full") -> list[StageRun]:
    """Rebuild every stage up to the packaged challenger.

    It begins with the source as it is now: files that have come under a glob, a feed's newest
    window. Promotion is another flow, with its own gate.
    reason: why it runs, shown with the run.
    limit_s: seconds that one stage may take.
    recipe: `full` as params.yaml says; `window` and `search` as in the decision of `retrain`.
    """
    from tasks.ingest.wizard.use import (
        update_source,  # with polars, which the deployment's pull does not need
    )

    get_run_logger().info("Training (%s): %s", recipe, reason)
    if update_source():
        get_run_logger().info("The source has other files, or a newer window, than the last training had")
    write_recipe(read_dataset(), recipe)
    return [run_flow_stage(name, limit_s) for name in STAGES]
