"""What each kind of job computes, on the release and the rows that it was accepted on."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import polars as pl

from deployments.forecaster.checkout import read_dataset_document
from deployments.forecaster.job_requests import (
    BacktestJob,
    BatchJob,
    FitRequest,
    JobRequest,
    TrainingJob,
    select_fit_rows,
)
from deployments.forecaster.loaded import LoadedRelease, ReleaseChoice, format_iso
from deployments.ops.job_answers import Answered, record_answers
from tasks.core.errors import ReleaseError, TidemillError
from tasks.core.frames import SERIES
from tasks.core.kinds import get_kind
from tasks.edges.jobs import Job
from tasks.edges.params import read_dataset
from tasks.edges.processes import fetch_url
from tasks.edges.row_versions import find_rows_version
from tasks.edges.served import build_stored_history
from tasks.edges.settings import read_settings
from tasks.promote.backtest import list_backtest_cutoffs, score_backtest
from tasks.release import Release, load_release, predict_cutoffs
from tasks.release.origins import build_origin_grid, convert_to_us

_N_PARTS = 20  # of a job whose progress is reported
_RETRAINING, _PREFECT_S = "retraining/retraining", 10.0
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
    if isinstance(asked, TrainingJob):
        result = start_training(job, asked)
    elif isinstance(asked, FitRequest):
        result = _run_fits(job, load_input(job), asked, report)
    elif isinstance(asked, BatchJob):
        result = _run_batch(job, load_input(job), asked, report)
    else:
        result = run_backtest(load_input(job), asked, report)
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


def start_training(job: Job, asked: TrainingJob) -> JobResult:
    """Start a flow run of the deployment `retraining`, once for each job.

    Raises TidemillError when no server has the deployment, or another dataset is current.
    """
    api, dataset = read_settings().prefect_api_url, read_dataset()
    if dataset != job.dataset:
        raise TidemillError(
            f"The checkout's current dataset is {dataset!r}, and the job is of {job.dataset!r}. A training is"
            f" of the current one: `tidemill use {job.dataset}`, then send the job again."
        )
    found = fetch_url(f"{api}/deployments/name/{_RETRAINING}", timeout_s=_PREFECT_S) if api else None
    if found is None:
        raise TidemillError(
            f"No Prefect server with the deployment {_RETRAINING} answers at {api or '(none is set)'}, so"
            " nothing was started. `tidemill up` starts one; `tidemill run` trains without it."
        )
    body = {
        "parameters": {"reason": asked.reason, **({"recipe": asked.recipe} if asked.recipe else {})},
        "tags": ["job"],
        "idempotency_key": f"job-{job.id}",
    }
    address = f"{api}/deployments/{json.loads(found)['id']}/create_flow_run"
    created = fetch_url(address, timeout_s=_PREFECT_S, body=json.dumps(body).encode())
    if created is None:
        raise TidemillError(f"Prefect's server at {api} has not started the run. Its page shows why.")
    run = json.loads(created)
    facts = {"flow_run_id": run["id"], "flow_run": run["name"], "deployment": _RETRAINING}
    return JobResult(facts, pl.DataFrame([facts]))


def _run_fits(job: Job, given: JobInput, asked: FitRequest, report: Report) -> JobResult:
    """The forecast of the model, or of the best one, and how each did."""
    from deployments.ops.job_fits import fit_models  # the libraries of the models

    document, loaded = read_dataset_document(job.dataset), _build_loaded(job, given)
    models = asked.list_models(document.list_models())
    fitted = fit_models(document, select_fit_rows(loaded, asked), models, report)
    head = {
        "primary_score": document.about.primary_score,
        "best": fitted[0].name,
        "models": [
            {"model": fit.name, "primary": fit.loss, "seconds": round(fit.seconds, 3), **fit.scores}
            for fit in fitted
        ],
    }
    history = None if asked.history is None else build_stored_history(asked.history)
    by = Answered(None, history, {"fitted": fitted[0].name})
    ((_, rows),) = record_answers(job, fitted[0].forecasts, by)
    return JobResult(head, rows)


def _build_loaded(job: Job, given: JobInput) -> LoadedRelease:
    manifest = given.release.manifest
    assert manifest is not None, "load_input has seen it"
    choice = ReleaseChoice(given.release.folder, job.version, "job")
    return LoadedRelease(given.release, manifest, choice, given.rows, (), job.rows_version)


def _run_batch(job: Job, given: JobInput, asked: BatchJob, report: Report) -> JobResult:
    """Forecasts as of each time, as /predict answers them, and recorded as those."""
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
    n_answers = forecasts.select("as_of", "series_id").n_unique()
    recorded = [forecasts.clear().insert_column(0, pl.Series("prediction_id", [], pl.String))]
    for n_recorded, named in record_answers(job, forecasts, Answered(_build_loaded(job, given))):
        recorded.append(named)
        report(n_recorded, n_answers, "answers recorded")
    forecasts = pl.concat(recorded)
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


def run_backtest(given: JobInput, asked: JobRequest, report: Report) -> JobResult:
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
