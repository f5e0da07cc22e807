"""`tidemill jobs`: the jobs of the service's callers."""

import json
from typing import Annotated

import typer

from deployments.cli.output import AsJson, report_json

jobs_app = typer.Typer(help="Jobs of the service: list, show, cancel.", no_args_is_help=True)
JobId = Annotated[str, typer.Argument(help="The job's id.", metavar="ID")]


def add_jobs_commands(app: typer.Typer) -> None:
    """Put the commands on *app*."""
    app.add_typer(jobs_app, name="jobs")


@jobs_app.command("list")
def list_jobs(
    tenant: Annotated[str | None, typer.Option(help="Of this tenant alone.", metavar="NAME")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the jobs of all tenants and datasets, the newest first."""
    # Imported here, as in every command: `--help` stays fast
    from deployments.forecaster.job_views import describe_job
    from tasks.edges.jobs import open_jobs

    with open_jobs() as store:
        jobs = store.list_jobs(tenant=tenant)
    if as_json:
        report_json([{"tenant": job.tenant, **describe_job(job)} for job in jobs])
        return
    from deployments.cli.tables import report_rows

    report_rows(
        [
            {
                "id": job.id,
                "tenant": job.tenant,
                "dataset": job.dataset,
                "kind": job.kind,
                "state": job.state,
                "done": f"{job.n_done:,} of {job.n_total:,}",
            }
            for job in jobs
        ]
    )


@jobs_app.command()
def show(job_id: JobId, as_json: AsJson = False) -> None:
    """Show a job: its request, its progress, and why it failed."""
    from deployments.forecaster.job_views import describe_job
    from tasks.edges.jobs import get_job, open_jobs

    with open_jobs() as store:
        job = get_job(store, job_id)
    if as_json:
        report_json({"tenant": job.tenant, **describe_job(job)})
        return
    print(f"{job.kind} {job.id} of {job.tenant!r} ({job.principal}), dataset {job.dataset!r}: {job.state}")
    print(f"{job.n_done:,} of {job.n_total:,} {job.message}".rstrip())
    print(f"request: {job.request}")
    if job.problem is not None:
        print(f"failed: {json.loads(job.problem)['detail']}")


@jobs_app.command()
def cancel(job_id: JobId, as_json: AsJson = False) -> None:
    """Cancel a job that waits or runs; its process ends within two seconds."""
    from deployments.forecaster.job_views import describe_job
    from tasks.edges.jobs import get_job, open_jobs

    with open_jobs() as store:
        get_job(store, job_id)
        store.cancel(job_id)
        job = get_job(store, job_id)
    if as_json:
        report_json({"tenant": job.tenant, **describe_job(job)})
    else:
        print(f"{job.id} is {job.state}.")
