"""Replay the loop over the dataset's history, and compare policies of retraining."""

from datetime import datetime

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE

from flows._artifacts import build_artifact_key
from flows._stages import build_run_namer
from tasks.simulate.policy import DEFAULT_POLICIES


@flow(
    name="simulate",
    flow_run_name=build_run_namer("simulate"),
    persist_result=True,
    result_serializer="json",
)
def simulate(
    policies: tuple[str, ...] = DEFAULT_POLICIES, since: datetime | None = None, every_steps: int = 5
) -> dict[str, float | None]:
    """Compare *policies* on the current dataset's history, as `tidemill simulate` does.

    policies, since, every_steps: of `simulate_policies`. A run that was stopped goes on where it
    was: start it again with the same parameters.
    Returns the mean loss by policy.
    """
    return _simulate(tuple(policies), since, every_steps)


@task(
    name="simulate",
    task_run_name="simulate",
    persist_result=True,
    result_serializer="json",
    cache_policy=NO_CACHE,
)
def _simulate(policies: tuple[str, ...], since: datetime | None, every_steps: int) -> dict[str, float | None]:
    # Training's libraries, which the deployment's pull does not need
    from deployments.console.pages.simulate import draw_simulation, write_simulation_page
    from tasks.simulate.stage import simulate_policies

    report = simulate_policies(policies, since, every_steps, report=get_run_logger().info)
    page, chart = write_simulation_page(report), draw_simulation(report)
    create_table_artifact(
        key=build_artifact_key("simulate", "table"),
        table=[result.model_dump(exclude={"ticks", "by_year", "gains"}) for result in report.policies],
        description=report.conclusion,
    )
    create_markdown_artifact(
        key=build_artifact_key("simulate", "chart"),
        markdown=f"![{chart.title}]({chart.address})",
        description=f"{report.conclusion} Page: {page}",
    )
    return {result.policy: result.loss for result in report.policies}
