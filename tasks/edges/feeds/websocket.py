"""A WebSocket as a feed.

What a socket has said it does not say again, so everything depends on whether its messages are
numbered. Numbered (*sequence_field*): the number is the offset. Repeats are dropped, what comes out
of order is put in order; a gap is waited for *reorder_s*, then fetched from *backfill_url*, and
what that cannot give is a record of its own that says which numbers are lost. So each number is in
the table once, or in a lost range, whatever drops, and a table's mark is a place from which reading
can begin again.

Not numbered: each message gets the time of its receipt, in microseconds, as offset. Between two
connections, and between the table's mark and the first connection after a start, nobody knows what
was said; that time is a lost range.

There is no thread and no buffer of ours beside what is out of order: `poll` reads from the socket.
While nobody polls, or more than *buffer_mb* wait for a gap to be filled, the client library holds
_QUEUED messages and stops reading, and TCP pushes back.
"""

import contextlib
import heapq
import random
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC as ZONE
from datetime import datetime
from typing import Any, NamedTuple

import polars as pl

from tasks.core.errors import FeedError
from tasks.core.records import RECORDS, Marks, PolledRecords, encode_loss

_QUEUED = 16  # messages that the library holds
_MOST = 4 << 20  # bytes of a message; a larger one ends the connection
_OPEN_S, _CLOSE_S, _ANSWER_S = 5.0, 0.5, 5.0
# Before the second attempt to connect; doubled each time, and drawn between half and the whole of
# it
_FIRST_PAUSE_S = 0.25
_ASK_AGAIN_S, _N_ASKED = 1.0, 3  # a number that came by the socket may be a moment late in REST
_REFUSED = {401, 403, 407}
_LATER = {408, 425, 429}
_MOST_NUMBER = (1 << 63) - 1


class _ReadyRecord(NamedTuple):
    """A record with its place and the place after it."""

    offset: int
    at: datetime
    value: bytes
    end: int


class _WaitingRecord(NamedTuple):
    """A record before which others lack. since: by a clock that only goes forward, when it came
    by the socket; 0: from REST.
    """

    since: float
    at: datetime
    value: bytes


class WebsocketFeed:
    """The messages of *url*.

    subscribe: sent after each connection. headers: of the handshake and of REST. records_field: the
    field of a message that holds the record, or a list of them; None: the message is the record (or
    a list). Messages without that field, or without a number, are none. sequence_field: of a
    record, rising by 1. begin_at: the number with which a table begins; None: the least that is
    seen first. backfill_url: with {first} and {last}, gives records in that range, both ends
    included, in JSON (in backfill_field of it); any number of them in any order, it is asked until
    it gives nothing new.
    log: the name under which the mark is kept. heartbeat_s: a ping that often, to be answered by
    the next. silent_s: without a message: the connection is given up.
    reconnect_max_s: between two attempts. backfill_wait_s: how long a REST that does not answer is
    waited for. Times of listening count, not those of a long commit.
    told: called with the reason when a second attempt has failed, too. lost: called with what is
    lost, {first, last, n} or {since, until}.
    Raises FeedError when there is no connection at the start.
    """

    def __init__(
        self,
        url: str,
        log: str,
        subscribe: Sequence[str] = (),
        headers: Mapping[str, str] | None = None,
        records_field: str | None = None,
        sequence_field: str | None = None,
        begin_at: int | None = None,
        backfill_url: str | None = None,
        backfill_field: str | None = None,
        heartbeat_s: float = 15.0,
        silent_s: float = 60.0,
        reorder_s: float = 1.0,
        reconnect_max_s: float = 30.0,
        backfill_wait_s: float = 300.0,
        buffer_mb: int = 64,
        told: Callable[[str], Any] = lambda _: None,
        lost: Callable[[dict[str, Any]], Any] = lambda _: None,
    ) -> None:
        self._url, self._log, self._subscribe, self._headers = url, log, subscribe, dict(headers or {})
        self._records_field, self._sequence_field, self._begin_at = records_field, sequence_field, begin_at
        self._rest = (
            _RestBackfill(backfill_url, backfill_field, sequence_field, self._headers, log)
            if backfill_url and sequence_field
            else None
        )
        self._heartbeat_s, self._silent_s, self._reorder_s = heartbeat_s, silent_s, reorder_s
        self._reconnect_max_s, self._backfill_wait_s, self._buffer_bytes = (
            reconnect_max_s,
            backfill_wait_s,
            buffer_mb * 1_000_000,
        )
        self._told, self._lost = told, lost
        self._source = f"websocket:{log}"
        self._marks: Callable[[], Marks] = dict
        self._connection: Any = None
        self._n_failed, self._connect_at, self._fault, self._is_away, self._is_closed = (
            0,
            0.0,
            "",
            False,
            False,
        )
        # Seconds of listening: so far, when a message came last, when a ping was sent
        self._listened = self._heard = self._pinged = 0.0
        self._pong: Any = None
        self._ready: deque[_ReadyRecord] = deque()
        self._waiting: dict[int, _WaitingRecord] = {}  # by number, at or beyond `_next`
        self._order: list[int] = []  # their numbers, a heap
        self._waiting_bytes = 0
        self._next: int | None = None  # what `_ready` gets next; None: not known yet
        self._polled = 0  # the end of what was polled
        self._asked_since: float | None = None  # of the gap before `_order[0]`
        self._ask_at, self._n_asked = 0.0, 0
        self._first: int | None = None  # the first offset that came
        self._newest: tuple[int, _WaitingRecord] | None = None  # the record of the greatest number that came
        self._was_silent = False  # nothing came for `silent_s`, at least once
        self._highest = -1  # the greatest number that came by this connection
        self._open_connection(0.0)
        if self._connection is None:
            raise FeedError(
                f"{log}: no connection: {self._fault}. Start its server, or correct `feed.source.url`."
            )

    def open(self, marks: Callable[[], Marks]) -> None:
        """See Feed. What has come since the connection was made waits in it."""
        self._marks = marks
        self.rewind()

    def poll(self, n_records: int, within_s: float) -> PolledRecords:
        """See Feed.

        While there is no connection there are no records. Raises FeedError when access is refused,
        or the numbers have begun anew.
        """
        end = time.monotonic() + within_s
        self._sort_ready(n_records, end)
        while len(self._ready) < n_records and (left := end - time.monotonic()) > 0:
            if self._is_closed or self._waiting_bytes > self._buffer_bytes:
                time.sleep(min(left, 0.05))
            elif self._connection is None:
                self._open_connection(left)
            else:
                self._read_message(left)
            self._sort_ready(n_records, end)
        taken = [self._ready.popleft() for _ in range(min(n_records, len(self._ready)))]
        if not taken:
            return PolledRecords(pl.DataFrame(schema=dict(RECORDS)), {})
        self._polled = taken[-1].end
        records = {
            "_source": [self._source] * len(taken),
            "_offset": [one.offset for one in taken],
            "_timestamp": [one.at for one in taken],
            "_key": [None] * len(taken),
            "_value": [one.value for one in taken],
            "_headers": [None] * len(taken),
        }
        return PolledRecords(pl.DataFrame(records, schema=dict(RECORDS)), {self._source: self._polled})

    def is_same(self) -> bool:
        """See Feed."""
        return True

    def rewind(self) -> None:
        """See Feed.

        What was polled and not committed is fetched from REST; without that, or without numbers, it
        is lost.
        """
        mark = self._marks().get(self._source)
        self._next = mark if mark is not None or self._sequence_field is None else self._begin_at
        self._polled = self._next or 0
        self._ready.clear()
        self._delete_waiting()
        if self._newest is not None:
            self._add_waiting(*self._newest)
        if self._connection is not None and self._sequence_field is None:
            self._report_silence()

    def lag(self) -> dict[str, int]:
        """See Feed: what was received and not polled, and numbers up to the greatest that was
        seen.
        """
        return {
            self._source: max(
                len(self._ready) + len(self._waiting),
                self._highest + 1 - self._polled if self._sequence_field else 0,
            )
        }

    def is_caught_up(self) -> bool:
        """Whether all was polled that came before the first message since `open`, or nothing
        came for `silent_s`: a socket has no end.
        """
        return self._polled > self._first if self._first is not None else self._was_silent

    def close(self) -> None:
        """See Feed."""
        self._is_closed = True
        self._ready.clear()
        self._delete_waiting()
        self._close_connection("")
        if self._rest is not None:
            self._rest.close()

    # The connection

    def _open_connection(self, within_s: float) -> None:
        # Only with a socket
        from websockets.exceptions import InvalidStatus, InvalidURI, WebSocketException
        from websockets.sync.client import connect

        if (wait_s := self._connect_at - time.monotonic()) > 0:
            time.sleep(min(wait_s, within_s))
            return
        try:
            # No pings by the library: it would take a long commit of ours, in which it may not
            # read, for a dead peer.
            self._connection = connect(
                self._url,
                additional_headers=self._headers,
                open_timeout=_OPEN_S,
                close_timeout=_CLOSE_S,
                ping_interval=None,
                max_size=_MOST,
                max_queue=_QUEUED,
            )
            for message in self._subscribe:
                self._connection.send(message)
        except InvalidURI as error:
            raise FeedError(
                f"`feed.source.url` of {self._log} is none of a WebSocket (wss://HOST/PATH). Correct it."
            ) from error
        except InvalidStatus as error:
            if (status := error.response.status_code) in _REFUSED:
                raise FeedError(
                    f"{self._log} refuses us: {status}. Look at `feed.source.url` and `feed.source.headers`,"
                    " and at the secrets in them."
                ) from error
            self._close_connection(f"it answers with status {status}")
        except WebSocketException as error:  # its text may hold the address
            self._close_connection(type(error).__name__)
        except OSError as error:
            self._close_connection(f"{type(error).__name__} {error}")
        else:
            self._listened = self._heard = self._pinged = 0.0
            self._pong, self._highest = None, -1
            if self._sequence_field is None:
                self._report_silence()

    def _read_message(self, within_s: float) -> None:
        from websockets.exceptions import ConnectionClosed

        begun = time.monotonic()
        try:
            message = None
            with contextlib.suppress(TimeoutError):
                message = self._connection.recv(min(within_s, self._heartbeat_s / 4), decode=False)
            self._listened += time.monotonic() - begun
            if message is not None:
                self._heard, self._n_failed, self._is_away = self._listened, 0, False
                self._parse_message(message)
            self._test_link()
        except ConnectionClosed:
            self._close_connection("the connection ended")

    def _test_link(self) -> None:
        """Give up a connection that is silent, or whose other end does not answer."""
        if self._listened - self._heard > self._silent_s:
            self._was_silent = True
            self._close_connection(f"nothing came for {self._silent_s:.0f} s")
        elif self._listened - self._pinged >= self._heartbeat_s:
            if self._pong is not None and not self._pong.is_set():
                self._close_connection(f"a ping was not answered for {self._heartbeat_s:.0f} s")
                return
            self._check_numbers()
            self._pinged, self._pong = self._listened, self._connection.ping(ack_on_close=True)

    def _close_connection(self, why: str) -> None:
        """Before the next attempt: longer each time, until a message has come, and never the
        same for all clients of a server that comes back.
        """
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        most_s = min(_FIRST_PAUSE_S * 2**self._n_failed, self._reconnect_max_s) if self._n_failed else 0.0
        self._connect_at = time.monotonic() + most_s * random.uniform(0.5, 1.0)  # noqa: S311  (no secret)
        self._n_failed += 1
        self._fault = why
        if self._n_failed > 1 and not self._is_away and not self._is_closed:  # the second in a row
            self._is_away = True
            self._told(f"{self._log}: {why}")

    # What comes

    def _parse_message(self, message: bytes) -> None:
        now = datetime.now(ZONE)
        if self._sequence_field is None:
            for value in _parse_values(message, self._records_field):
                self._first = self._add_ready(max(self._next or 0, _convert_to_micros(now)), now, value)
            return
        with contextlib.suppress(ValueError):
            for number, value in _parse_numbered(message, self._records_field, self._sequence_field):
                self._highest = max(self._highest, number)
                self._first = number if self._first is None else self._first
                record = _WaitingRecord(time.monotonic(), now, value)
                self._newest = max(self._newest or (number, record), (number, record))
                self._add_waiting(number, record)

    def _add_waiting(self, number: int, record: _WaitingRecord) -> bool:
        """Keep a record until its turn comes; whether it is a new one."""
        if number < (self._next or 0) or number in self._waiting:
            return False
        self._waiting[number] = record
        self._waiting_bytes += len(record.value)
        heapq.heappush(self._order, number)
        return True

    def _add_ready(self, offset: int, at: datetime, value: bytes, end: int | None = None) -> int:
        self._next = offset + 1 if end is None else end
        self._ready.append(_ReadyRecord(offset, at, value, self._next))
        return offset

    def _sort_ready(self, n: int, until: float) -> None:
        """Make ready what is in order, then see to the gap before the rest: until *n* are ready,
        or time is up.
        """
        while self._order and len(self._ready) < n:
            if self._order[0] == self._next:
                record = self._waiting.pop(heapq.heappop(self._order))
                self._waiting_bytes -= len(record.value)
                self._add_ready(self._next, record.at, record.value)
                self._asked_since, self._ask_at, self._n_asked = None, 0.0, 0
            elif (
                time.monotonic() < max(self._waiting[self._order[0]].since + self._reorder_s, self._ask_at)
                or not self._close_gap()
                or time.monotonic() > until
            ):
                return

    def _close_gap(self) -> bool:
        """Whether the gap before what is waiting got smaller: from REST, or by being given up."""
        if self._next is None:  # of a new table nothing is known to be before it
            self._next = self._order[0]
            return True
        first, last = self._next, self._order[0] - 1
        answer = [] if self._rest is None else self._rest.fetch(first, last)
        at = datetime.now(ZONE)
        if sum(
            self._add_waiting(number, _WaitingRecord(0.0, at, value))
            for number, value in answer or ()
            if number <= last
        ):
            self._asked_since, self._ask_at, self._n_asked = None, 0.0, 0
            return True
        now = time.monotonic()
        self._asked_since = now if self._asked_since is None else self._asked_since
        self._n_asked += answer is not None
        self._ask_at = now + _ASK_AGAIN_S
        if (
            self._rest is not None
            and self._n_asked < _N_ASKED
            and now - self._asked_since < self._backfill_wait_s
        ):
            return False
        self._add_ready(
            first,
            at,
            encode_loss(f"numbers {first} to {last} came neither by the socket nor from REST"),
            last + 1,
        )
        self._asked_since, self._ask_at, self._n_asked = None, 0.0, 0
        self._lost({"source": self._source, "first": first, "last": last, "n": last - first + 1})
        return True

    def _report_silence(self) -> None:
        """Say that what came since the last message, or since the mark, is lost: nobody numbered
        it.
        """
        now = datetime.now(ZONE)
        since, self._next = self._next, max(self._next or 0, _convert_to_micros(now))
        if since is not None:
            span = {"since": _format_time(since), "until": now.isoformat()}
            self._add_ready(
                since,
                now,
                encode_loss(f"what came from {span['since']} to {span['until']}, without a connection"),
                max(self._next, since + 1),
            )
            self._lost({"source": self._source, **span})

    def _check_numbers(self) -> None:
        if self._next is not None and -1 < self._highest < self._next - 1 and self._listened > self._silent_s:
            raise FeedError(
                f"{self._log}: for {self._silent_s:.0f} s its numbers have been below {self._next}, up to"
                f" which the table has read; the greatest was {self._highest}. It has begun to count anew."
                " Nothing of it was taken for a repeat and dropped that was committed; to go on with the new"
                " numbers name another `feed.source.log`."
            )

    def _delete_waiting(self) -> None:
        self._waiting.clear()
        self._order.clear()
        self._waiting_bytes = 0
        self._asked_since, self._ask_at, self._n_asked = None, 0.0, 0


class _RestBackfill:
    """Where numbers are fetched that the socket did not bring."""

    def __init__(
        self, url: str, field: str | None, sequence_field: str, headers: Mapping[str, str], log: str
    ) -> None:
        import httpx

        self._client = httpx.Client(timeout=_ANSWER_S, headers=dict(headers), follow_redirects=True)
        self._url, self._field, self._sequence_field, self._log = url, field, sequence_field, log

    def fetch(self, first: int, last: int) -> list[tuple[int, bytes]] | None:
        """Numbers and records of an answer about that range; None when there is none just now.

        Raises FeedError when it refuses us.
        """
        import httpx

        try:
            answer = self._client.get(self._url.replace("{first}", str(first)).replace("{last}", str(last)))
            if answer.status_code in _REFUSED:
                raise FeedError(
                    f"{self._log}: `feed.source.backfill_url` refuses us: {answer.status_code}. Look at it"
                    " and at `feed.source.headers`, and at the secrets in them."
                )
            if answer.is_server_error or answer.status_code in _LATER:
                return None
            return (
                _parse_numbered(answer.content, self._field, self._sequence_field)
                if answer.is_success
                else []
            )
        except (httpx.HTTPError, ValueError):
            return None

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def _parse_objects(message: bytes, field: str | None) -> list[tuple[dict[str, Any], bytes]]:
    """The records of *message*, read and as bytes. Raises ValueError when it is no JSON."""
    import orjson

    read = orjson.loads(message)
    if field is None and isinstance(read, dict):
        return [(read, message)]
    found = read.get(field) if isinstance(read, dict) else read
    return [
        (one, orjson.dumps(one))
        for one in (found if isinstance(found, list) else [found])
        if isinstance(one, dict)
    ]


def _parse_numbered(message: bytes, field: str | None, sequence_field: str) -> list[tuple[int, bytes]]:
    """Those records of *message* that have a number, which may be written as a text.

    Raises ValueError when it is no JSON.
    """
    told = ((one.get(sequence_field), value) for one, value in _parse_objects(message, field))
    read = (
        (int(number) if isinstance(number, str) and number.isdecimal() else number, value)
        for number, value in told
    )
    return [(number, value) for number, value in read if type(number) is int and 0 <= number < _MOST_NUMBER]


def _parse_values(message: bytes, field: str | None) -> list[bytes]:
    if field is None:
        return [message]
    with contextlib.suppress(ValueError):
        return [value for _, value in _parse_objects(message, field)]
    return []


def _convert_to_micros(at: datetime) -> int:
    return int(at.timestamp() * 1_000_000)


def _format_time(micros: int) -> str:
    return datetime.fromtimestamp(micros / 1_000_000, ZONE).isoformat()
