"""`python -m deployments.ops.job_process ID ATTEMPT`: the process of one job.

Started by the job loop. It writes the result by rename, then ends the job; a kill in between leaves
a running job without a process, which the loop finds.
"""

import json
import os
import sys
import time
import traceback

import polars.selectors as cs

from deployments.forecaster.job_requests import parse_job
from deployments.forecaster.problems import ProblemError
from deployments.ops.job_answers import format_rows
from deployments.ops.job_kinds import JobResult, Report, run_job
from tasks.core.errors import TidemillError
from tasks.edges.files import replace_file, sync_folder
from tasks.edges.jobs import Job, JobStore, delete_result, get_result_path, open_jobs
from tasks.edges.served_store import ServedStoreError

NICE = 10
_REPORT_S = 0.5


def main(job_id: str, attempt: int) -> None:
    """Work on the job, if it still is in this attempt."""
    os.nice(NICE)
    with open_jobs() as store:
        job = store.find(job_id)
        if job is None or job.state != "running" or job.n_attempts != attempt:
            return
        try:
            result = run_job(job, parse_job(job.request.encode()), _build_report(store, job))
            write_result(job, result)
        except ProblemError as error:
            store.fail(job, error.body)
        except ServedStoreError as error:
            rule, way_out = "Nothing is served that is not recorded.", "Report it to the operator."
            problem = ProblemError(503, "store of served forecasts", str(error), rule, way_out)
            store.fail(job, problem.body)
        except TidemillError as error:
            rule = "A job is computed from the release and the rows that it was accepted on."
            store.fail(
                job, ProblemError(422, "job", str(error), rule, "Correct it, then send it again.").body
            )
        except Exception as error:  # noqa: BLE001  (of any kind: the caller gets a state)
            traceback.print_exc()
            fact, rule = f"{type(error).__name__}; the log has the details", "This should not happen."
            store.fail(job, ProblemError(500, "job", fact, rule, "Report the job's id to the operator.").body)
        else:
            if not store.finish(job, result.head):
                delete_result(job.id)  # cancelled meanwhile


def write_result(job: Job, result: JobResult) -> None:
    """Put the result of *job* on disk, as parquet and as JSON."""
    rows = result.rows.with_columns(cs.float().fill_nan(None))
    whole = f'{json.dumps(result.head, allow_nan=False)[:-1]}, "rows": {format_rows(rows).write_json()}}}'
    parquet = get_result_path(job.id, "parquet")
    replace_file(parquet, rows.write_parquet)
    replace_file(get_result_path(job.id, "json"), lambda part: part.write_text(whole))
    sync_folder(parquet.parent)


def _build_report(store: JobStore, job: Job) -> Report:
    last_s = 0.0

    def report(n_done: int, n_total: int, message: str) -> None:
        nonlocal last_s
        if n_done < n_total and time.monotonic() - last_s < _REPORT_S:
            return
        last_s = time.monotonic()
        if not store.report(job, n_done, n_total, message):
            raise SystemExit(0)  # cancelled

    return report


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
