"""`tidemill approvals`, `approve`, `reject`: what a person must agree to before it is champion."""

from typing import Annotated

import typer

from deployments.cli.output import AsJson, report_json
from deployments.cli.releases import By, OfDataset, read_current_dataset

Digest = Annotated[str, typer.Argument(help="The release's digest, or its beginning.", metavar="DIGEST")]
Reason = Annotated[str, typer.Option(help="For the journal.")]


def add_approval_commands(app: typer.Typer) -> None:
    """Put the commands on *app*."""
    for command in (approvals, approve, reject):
        app.command()(command)


def approvals(dataset: OfDataset = "", as_json: AsJson = False) -> None:
    """List what was asked for, approved, rejected, used, or has expired, the newest first."""
    # Imported here, as in every command: `--help` stays fast
    from tasks.edges.approvals import list_requests

    requests = list_requests(dataset or read_current_dataset())[::-1]
    if as_json:
        report_json([{**request._asdict(), "files": len(request.files)} for request in requests])
        return
    for request in requests:
        is_open = request.state in {"waiting", "approved"} and request.expires_at is not None
        expires = f", expires {request.expires_at:%F %T}Z" if is_open else ""
        asked = f"asked for by {request.author} {request.asked_at:%F %T}Z{expires}"
        print(f"{request.digest[:12]}  {request.state}  {asked}")
        print(f"    {request.by}: {request.why}")


def approve(
    digest: Digest, by: By = "", reason: Reason = "", dataset: OfDataset = "", as_json: AsJson = False
) -> None:
    """Approve the promotion of a release, to the last byte, and promote it; not for its author."""
    from tasks.edges.rollouts import find_active_rollout
    from tasks.edges.settings import get_operator
    from tasks.promote.apply import approve_release

    name = dataset or read_current_dataset()
    champion, rollout = approve_release(name, digest, by or get_operator(), reason), find_active_rollout(name)
    if as_json:
        report_json(champion or {})
    elif rollout is not None and rollout.challenger.startswith(digest):
        print(f"{rollout.challenger[:12]} begins to take over by steps: `tidemill rollout status`.")
    elif champion is not None:
        print(f"{champion.version} ({champion.digest[:12]}) is champion of {champion.dataset}.")


def reject(
    digest: Digest, by: By = "", reason: Reason = "", dataset: OfDataset = "", as_json: AsJson = False
) -> None:
    """Reject the promotion of a release, or take back an approval that was not used yet."""
    from tasks.edges.approvals import decide_request, get_request
    from tasks.edges.settings import get_operator

    name = dataset or read_current_dataset()
    request = get_request(name, digest)
    decide_request(name, request, "rejected", by or get_operator(), reason)
    if as_json:
        report_json({"digest": request.digest, "state": "rejected"})
    else:
        print(f"{request.digest[:12]} is rejected; the champion stays.")
