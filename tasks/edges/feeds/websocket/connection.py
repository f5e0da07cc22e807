"""One connection to a socket at a time: made again when it ends, is silent or answers no ping."""

import contextlib
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tasks.core.errors import FeedError
from tasks.edges.feeds.websocket.backfill import REFUSED

_QUEUED = 16  # messages that the library holds
_MAX_BYTES = 4 << 20  # of a message; a larger one ends the connection
_OPEN_S, _CLOSE_S = 5.0, 0.5
# Before the second attempt to connect; doubled each time, and drawn between half and the whole of
# it
_FIRST_PAUSE_S = 0.25


class WebsocketConnection:
    """A connection to *url*; *subscribe* is sent when it is made.

    log: the name of the feed in messages; the url may hold a secret.
    heartbeat_s: a ping that often, which must be answered by the next.
    silent_s: a connection without a message for so long is given up. Time in which messages are
    waited for counts, not that of a long commit.
    reconnect_max_s: between two attempts.
    report_down: called with the reason when a second attempt has failed, too.
    """

    def __init__(
        self,
        url: str,
        log: str,
        subscribe: Sequence[str],
        headers: Mapping[str, str],
        *,
        heartbeat_s: float,
        silent_s: float,
        reconnect_max_s: float,
        report_down: Callable[[str], Any],
    ) -> None:
        self._url, self._log, self._subscribe, self._headers = url, log, subscribe, dict(headers)
        self._heartbeat_s, self._silent_s = heartbeat_s, silent_s
        self._reconnect_max_s, self._report_down = reconnect_max_s, report_down
        self._socket: Any = None
        self._n_failed, self._connect_at = 0, 0.0
        self.fault = ""  # why the last connection ended
        self.was_silent = False  # nothing came for `silent_s`, at least once
        self._is_down = self._is_closed = False
        # Seconds of waiting for messages: so far, when one came last, when a ping was sent
        self.waited_s = self._message_s = self._ping_s = 0.0
        self._pong: Any = None

    @property
    def is_open(self) -> bool:
        """Whether there is a connection."""
        return self._socket is not None

    def open(self, timeout_s: float) -> bool:
        """Connect, when the pause before the next attempt is over; whether there is a connection.

        Raises FeedError when the url is none of a socket, or access is refused.
        """
        # Only with a socket
        from websockets.exceptions import InvalidStatus, InvalidURI, WebSocketException
        from websockets.sync.client import connect

        if (wait_s := self._connect_at - time.monotonic()) > 0:
            time.sleep(min(wait_s, timeout_s))
            return False
        try:
            # No pings by the library: it would take a long commit of ours, in which it may not
            # read, for a dead peer
            self._socket = connect(
                self._url,
                additional_headers=self._headers,
                open_timeout=_OPEN_S,
                close_timeout=_CLOSE_S,
                ping_interval=None,
                max_size=_MAX_BYTES,
                max_queue=_QUEUED,
            )
            for message in self._subscribe:
                self._socket.send(message)
        except InvalidURI as error:
            raise FeedError(
                f"`feed.source.url` of {self._log} is none of a WebSocket (wss://HOST/PATH). Correct it."
            ) from error
        except InvalidStatus as error:
            if (status := error.response.status_code) in REFUSED:
                raise FeedError(
                    f"{self._log} refuses us: {status}. Check `feed.source.url` and `feed.source.headers`,"
                    " and the secrets in them."
                ) from error
            self._drop(f"it answers with status {status}")
        except WebSocketException as error:  # its text may hold the address
            self._drop(type(error).__name__)
        except OSError as error:
            self._drop(f"{type(error).__name__} {error}")
        else:
            self.waited_s = self._message_s = self._ping_s = 0.0
            self._pong = None
        return self.is_open

    def receive(self, timeout_s: float) -> bytes | None:
        """The next message within *timeout_s*; None when there is none, or the connection ended."""
        from websockets.exceptions import ConnectionClosed

        begin = time.monotonic()
        try:
            message: bytes | None = None
            with contextlib.suppress(TimeoutError):
                message = self._socket.recv(min(timeout_s, self._heartbeat_s / 4), decode=False)
            self.waited_s += time.monotonic() - begin
            if message is not None:
                self._message_s, self._n_failed, self._is_down = self.waited_s, 0, False
        except ConnectionClosed:
            self._drop("the connection ended")
            return None
        return message

    def check(self, on_ping: Callable[[], None]) -> None:
        """Give up a connection that is silent, or whose other end does not answer; else ping it.

        on_ping: called before each ping.
        """
        from websockets.exceptions import ConnectionClosed

        if not self.is_open:
            return
        if self.waited_s - self._message_s > self._silent_s:
            self.was_silent = True
            self._drop(f"nothing came for {self._silent_s:.0f} s")
        elif self.waited_s - self._ping_s >= self._heartbeat_s:
            if self._pong is not None and not self._pong.is_set():
                self._drop(f"a ping was not answered for {self._heartbeat_s:.0f} s")
                return
            on_ping()
            try:
                self._ping_s, self._pong = self.waited_s, self._socket.ping(ack_on_close=True)
            except ConnectionClosed:
                self._drop("the connection ended")

    def close(self) -> None:
        """Close for good."""
        self._is_closed = True
        self._drop("")

    def _drop(self, reason: str) -> None:
        """End the connection, and set when the next attempt comes.

        The pause is longer each time, until a message has come, and never the same for all clients
        of a server that comes back.
        """
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        limit_s = min(_FIRST_PAUSE_S * 2**self._n_failed, self._reconnect_max_s) if self._n_failed else 0.0
        self._connect_at = time.monotonic() + limit_s * random.uniform(0.5, 1.0)  # noqa: S311  (no secret)
        self._n_failed += 1
        self.fault = reason
        if self._n_failed > 1 and not self._is_down and not self._is_closed:  # the second in a row
            self._is_down = True
            self._report_down(f"{self._log}: {reason}")
