"""Approvals of promotions, in an append-only journal whose lines are chained.

`<home>/registry/<dataset>/approvals.jsonl` has the whole state; nothing waits in a process. An
approval is for every byte of one release, expires, is used once, and is not given by the author,
which is who asked for it.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, NamedTuple

from tasks.core.errors import ApprovalError
from tasks.core.reports.base import IsoTime
from tasks.core.strict import Strict
from tasks.edges.chained_journal import append_line, read_lines
from tasks.edges.files import hold_lock
from tasks.edges.registry import read_journal
from tasks.edges.release_files import find_changed_file, get_registry_folder

MIN_DIGEST = 6  # characters of a digest that may stand for a release


class ApprovalLine(Strict):
    """A line of the journal.

    digest: of the release. content: hash of the hashes of all of its files.
    by: who did it; of `asked` the author.
    expires_at: of a request and of an approval.
    files: sha256 by path, of `asked` alone.
    """

    action: Literal["asked", "approved", "rejected", "used", "expired"]
    digest: str
    content: str
    by: str
    why: str
    made_at: IsoTime
    expires_at: IsoTime | None = None
    files: dict[str, str] | None = None


class ApprovalRequest(NamedTuple):
    """What the journal says of one request.

    state: `expired` also when its time is over and no line says so yet.
    by, why: of the newest line. line: of the approval, once there is one.
    """

    digest: str
    content: str
    author: str
    state: Literal["waiting", "approved", "rejected", "used", "expired"]
    by: str
    why: str
    asked_at: datetime
    expires_at: datetime | None
    files: Mapping[str, str]
    line: int | None


def list_requests(dataset: str) -> list[ApprovalRequest]:
    """All requests for the approval of a promotion of *dataset*, oldest first."""
    used = {line.approval for line in read_journal(dataset)}
    requests: list[ApprovalRequest] = []
    for number, line in enumerate(_read_lines(dataset)):
        if line.action == "asked":
            requests.append(
                ApprovalRequest(
                    line.digest, line.content, line.by, "waiting", line.by, line.why, line.made_at,
                    line.expires_at, line.files or {}, None,
                )
            )  # fmt: skip
            continue
        index = next(i for i in reversed(range(len(requests))) if requests[i].content == line.content)
        changed = requests[index]._replace(state=line.action, by=line.by, why=line.why)
        if line.action == "approved":
            changed = changed._replace(expires_at=line.expires_at, line=number)
        requests[index] = changed
    return [_apply_facts(request, used) for request in requests]


def _apply_facts(request: ApprovalRequest, used: set[int | None]) -> ApprovalRequest:
    """What follows from the registry and the clock, though no line says so yet."""
    if request.state == "approved" and request.line in used:
        return request._replace(state="used")
    is_open = request.state in {"waiting", "approved"}
    if is_open and request.expires_at is not None and request.expires_at <= datetime.now(UTC):
        return request._replace(state="expired")
    return request


def request_approval(
    dataset: str, digest: str, files: Mapping[str, str], by: str, why: str, expires_s: float
) -> ApprovalRequest:
    """The request for the approval of a release with these *files*, made unless it is open.

    A request that has expired or was used is made again. One that was rejected stays rejected, but
    for other files.
    Raises ApprovalError when an open request for this release is about other bytes.
    """
    content = _compute_content(files)
    with _hold_lock(dataset):
        found = _find_request(dataset, digest)
        if found is not None and found.state in {"waiting", "approved"}:
            check_request_files(found, files)
            return found
        if found is not None and found.state == "rejected" and found.content == content:
            return found
        if found is not None and found.state == "expired":
            _append(dataset, "expired", found, by, "not used in time")
        asked = ApprovalLine(
            action="asked", digest=digest, content=content, by=by, why=why, made_at=datetime.now(UTC),
            expires_at=datetime.now(UTC) + timedelta(seconds=expires_s), files=dict(files),
        )  # fmt: skip
        append_line(_get_path(dataset), asked.model_dump(mode="json"))
        request = _find_request(dataset, digest)
    assert request is not None, "it was written"
    return request


def decide_request(
    dataset: str,
    request: ApprovalRequest,
    action: Literal["approved", "rejected"],
    by: str,
    why: str,
    expires_s: float | None = None,
) -> None:
    """Approve or reject what waits, or reject what was approved.

    Raises ApprovalError when it is in another state, or *by*, who approves, is its author.
    """
    with _hold_lock(dataset):
        now = _find_request(dataset, request.digest)
        if now is None or now.state not in {"waiting", *(["approved"] if action == "rejected" else [])}:
            state = "unknown" if now is None else f"{now.state} ({now.by}: {now.why})"
            raise ApprovalError(
                f"{request.digest[:12]} does not wait for an approval: it is {state}. The flow `promotion`"
                " asks again for what has expired or was used; what was rejected needs a new release."
            )
        if action == "approved" and by == now.author:
            raise ApprovalError(
                f"{by!r} asked for the promotion of {request.digest[:12]}, and its author does not approve"
                " it. Have another person run `tidemill approve`, or give the name with `--by`."
            )
        _append(dataset, action, now, by, why, expires_s)


def write_use(dataset: str, request: ApprovalRequest) -> None:
    """Add the line that an approval was used; the registry's journal names the approval, too."""
    with _hold_lock(dataset):
        _append(dataset, "used", request, request.by, request.why)


def check_request_files(request: ApprovalRequest, files: Mapping[str, str]) -> None:
    """Raise ApprovalError with the first of *files* that differs from what the request is about."""
    if (change := find_changed_file(request.files, files)) is not None:
        since = "it was approved" if request.state == "approved" else "its approval was asked for"
        raise ApprovalError(
            f"Release {request.digest[:12]}: {change} after {since}. What is promoted is what was approved,"
            " to the last byte. Restore the file (`dvc checkout models/release`), or reject the request, and"
            " the flow `promotion` asks again for the release as it is."
        )


def get_request(dataset: str, name: str) -> ApprovalRequest:
    """The newest request for the release whose digest begins with *name*.

    Raises ApprovalError when there is none.
    """
    requests = list_requests(dataset)
    for request in reversed(requests):
        if len(name) >= MIN_DIGEST and request.digest.startswith(name):
            return request
    waiting = ", ".join(r.digest[:12] for r in requests if r.state == "waiting") or "nothing"
    raise ApprovalError(
        f"No approval of {name[:64]!r} was asked for; {waiting} waits. See `tidemill approvals`."
    )


def _find_request(dataset: str, digest: str) -> ApprovalRequest | None:
    return next((r for r in reversed(list_requests(dataset)) if r.digest == digest), None)


def _append(
    dataset: str,
    action: Literal["approved", "rejected", "used", "expired"],
    request: ApprovalRequest,
    by: str,
    why: str,
    expires_s: float | None = None,
) -> None:
    now = datetime.now(UTC)
    line = ApprovalLine(
        action=action, digest=request.digest, content=request.content, by=by, why=why, made_at=now,
        expires_at=None if expires_s is None else now + timedelta(seconds=expires_s),
    )  # fmt: skip
    append_line(_get_path(dataset), line.model_dump(mode="json", exclude_none=True))


def _compute_content(files: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(dict(files), sort_keys=True).encode()).hexdigest()


def _read_lines(dataset: str) -> list[ApprovalLine]:
    return [ApprovalLine.model_validate(line) for line in read_lines(_get_path(dataset))]


@contextmanager
def _hold_lock(dataset: str) -> Iterator[None]:
    with hold_lock(get_registry_folder(dataset) / "approvals.lock"):
        yield


def _get_path(dataset: str) -> Path:
    return get_registry_folder(dataset) / "approvals.jsonl"
