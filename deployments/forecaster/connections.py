"""Connections that send nothing, or too slowly, are closed, and there are only so many of them.

uvicorn waits for the first request of a connection, and for the rest of its head, without limit.
"""

import asyncio
import logging
import resource
import time
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_S = 10.0  # for all of a request's head, from the connection or the first byte on
_RESERVED_FILES = 64  # descriptors for releases, rows and the store
_LOG_EVERY_S = 60.0
_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain\r\nconnection: close\r\n"
    b"retry-after: 1\r\ncontent-length: 22\r\n\r\ntoo many connections\r\n"
)
_log = logging.getLogger("tidemill.forecaster")


class BoundedConnection(HttpToolsProtocol):
    """A connection of uvicorn's with a deadline for each head, one of at most `count_allowed()`."""

    _logged_s = -_LOG_EVERY_S  # of all connections

    def connection_made(self, transport: Any) -> None:
        """Refuse the connection when there are too many, else start its deadline."""
        super().connection_made(transport)
        self._deadline: asyncio.TimerHandle | None = None
        if (n := len(self.connections)) > count_allowed():
            transport.write(_BUSY)
            transport.close()
            self._log_refusal(n)
            return
        self._start_deadline()

    def data_received(self, data: bytes) -> None:
        """Start the deadline of a further request on the connection."""
        if self._deadline is None and (self.cycle is None or self.cycle.response_complete):
            self._start_deadline()
        super().data_received(data)

    def on_headers_complete(self) -> None:
        """The head is whole; its body has a deadline of its own, in the app."""
        self._stop_deadline()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the deadline."""
        self._stop_deadline()
        super().connection_lost(exc)

    def _start_deadline(self) -> None:
        self._deadline = self.loop.call_later(HEAD_S, self.transport.abort)

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    @classmethod
    def _log_refusal(cls, n: int) -> None:
        if time.monotonic() - cls._logged_s >= _LOG_EVERY_S:
            cls._logged_s = time.monotonic()
            _log.warning("%d connections are open, further ones are refused (503)", n - 1)


def count_allowed() -> int:
    """Connections that may be open: what this process's limit of open files leaves."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, soft - _RESERVED_FILES)


def raise_file_limit() -> None:
    """Use all of the open files that the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard, 65_536) if hard != resource.RLIM_INFINITY else 65_536
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
