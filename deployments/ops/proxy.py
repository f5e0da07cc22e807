"""The replicas of the service behind HAProxy: which get requests, and taking one out and in again.

HAProxy is asked over its admin socket (`TIDEMILL_PROXY_SOCKET`; see infra/haproxy). Its answer to a
command is empty where it obeys, and a sentence where it does not.
"""

import csv
import io
import socket
import time
from collections.abc import Callable
from typing import NamedTuple

from tasks.core.errors import SettingsError
from tasks.edges.settings import read_settings

BACKEND = "replicas"
WAIT_S = 120.0  # for a replica that loads a release, or finishes its last requests
_POLL_S = 0.1
_BUFFER = 65_536


class Replica(NamedTuple):
    """One replica. status: HAProxy's word (UP, DOWN, DRAIN, MAINT). n_requests: now in it."""

    name: str
    address: str
    status: str
    n_requests: int
    n_failed: int

    @property
    def is_taking_requests(self) -> bool:
        """Whether new requests may go to it."""
        return self.status.startswith("UP")


def list_replicas() -> list[Replica]:
    """The replicas, as HAProxy sees them. Raises SettingsError when it does not answer."""
    table = csv.DictReader(io.StringIO(_request("show stat").removeprefix("# ")))
    return [
        Replica(
            row["svname"],
            row["addr"],
            row["status"],
            int(row["scur"] or 0) + int(row["qcur"] or 0),
            int(row["eresp"] or 0) + int(row["econ"] or 0),
        )
        for row in table
        if row["pxname"] == BACKEND and row["svname"] != "BACKEND"
    ]


def drain_replica(name: str, wait_s: float = WAIT_S) -> Replica:
    """Send no new requests to the replica *name*, and wait until it has answered its last one.

    Raises SettingsError when it is the only one that takes requests, or it is not done in time.
    """
    replica = _get_replica(name)
    others = [other for other in list_replicas() if other.name != name and other.is_taking_requests]
    if replica.is_taking_requests and not others:
        raise SettingsError(
            f"{name} is the only replica that takes requests, so draining it would turn all of them away."
            " Start the other one, `tidemill proxy ready` it, then drain this one."
        )
    _command(f"set server {BACKEND}/{name} state drain")
    return _wait_for(name, lambda found: found.n_requests == 0, wait_s, "has requests that are not answered")


def enable_replica(name: str, wait_s: float = WAIT_S) -> Replica:
    """Let requests go to the replica *name*, and wait until it takes them.

    Raises SettingsError when it is not ready in time.
    """
    if not _get_replica(name).is_taking_requests:
        # What HAProxy knows of it is from before it was stopped
        _command(f"set server {BACKEND}/{name} health down")
        _command(f"set server {BACKEND}/{name} state ready")
    return _wait_for(name, lambda found: found.is_taking_requests, wait_s, "is not ready")


def _get_replica(name: str) -> Replica:
    replicas = {replica.name: replica for replica in list_replicas()}
    if name not in replicas:
        raise SettingsError(f"There is no replica {name!r}; HAProxy has {', '.join(replicas)}.")
    return replicas[name]


def _wait_for(name: str, is_done: Callable[[Replica], bool], wait_s: float, fault: str) -> Replica:
    give_up = time.monotonic() + wait_s
    while not is_done(replica := _get_replica(name)):
        if time.monotonic() > give_up:
            raise SettingsError(
                f"{name} at {replica.address} {fault} after {wait_s:.0f} s ({replica.status},"
                f" {replica.n_requests} requests). Look at its log; `tidemill proxy status` shows both."
            )
        time.sleep(_POLL_S)
    return replica


def _command(line: str) -> None:
    if answer := _request(line).strip():
        raise SettingsError(f"HAProxy refuses {line!r}: {answer}. The socket must have the level admin.")


def _request(line: str) -> str:
    path = read_settings().proxy_socket or read_settings().home / "proxy.sock"
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(str(path))
            connection.sendall(f"{line}\n".encode())
            parts = []
            while part := connection.recv(_BUFFER):
                parts.append(part)
            return b"".join(parts).decode()
    except OSError as error:
        raise SettingsError(
            f"HAProxy does not answer at {path} ({error}). Start it with infra/haproxy/haproxy.cfg, or set"
            " TIDEMILL_PROXY_SOCKET to its admin socket."
        ) from error
