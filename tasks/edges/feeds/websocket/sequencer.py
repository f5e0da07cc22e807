"""The order of a socket's records, whatever it drops, repeats or sends out of order.

Pure: no socket, no REST, no clock. Times are arguments: *moment* is a point in time, *now* counts
seconds of a clock that only goes forward.

With numbers, the number is the offset. Repeats are dropped, and what comes out of order is put in
order. A gap is waited for `reorder_s`; then `advance` asks for it, and the answer of REST goes into
`close_gap`. What cannot be had becomes a record of its own, which names the numbers that are lost.

Without numbers, each record gets the time of its receipt, in microseconds, as offset. Between two
connections, and between the stored offset and the first connection after a start, it is not known
what was sent: that time becomes a lost range.
"""

import heapq
from collections import deque
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol

from tasks.core.records import encode_loss
from tasks.edges.feeds.websocket.messages import NumberedRecord, parse_numbered, parse_values

# A number that came by the socket may be a moment late in REST
REQUEST_PAUSE_S, MAX_ANSWERS = 1.0, 3


LossFacts = dict[str, int | str]  # {first, last, n}, or {since, until}


class ReadyRecord(NamedTuple):
    """A record with its offset and the next offset."""

    offset: int
    moment: datetime
    value: bytes
    end: int


class Gap(NamedTuple):
    """Numbers that are missing, both ends included."""

    first: int
    last: int


class _WaitingRecord(NamedTuple):
    """A record with a gap before it. since: when it came by the socket; 0: from REST."""

    since: float
    moment: datetime
    value: bytes


class Sequencer(Protocol):
    """Puts messages in order.

    n_waiting_bytes: of records that wait for a gap to be closed.
    losses: facts of lost ranges, oldest first, until they are reported and removed.
    """

    n_waiting_bytes: int
    losses: list[LossFacts]

    def rewind(self, offset: int | None, moment: datetime | None, /) -> None:
        """Begin again at the stored *offset*; what was not taken is forgotten.

        moment: the moment; None without a connection.
        """
        ...

    def begin_connection(self, moment: datetime, /) -> None:
        """Take note of a new connection."""
        ...

    def add_message(self, message: bytes, moment: datetime, now: float, /) -> None:
        """Take what the socket sent."""
        ...

    def advance(self, n_records: int, now: float, /) -> Gap | None:
        """Make up to *n_records* ready; the gap to ask REST for now, None when there is none."""
        ...

    def close_gap(
        self, gap: Gap, records: Sequence[NumberedRecord] | None, moment: datetime, now: float, /
    ) -> bool:
        """Take the answer about *gap*; whether it got smaller, or was given up.

        records: None when there was no answer.
        """
        ...

    def take(self, n_records: int) -> list[ReadyRecord]:
        """At most *n_records* that are ready."""
        ...

    def count_ready(self) -> int:
        """Records that are ready."""
        ...

    def compute_lag(self) -> int:
        """Records that were received, or are known to exist, and were not taken."""
        ...

    def is_caught_up(self) -> bool | None:
        """Whether all was taken that came before the first record; None before there was one."""
        ...

    def find_restart(self) -> tuple[int, int] | None:
        """(the greatest number of this connection, the next one), when all were read before."""
        ...

    def clear(self) -> None:
        """Forget all records."""
        ...


class _ReadyQueue:
    """Records in order, and the offset after the last one that was taken."""

    def __init__(self) -> None:
        self.losses: list[LossFacts] = []
        self.n_waiting_bytes = 0
        self._ready: deque[ReadyRecord] = deque()
        self._next: int | None = None  # the offset that becomes ready next; None: not known yet
        self._taken = 0  # the end of what was taken

    def take(self, n_records: int) -> list[ReadyRecord]:
        """See Sequencer."""
        taken = [self._ready.popleft() for _ in range(min(n_records, len(self._ready)))]
        if taken:
            self._taken = taken[-1].end
        return taken

    def count_ready(self) -> int:
        """See Sequencer."""
        return len(self._ready)

    def _restart(self, offset: int | None) -> None:
        self._next, self._taken = offset, offset or 0
        self._ready.clear()

    def _add_ready(self, offset: int, moment: datetime, value: bytes, end: int | None = None) -> None:
        self._next = offset + 1 if end is None else end
        self._ready.append(ReadyRecord(offset, moment, value, self._next))


class NumberedSequencer(_ReadyQueue):
    """Records with a number, *sequence_field*, that rises by 1.

    begin_at: the number with which a table begins; None: the least that is seen first.
    has_backfill: whether gaps can be fetched; without that they are given up when they are due.
    backfill_wait_s: how long REST is asked when it does not answer.
    """

    def __init__(
        self,
        records_field: str | None,
        sequence_field: str,
        begin_at: int | None = None,
        *,
        reorder_s: float = 1.0,
        backfill_wait_s: float = 300.0,
        has_backfill: bool = False,
    ) -> None:
        super().__init__()
        self._records_field, self._sequence_field, self._begin_at = records_field, sequence_field, begin_at
        self._reorder_s, self._backfill_wait_s = reorder_s, backfill_wait_s
        self._has_backfill = has_backfill
        self._waiting: dict[int, _WaitingRecord] = {}  # by number, at or beyond `_next`
        self._order: list[int] = []  # their numbers, a heap
        self._first: int | None = None  # the first number that came
        self._newest: tuple[int, _WaitingRecord] | None = None  # the record of the greatest number
        self._greatest = -1  # the greatest number of this connection
        # Of the gap before what is waiting: first request, next one, answers so far
        self._requested_since: float | None = None
        self._request_at, self._n_answers = 0.0, 0

    def rewind(self, offset: int | None, _moment: datetime | None) -> None:
        """See Sequencer. The newest record stays, so that what was lost before it is a gap."""
        self._restart(self._begin_at if offset is None else offset)
        self.clear()
        if self._newest is not None:
            self._add_waiting(*self._newest)

    def clear(self) -> None:
        """See Sequencer."""
        self._ready.clear()
        self._waiting.clear()
        self._order.clear()
        self.n_waiting_bytes = 0
        self._forget_gap()

    def begin_connection(self, _moment: datetime) -> None:
        """See Sequencer."""
        self._greatest = -1

    def add_message(self, message: bytes, moment: datetime, now: float) -> None:
        """See Sequencer. A message that is no JSON, or has no number, holds no record."""
        try:
            records = parse_numbered(message, self._records_field, self._sequence_field)
        except ValueError:
            return
        for number, value in records:
            self._greatest = max(self._greatest, number)
            self._first = number if self._first is None else self._first
            record = _WaitingRecord(now, moment, value)
            self._newest = max(self._newest or (number, record), (number, record))
            self._add_waiting(number, record)

    def advance(self, n_records: int, now: float) -> Gap | None:
        """See Sequencer."""
        while self._order and len(self._ready) < n_records:
            number = self._order[0]
            if number == self._next:
                heapq.heappop(self._order)
                record = self._waiting.pop(number)
                self.n_waiting_bytes -= len(record.value)
                self._add_ready(number, record.moment, record.value)
                self._forget_gap()
            elif now < max(self._waiting[number].since + self._reorder_s, self._request_at):
                return None
            elif self._next is None:  # of a new table nothing is known to be before it
                self._next = number
            else:
                return Gap(self._next, number - 1)
        return None

    def close_gap(
        self, gap: Gap, records: Sequence[NumberedRecord] | None, moment: datetime, now: float
    ) -> bool:
        """See Sequencer."""
        if self._add_backfill(gap, records or (), moment):
            self._forget_gap()
            return True
        self._requested_since = now if self._requested_since is None else self._requested_since
        self._n_answers += records is not None
        self._request_at = now + REQUEST_PAUSE_S
        is_exhausted = self._n_answers >= MAX_ANSWERS or now - self._requested_since >= self._backfill_wait_s
        if self._has_backfill and not is_exhausted:
            return False
        first, last = gap
        reason = f"numbers {first} to {last} came neither by the socket nor from REST"
        self._add_ready(first, moment, encode_loss(reason), last + 1)
        self._forget_gap()
        self.losses.append({"first": first, "last": last, "n": last - first + 1})
        return True

    def compute_lag(self) -> int:
        """See Sequencer; up to the greatest number that was seen."""
        return max(len(self._ready) + len(self._waiting), self._greatest + 1 - self._taken)

    def is_caught_up(self) -> bool | None:
        """See Sequencer."""
        return None if self._first is None else self._taken > self._first

    def find_restart(self) -> tuple[int, int] | None:
        """See Sequencer."""
        if self._next is None or not -1 < self._greatest < self._next - 1:
            return None
        return self._greatest, self._next

    def _add_backfill(self, gap: Gap, records: Iterable[NumberedRecord], moment: datetime) -> int:
        """Keep *records* that are not beyond *gap*; how many of them are new."""
        return sum(
            self._add_waiting(number, _WaitingRecord(0.0, moment, value))
            for number, value in records
            if number <= gap.last
        )

    def _add_waiting(self, number: int, record: _WaitingRecord) -> bool:
        """Keep a record until its turn comes; whether it is a new one."""
        if number < (self._next or 0) or number in self._waiting:
            return False
        self._waiting[number] = record
        self.n_waiting_bytes += len(record.value)
        heapq.heappush(self._order, number)
        return True

    def _forget_gap(self) -> None:
        self._requested_since, self._request_at, self._n_answers = None, 0.0, 0


class ReceiptSequencer(_ReadyQueue):
    """Records without numbers, by the time of their receipt."""

    def __init__(self, records_field: str | None) -> None:
        super().__init__()
        self._records_field = records_field
        self._newest: int | None = None  # the offset that came last

    def rewind(self, offset: int | None, moment: datetime | None) -> None:
        """See Sequencer; what came since *offset* is lost."""
        self._restart(offset)
        if moment is not None:
            self.begin_connection(moment)

    def clear(self) -> None:
        """See Sequencer."""
        self._ready.clear()

    def begin_connection(self, moment: datetime) -> None:
        """Note what came since the last record, or since the stored offset, as lost."""
        since, now = self._next, _convert_to_micros(moment)
        self._next = max(since or 0, now)
        if since is None:
            return
        span = {"since": _format_time(since), "until": moment.isoformat()}
        reason = f"what came from {span['since']} to {span['until']}, without a connection"
        self._add_ready(since, moment, encode_loss(reason), max(self._next, since + 1))
        self.losses.append({**span})

    def add_message(self, message: bytes, moment: datetime, _now: float) -> None:
        """See Sequencer."""
        for value in parse_values(message, self._records_field):
            self._newest = max(self._next or 0, _convert_to_micros(moment))
            self._add_ready(self._newest, moment, value)

    def advance(self, _n_records: int, _now: float) -> Gap | None:
        """See Sequencer; there are no gaps."""
        return None

    def close_gap(self, *_: Any) -> bool:
        """See Sequencer; there is no gap to close."""
        return False

    def compute_lag(self) -> int:
        """See Sequencer."""
        return len(self._ready)

    def is_caught_up(self) -> bool | None:
        """See Sequencer."""
        return None if self._newest is None else self._taken > self._newest

    def find_restart(self) -> tuple[int, int] | None:
        """See Sequencer; there are no numbers."""
        return None


def _convert_to_micros(moment: datetime) -> int:
    return int(moment.timestamp() * 1_000_000)


def _format_time(micros: int) -> str:
    return datetime.fromtimestamp(micros / 1_000_000, UTC).isoformat()
