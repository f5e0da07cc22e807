"""A WebSocket as a feed.

A socket does not send again what it has sent, so everything depends on whether its records are
numbered. Numbered (*sequence_field*), each number is in the table once, or in a lost range,
whatever the connection does, and reading can begin again at any offset that *backfill_url* reaches.
Not numbered, the time without a connection is a lost range (see `sequencer`).

There is no thread, and no buffer of ours besides what is out of order: `poll` reads from the
socket. While nothing polls, or more than *buffer_mb* wait for a gap to be closed, the client
library holds a few messages and stops reading, and TCP pushes back.
"""

import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Self

import polars as pl
from pydantic import Field, model_validator

from tasks.core.errors import FeedError
from tasks.core.records import RECORDS, Offsets, PolledRecords, build_empty_poll
from tasks.edges.feeds.base import SourceContext, SourceParams
from tasks.edges.feeds.websocket.backfill import RestBackfill
from tasks.edges.feeds.websocket.connection import WebsocketConnection
from tasks.edges.feeds.websocket.sequencer import NumberedSequencer, ReceiptSequencer, Sequencer
from tasks.edges.settings import resolve_placeholders


class WebsocketParams(SourceParams):
    """A WebSocket. `${NAME}` in url, subscribe, headers and backfill_url is the environment's.

    log: the name under which the offset is stored; None: url without what follows `?`.
    subscribe: sent after each connection.
    headers: of the handshake and of REST.
    records_field: the field of a message that holds the record, or a list of them; None: the
    message is the record (or a list). Messages without it, or without a number, are no records.
    sequence_field: the number of a record, rising by 1.
    begin_at: the number with which a table begins; None: the least that is seen first.
    backfill_url: with {first} and {last}, gives records in that range, both ends included, in JSON
    (in backfill_field of it), any number of them in any order. It is asked until it gives nothing
    new.
    heartbeat_s, silent_s, reconnect_max_s: see WebsocketConnection.
    reorder_s: how long a gap is waited for.
    backfill_wait_s: how long a REST that does not answer is waited for.
    """

    is_json: ClassVar[bool] = True

    url: str
    log: str | None = None
    subscribe: tuple[str, ...] = ()
    headers: dict[str, str] = Field(default_factory=dict)
    records_field: str | None = None
    sequence_field: str | None = None
    begin_at: Annotated[int, Field(ge=0)] | None = None
    backfill_url: str | None = None
    backfill_field: str | None = None
    heartbeat_s: Annotated[float, Field(gt=0)] = 15.0
    silent_s: Annotated[float, Field(gt=0)] = 60.0
    reorder_s: Annotated[float, Field(ge=0)] = 1.0
    reconnect_max_s: Annotated[float, Field(gt=0)] = 30.0
    backfill_wait_s: Annotated[float, Field(ge=0)] = 300.0
    buffer_mb: Annotated[int, Field(ge=1)] = 64

    @model_validator(mode="after")
    def _check_sequence_field(self) -> Self:
        if self.sequence_field is None and (self.backfill_url is not None or self.begin_at is not None):
            raise ValueError(
                "`feed.source` has backfill_url or begin_at, and no sequence_field: only numbered records can"
                " be fetched again. Name it, or remove them."
            )
        if self.backfill_url is not None and not {"{first}", "{last}"} <= set(
            re.findall(r"\{\w+\}", self.backfill_url.replace("${", "$"))
        ):
            raise ValueError(
                "`feed.source.backfill_url` must hold {first} and {last}, the numbers that are asked for."
            )
        return self


class WebsocketFeed:
    """The records of *params*, whose texts hold no placeholders any more.

    report_down, report_lost: see SourceContext; a lost range has {first, last, n} or {since,
    until}.
    Raises FeedError when there is no connection at the start.
    """

    Params: ClassVar[type[SourceParams]] = WebsocketParams

    def __init__(
        self,
        params: WebsocketParams,
        report_down: Callable[[str], Any] = lambda _: None,
        report_lost: Callable[[Mapping[str, Any]], Any] = lambda _: None,
    ) -> None:
        self._params, self._report_lost = params, report_lost
        self._log = params.log or params.url.partition("?")[0]
        self._source = f"websocket:{self._log}"
        self._sequencer, self._backfill = _build_sequencer(params), _build_backfill(params, self._log)
        self._read_offsets: Callable[[], Offsets] = dict
        self._buffer_bytes = params.buffer_mb * 1_000_000
        self._is_closed = False
        self._connection = WebsocketConnection(
            params.url,
            self._log,
            params.subscribe,
            params.headers,
            heartbeat_s=params.heartbeat_s,
            silent_s=params.silent_s,
            reconnect_max_s=params.reconnect_max_s,
            report_down=report_down,
        )
        if not self._connection.open(0.0):
            raise FeedError(
                f"{self._log}: no connection: {self._connection.fault}. Start its server, or correct"
                " `feed.source.url`."
            )

    @classmethod
    def connect(cls, params: WebsocketParams, context: SourceContext) -> Self:
        """See RecordSource. The log's name keeps its placeholders, and so no secret."""
        resolved = {
            "log": params.log or params.url.partition("?")[0],
            "url": resolve_placeholders(params.url),
            "subscribe": tuple(map(resolve_placeholders, params.subscribe)),
            "headers": {name: resolve_placeholders(value) for name, value in params.headers.items()},
            "backfill_url": params.backfill_url and resolve_placeholders(params.backfill_url),
        }
        return cls(params.model_copy(update=resolved), context.report_down, context.report_lost)

    def open(self, read_offsets: Callable[[], Offsets]) -> None:
        """See RecordSource. What has come since the connection was made waits in it."""
        self._read_offsets = read_offsets
        self.rewind()

    def poll(self, n_records: int, timeout_s: float) -> PolledRecords:
        """See RecordSource.

        Raises FeedError when access is refused, or the numbers have begun again.
        """
        deadline = time.monotonic() + timeout_s
        self._close_gaps(n_records, deadline)
        while self._sequencer.count_ready() < n_records and (left_s := deadline - time.monotonic()) > 0:
            if self._is_closed or self._sequencer.n_waiting_bytes > self._buffer_bytes:
                time.sleep(min(left_s, 0.05))
            elif self._connection.is_open:
                self._receive(left_s)
            elif self._connection.open(left_s):
                self._sequencer.begin_connection(datetime.now(UTC))
            self._close_gaps(n_records, deadline)
        self._report_losses()
        if not (taken := self._sequencer.take(n_records)):
            return build_empty_poll()
        records = {
            "_source": [self._source] * len(taken),
            "_offset": [record.offset for record in taken],
            "_timestamp": [record.moment for record in taken],
            "_key": [None] * len(taken),
            "_value": [record.value for record in taken],
            "_headers": [None] * len(taken),
        }
        return PolledRecords(pl.DataFrame(records, schema=dict(RECORDS)), {self._source: taken[-1].end})

    def is_same(self) -> bool:
        """See RecordSource."""
        return True

    def rewind(self) -> None:
        """See RecordSource.

        What was polled and not committed is fetched from REST; without that, or without numbers, it
        is lost.
        """
        moment = datetime.now(UTC) if self._connection.is_open else None
        self._sequencer.rewind(self._read_offsets().get(self._source), moment)
        self._report_losses()

    def compute_lag(self) -> dict[str, int]:
        """See RecordSource: what was received and not polled, up to the greatest number seen."""
        return {self._source: self._sequencer.compute_lag()}

    def is_caught_up(self) -> bool:
        """Whether all was polled that came before the first record since `open`.

        A socket has no end: it is also caught up when nothing came for `silent_s`.
        """
        is_caught_up = self._sequencer.is_caught_up()
        return self._connection.was_silent if is_caught_up is None else is_caught_up

    def close(self) -> None:
        """See RecordSource."""
        self._is_closed = True
        self._sequencer.clear()
        self._connection.close()
        if self._backfill is not None:
            self._backfill.close()

    def _receive(self, timeout_s: float) -> None:
        message = self._connection.receive(timeout_s)
        if message is not None:
            self._sequencer.add_message(message, datetime.now(UTC), time.monotonic())
        self._connection.check(self._check_restart)

    def _close_gaps(self, n_records: int, deadline: float) -> None:
        """Have up to *n_records* ready: ask REST for gaps that are due, until the deadline."""
        while (gap := self._sequencer.advance(n_records, time.monotonic())) is not None:
            records = [] if self._backfill is None else self._backfill.fetch(gap)
            is_smaller = self._sequencer.close_gap(gap, records, datetime.now(UTC), time.monotonic())
            if not is_smaller or time.monotonic() > deadline:
                return

    def _check_restart(self) -> None:
        restart = self._sequencer.find_restart()
        if restart is not None and self._connection.waited_s > self._params.silent_s:
            greatest, expected = restart
            raise FeedError(
                f"{self._log}: for {self._params.silent_s:.0f} s its numbers have been below {expected}, up"
                f" to which the table has read; the greatest was {greatest}. It has begun to count again."
                " Nothing that was committed was dropped as a repeat; to go on with the new numbers, name"
                " another `feed.source.log`."
            )

    def _report_losses(self) -> None:
        for facts in self._sequencer.losses:
            self._report_lost({"source": self._source, **facts})
        self._sequencer.losses.clear()


def _build_sequencer(params: WebsocketParams) -> Sequencer:
    if params.sequence_field is None:
        return ReceiptSequencer(params.records_field)
    return NumberedSequencer(
        params.records_field,
        params.sequence_field,
        params.begin_at,
        reorder_s=params.reorder_s,
        backfill_wait_s=params.backfill_wait_s,
        has_backfill=params.backfill_url is not None,
    )


def _build_backfill(params: WebsocketParams, log: str) -> RestBackfill | None:
    if params.backfill_url is None or params.sequence_field is None:
        return None
    return RestBackfill(
        params.backfill_url, params.backfill_field, params.sequence_field, params.headers, log
    )
