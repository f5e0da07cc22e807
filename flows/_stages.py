"""A stage as a Prefect task of the same name, with retries, a time limit and a JSON result.

It shows a table and a chart in the UI. `run_stage` and DVC decide whether the stage must run.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypedDict

from prefect import State, Task, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import TaskRun
from prefect.tasks import exponential_backoff

from flows._artifacts import publish_artifacts
from tasks.edges.params import read_dataset
from tasks.edges.run_stage import TargetResult, run_stage

LIMIT_S = 3600.0  # forty times what the slowest stage takes on the default data; longer means that it hangs

# Failures that may not happen again: another process had DVC's repository lock (DVC waits 3 s
# only), or a signal from outside ended the stage.
_PASSING = re.compile(
    r"LockError|is busy, it is being blocked|[Uu]nable to acquire lock|exited with -\d+|ended with code -\d+"
)


class StageRun(TypedDict):
    """Whether a stage had to run, and how many seconds it took."""

    stage: str
    ran: bool
    seconds: float


class StageProgress(NamedTuple):
    """A stage has started or ended (*result*), or a model of `train` has (*model*)."""

    stage: str
    result: StageRun | None = None
    model: TargetResult | None = None


# Callbacks that show progress in this process, for example those of `tidemill run`
watchers: list[Callable[[StageProgress], None]] = []


def run_flow_stage(name: str, limit_s: float = LIMIT_S) -> StageRun:
    """Bring the stage *name* up to date and show its result.

    Raises StageError.
    """
    return _run.with_options(name=name, task_run_name=name)(name, limit_s)


def _is_passing(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Whether the failure may be gone at the next try; that of data or code stays."""
    return bool(_PASSING.search(state.message or ""))


@task(
    persist_result=True,
    result_serializer="json",
    cache_policy=NO_CACHE,
    retries=3,
    retry_delay_seconds=exponential_backoff(backoff_factor=4),
    retry_jitter_factor=0.5,
    retry_condition_fn=_is_passing,
)
def _run(name: str, limit_s: float) -> StageRun:
    _report_progress(StageProgress(name))
    done = run_stage(
        name,
        on_line=get_run_logger().info,
        limit_s=limit_s,
        on_model=lambda model: _report_progress(StageProgress(name, model=model)),
    )
    result = StageRun(stage=done.stage, ran=done.ran, seconds=round(done.seconds, 2))
    publish_artifacts(name)
    _report_progress(StageProgress(name, result))
    return result


def build_run_namer(flow: str) -> Callable[[], str]:
    """What names the runs of *flow* when they start: `<flow>/<dataset>/<time>`, UTC."""
    return lambda: f"{flow}/{read_dataset()}/{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _report_progress(progress: StageProgress) -> None:
    for watcher in watchers:
        watcher(progress)
