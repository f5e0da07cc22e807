"""What each kind of job computes, on the release and the rows that it was accepted on."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import polars as pl

from deployments.forecaster.job_requests import BacktestJob, BatchJob, JobRequest
from deployments.forecaster.loaded import format_iso
from tasks.core.errors import ReleaseError, TidemillError
from tasks.core.frames import SERIES
from tasks.core.kinds import get_kind
from tasks.edges.jobs import Job
from tasks.edges.row_versions import find_rows_version
from tasks.promote.backtest import list_backtest_cutoffs, score_backtest
from tasks.release import Release, load_release, predict_cutoffs
from tasks.release.origins import build_origin_grid, convert_to_us

_N_PARTS = 20  # of a job whose progress is reported
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
Report = Callable[[int, int, str], None]


class JobResult(NamedTuple):
    """What a job leaves. head: figures of the whole. rows: a table."""

    head: Mapping[str, object]
    rows: pl.DataFrame


class JobInput(NamedTuple):
    """What a job is computed from."""

    release: Release
    rows: pl.DataFrame


def run_job(job: Job, asked: JobRequest, report: Report) -> JobResult:
    """The result of *job*. report: called with what is done, of how many, and a text.

    Raises TidemillError with the reason when there is none.
    """
    result = _RUNNERS[type(asked)](load_input(job), asked, report)
    head = {
        "job_id": job.id,
        "kind": job.kind,
        "dataset": job.dataset,
        "model": {"digest": job.release, "version": job.version},
        "rows_version": job.rows_version,
    }
    return result._replace(head={**head, **result.head})


def load_input(job: Job) -> JobInput:
    """The release and the rows of *job*. Raises ReleaseError when they are not kept any more."""
    release = load_release(Path(job.release_folder))
    manifest = release.manifest
    if manifest is None or manifest.digest != job.release:
        raise ReleaseError(
            f"{job.release_folder} is not the release {job.release} any more. Send the job again."
        )
    if manifest.files["rows.parquet"] == job.rows_version:
        return JobInput(release, release.rows)
    if (content := find_rows_version(job.dataset, job.rows_version)) is None:
        raise ReleaseError(
            f"The rows {job.rows_version} are not kept any more (TIDEMILL_KEEP_ROWS_MB). Send the job again."
        )
    return JobInput(release, SERIES.check(pl.read_parquet(content)))


def _run_batch(given: JobInput, asked: JobRequest, report: Report) -> JobResult:
    """Forecasts as of each time, as /predict answers them."""
    assert isinstance(asked, BatchJob)
    release, rows = given
    series = asked.list_series(rows["series_id"].unique().sort().to_list())
    times, parts = asked.list_times(), []
    n_done = 0
    for chunk in _split_by_origin(release, rows, times):
        origin = {cutoff: as_of for as_of, cutoff in chunk.items()}
        issued = predict_cutoffs(release, rows, list(chunk)).filter(pl.col("series_id").is_in(series))
        as_of = issued["cutoff"].replace_strict(origin, return_dtype=issued["cutoff"].dtype)
        parts.append(issued.insert_column(0, as_of.alias("as_of")))
        n_done += len(chunk)
        report(n_done, len(times), "times")
    forecasts = pl.concat(parts).sort("as_of", "series_id", "step")
    about = release.about
    head = {"target": about.target.column, "unit": about.target.unit, "n_forecasts": forecasts.height}
    return JobResult(head, forecasts)


def _split_by_origin(
    release: Release, rows: pl.DataFrame, times: Sequence[datetime]
) -> Iterator[dict[datetime, datetime]]:
    """*times* in parts, each with the cutoff of its origin; no two of a part have the same origin.

    `predict_cutoffs` answers the latest alone of several times in one step.
    """
    grid = build_origin_grid(release, rows)
    rounds: list[dict[datetime, datetime]] = []
    n_at: dict[int, int] = {}
    for time in times:
        pos = grid.find_origin(convert_to_us(time))
        k = n_at[pos] = n_at.get(pos, -1) + 1
        if k == len(rounds):
            rounds.append({})
        rounds[k][time] = datetime.fromtimestamp(int(grid.cutoff_us[max(pos, 0)]) / 1_000_000, UTC)
    size = max(25, -(-len(times) // _N_PARTS))
    for of_round in rounds:
        items = list(of_round.items())
        yield from (dict(items[k : k + size]) for k in range(0, len(items), size))


def _run_backtest(given: JobInput, asked: JobRequest, report: Report) -> JobResult:
    """Scores of the release over cutoffs that it has not seen."""
    assert isinstance(asked, BacktestJob)
    release, rows = given
    cutoffs = list_backtest_cutoffs(release, rows, *asked.parse_range(), asked.stride_steps)
    if not cutoffs:
        raise TidemillError(
            f"No cutoff of the range has all {release.about.horizon_steps} outcomes after"
            f" {format_iso(release.seen_until)}. Take an earlier `last`, or wait for rows."
        )
    size, parts = max(25, -(-len(cutoffs) // _N_PARTS)), []
    for k in range(0, len(cutoffs), size):
        parts.append(predict_cutoffs(release, rows, cutoffs[k : k + size]))
        report(min(k + size, len(cutoffs)), len(cutoffs), "cutoffs")
    about = release.about
    head = {
        "primary_score": about.primary_score,
        "level": get_kind(about.target).get_level(about),
        "first_cutoff": format_iso(cutoffs[0]),
        "last_cutoff": format_iso(cutoffs[-1]),
        "n_cutoffs": len(cutoffs),
    }
    return JobResult(head, score_backtest(release, rows, parts))


_RUNNERS: dict[type[JobRequest], Callable[[JobInput, JobRequest, Report], JobResult]] = {
    BatchJob: _run_batch,
    BacktestJob: _run_backtest,
}
