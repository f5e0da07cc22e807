"""Webhooks at the end of jobs: signed by Standard Webhooks, delivered from the store of the jobs.

A name is resolved once, and the connection is made to that address, so that a name which changes
its address in between reaches nothing private. A redirect is not followed, and of an answer only
the status is read.
"""

import contextlib
import http.client
import json
import os
import socket
import ssl
import threading
from datetime import UTC, datetime
from urllib.parse import SplitResult

from standardwebhooks import Webhook

from deployments.forecaster.job_views import describe_job
from deployments.forecaster.loaded import format_iso
from deployments.forecaster.problems import ProblemError
from deployments.forecaster.webhook_urls import check_webhook_url, is_allowed_address
from tasks.edges.api_keys import find_webhook_secret
from tasks.edges.jobs import Job, JobStoreError, JobWebhook, get_job, open_jobs

PAUSES_S = (5.0, 300.0, 1800.0, 7200.0, 18000.0, 0.0)  # after each attempt; the last is final
TIMEOUT_S = 10.0  # to connect, and to answer
N_SENDERS = 4  # so that an address that hangs delays few others
_POLL_S = 0.5
_GONE = 410


def start_senders(stopping: threading.Event) -> None:
    """Deliver what is due until *stopping*, in threads of their own."""
    for _ in range(N_SENDERS):
        threading.Thread(target=_run_sender, args=(stopping,), daemon=True).start()


def _run_sender(stopping: threading.Event) -> None:
    while not stopping.wait(_POLL_S):
        try:
            while not stopping.is_set() and deliver_next():
                pass
        except JobStoreError as error:
            print(f"webhooks: {error}", flush=True)
            stopping.wait(TIMEOUT_S)


def deliver_next(pauses_s: tuple[float, ...] = PAUSES_S) -> bool:
    """Try the webhook that has been due the longest; False when none is due."""
    with open_jobs() as store:
        if (webhook := store.start_delivery(pauses_s)) is None:
            return False
        job = get_job(store, webhook.job_id)
    fault, is_gone = send_webhook(webhook, job)
    with open_jobs() as store:
        store.end_delivery(webhook, fault, is_last=is_gone or webhook.n_attempts >= len(pauses_s))
    print(f"webhooks: {job.id}: {fault or 'delivered'}", flush=True)
    return True


def send_webhook(webhook: JobWebhook, job: Job) -> tuple[str | None, bool]:
    """Make one attempt: (why it was not delivered, whether none need follow)."""
    if (secret := find_webhook_secret(job.tenant)) is None:
        return f"there is no secret of {job.tenant!r}; `tidemill keys webhook-secret` makes one", False
    now = datetime.now(UTC)
    content = {"type": f"job.{job.state}", "timestamp": format_iso(now), "data": describe_job(job)}
    body, message_id = json.dumps(content), f"msg_{job.id}"  # the same one at each attempt
    headers = {
        "content-type": "application/json",
        "user-agent": "tidemill",
        "webhook-id": message_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(secret).sign(message_id, now, body),
    }
    try:
        status = _post(check_webhook_url(webhook.url), body.encode(), headers)
    except ProblemError as error:
        return str(error)[:300], False
    except (OSError, http.client.HTTPException) as error:
        return f"{type(error).__name__}: {error}"[:300], False
    if 200 <= status < 300:
        return None, True
    kind = "; redirects are not followed" if 300 <= status < 400 else ""
    return f"it answered {status}{kind}", status == _GONE


def _post(url: SplitResult, body: bytes, headers: dict[str, str]) -> int:
    """The status of the answer. Raises OSError, also after TIMEOUT_S."""
    assert url.hostname is not None, "check_webhook_url has seen it"
    port = url.port or (443 if url.scheme == "https" else 80)
    connection = http.client.HTTPConnection(url.hostname, port, timeout=TIMEOUT_S)
    raw = socket.create_connection((_resolve(url.hostname, port), port), TIMEOUT_S)
    # A second handle of the connection: the first one ends where TLS begins
    handle = socket.socket(fileno=os.dup(raw.fileno()))
    is_late = threading.Event()
    timer = threading.Timer(TIMEOUT_S, _shut_down, [handle, is_late])
    timer.start()
    try:
        is_https = url.scheme == "https"
        connection.sock = (
            ssl.create_default_context().wrap_socket(raw, server_hostname=url.hostname) if is_https else raw
        )
        path = f"{url.path or '/'}{'?' + url.query if url.query else ''}"
        connection.request("POST", path, body, {"host": url.netloc, **headers})
        status = connection.getresponse().status  # its body is left unread
        if is_late.is_set():
            raise TimeoutError(f"no answer within {TIMEOUT_S:g} s")
        return status
    finally:
        timer.cancel()
        for part in (connection, raw, handle):
            part.close()


def _resolve(host: str, port: int) -> str:
    """The address to connect to. Raises OSError when one of the name's is private."""
    found = [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    if refused := [address for address in found if not is_allowed_address(address)]:
        raise OSError(
            f"{host} is {refused[0]}, of this machine or of a private network (TIDEMILL_WEBHOOK_PRIVATE)"
        )
    return found[0]


def _shut_down(handle: socket.socket, is_late: threading.Event) -> None:
    is_late.set()
    with contextlib.suppress(OSError):  # it has ended
        handle.shutdown(socket.SHUT_RDWR)
