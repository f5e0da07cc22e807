"""`tidemill backtest`: a kept release, frozen, over a range that it has not seen."""

from collections.abc import Callable

from deployments.forecaster.job_requests import BacktestJob
from deployments.ops.forecast import parse_option_time
from deployments.ops.job_kinds import JobInput, JobResult, run_backtest
from tasks.core.frames import SERIES
from tasks.edges.artifacts import read_frame
from tasks.edges.registry import get_rows_path
from tasks.release import load_release
from tasks.release.kept import get_kept_release


def backtest_release(
    dataset: str,
    version: str,
    first: str | None,
    last: str | None,
    stride_steps: int,
    report: Callable[[str], None],
) -> JobResult:
    """Scores of the release *version* over the published rows after its `seen_until`.

    It is the job `backtest` of the service, of any kept release. first, last: ISO 8601.
    Raises ReleaseError when the release is not kept, ParamsError for what is no time.
    """
    record, folder = get_kept_release(dataset, version)
    release = load_release(folder)
    path = get_rows_path(dataset)
    rows = read_frame(path, SERIES) if path.exists() else release.rows
    start, end = (
        None if text is None else parse_option_time(option, text).isoformat()
        for option, text in (("--from", first), ("--to", last))
    )
    asked = BacktestJob(kind="backtest", first=start, last=end, stride_steps=stride_steps)
    result = run_backtest(
        JobInput(release, rows),
        asked,
        lambda n_done, n_total, unit: report(f"{n_done:,} of {n_total:,} {unit}"),
    )
    model = {"version": record.version, "digest": record.digest, "name": record.model}
    return result._replace(head={"dataset": dataset, "model": model, **result.head})
