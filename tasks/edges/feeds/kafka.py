"""A Kafka topic as a feed.

The table's offsets decide where reading begins, never the broker's: offsets that are committed in
the group serve lag displays alone. Partitions are assigned by a consumer group with static
membership: a process that was killed takes its place again immediately, instead of after the
session's 45 s, and a second process under the same member number fences the first. Callbacks of the
group run inside `poll`.
"""

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Self

import polars as pl
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from tasks.core.errors import FeedError, FencedError, OffsetLostError
from tasks.core.records import RECORDS, Offsets, PolledRecords
from tasks.edges.feeds.base import SourceContext, SourceParams
from tasks.edges.feeds.kafka_topic import NO_TOPIC, ClientError, KafkaTopic
from tasks.edges.settings import read_settings

# The client fetches ahead in addition to what we hold: 16 MB cost 60 MB more and gain nothing; a
# record of 20 MB still passes
_QUEUED_KB = 8_192
# A poll ends when it has so many bytes; they are counted after each piece
_POLL_BYTES, _PIECE, _PIECE_S = 8_000_000, 1_000, 0.01
# A member that is fenced so soon after the brokers went down was taken for another: the answer to
# its own return was lost with them
_REJOIN_S = 60.0
_QUEUED_S = 5.0  # what comes so soon after the brokers went down was in the client before
_UNKNOWN_END = 2**63  # no broker has reported yet how far a partition reaches
_CHECK_S = 10.0  # how often the topic's id is asked for: a topic that is made again has another one
_TUNING = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    # `earliest` would land everything twice after a topic is made again, `latest` would skip what
    # retention left
    "auto.offset.reset": "error",
    "enable.partition.eof": True,
    "isolation.level": "read_committed",
    # With the default of 1000 the client sleeps while its queue is full: a fifth of the rate
    "fetch.queue.backoff.ms": 5,
    "queued.min.messages": 20_000,
    "queued.max.messages.kbytes": _QUEUED_KB,
    # Of a partition, as it is compressed: JSON unpacks to ten times that, and 4 MB cost 80 MB more
    "fetch.message.max.bytes": 1_048_576,
    "fetch.max.bytes": 8_388_608,  # of one answer, unless its first record alone is larger
    "partition.assignment.strategy": "range",
    "session.timeout.ms": 45_000,
    "reconnect.backoff.max.ms": 1_000,  # a broker that comes back is found within a second
    "retry.backoff.max.ms": 1_000,
    "topic.metadata.refresh.interval.ms": 30_000,
    "allow.auto.create.topics": False,
}
_NO_TOPIC = {*NO_TOPIC, ClientError.UNKNOWN_PARTITION}
# What the client cannot fix by trying again
_FATAL = {
    *_NO_TOPIC,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    ClientError.FATAL,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    ClientError.AUTHENTICATION,
}
_FENCED = {KafkaError.FENCED_INSTANCE_ID, ClientError.FENCED}


class KafkaParams(SourceParams):
    """A topic. Brokers are in TIDEMILL_KAFKA, security in TIDEMILL_KAFKA_OPTIONS.

    group: of consumers; None: tidemill-<dataset>-<topic>.
    """

    topic: str
    group: str | None = None


class KafkaFeed:
    """One topic, read as member *member* of *group*.

    options: more settings of librdkafka (security); they win over ours.
    report_down: see SourceContext; the client goes on trying.
    """

    Params: ClassVar[type[SourceParams]] = KafkaParams

    def __init__(
        self,
        address: str,
        topic: str,
        group: str,
        member: str = "0",
        options: Mapping[str, Any] | None = None,
        report_down: Callable[[str], Any] = lambda _: None,
    ) -> None:
        # With 3 it writes 20 lines a second while no broker is there
        common = {"bootstrap.servers": address, "log_level": 2, **(options or {})}
        self.topic = KafkaTopic(address, topic, common)
        # A member that comes back under its id is given what it had, whatever it subscribes to now:
        # partitions of another topic, or fewer of them
        instance = f"{group}-{self.topic.topic_id}-{self.topic.n_partitions}-{member}"
        identity = {"group.id": group, "group.instance.id": instance, "client.id": f"{group}-{member}"}
        self._report_down, self._is_down, self._down_at = report_down, False, -math.inf
        self._settings = {**_TUNING, **identity, **common, "error_cb": self._handle_client_error}
        self._consumer = Consumer(self._settings)
        self._read_offsets: Callable[[], Offsets] = dict
        self._source_of: dict[int, str] = {}  # of the partitions that are assigned to us
        self._starts: dict[int, int] = {}  # of the same partitions, where reading began
        self._ends: dict[str, int] = {}
        self._wanted_ends: dict[str, int] = {}  # where reading has all that was there at `open`
        self._revoked: set[str] = set()
        self._reset = ""  # why the client gave up its place in a partition
        self._was_assigned = False
        self._checked_at = time.monotonic()

    @classmethod
    def connect(cls, params: KafkaParams, context: SourceContext) -> Self:
        """See RecordSource."""
        settings = read_settings()
        group = params.group or f"tidemill-{context.dataset}-{params.topic}"
        return cls(
            settings.kafka_address,
            params.topic,
            group,
            settings.feed_member,
            settings.kafka_options,
            context.report_down,
        )

    def open(self, read_offsets: Callable[[], Offsets]) -> None:
        """Join the group. Partitions are assigned during the first polls."""
        self._read_offsets = read_offsets
        self._join_group()

    def poll(self, n_records: int, timeout_s: float) -> PolledRecords:
        """See RecordSource.

        Raises FeedError when the topic is gone or was made again, offsets are no longer kept, or
        access is refused.
        """
        if time.monotonic() - self._checked_at > _CHECK_S:
            self._check_topic()
        self._was_assigned = False
        try:
            messages = self._fetch_messages(n_records, timeout_s)
        except KafkaException as error:
            self._check_fault(error.args[0])
            messages = []
        # Some may have been read before the assignment, from offsets that are not the table's
        if self._was_assigned and messages:
            messages = []
            self.rewind()
        records, ends = self._take_records(messages)
        frame = self._build_frame([m for m in records if m.partition() in self._source_of])
        last = frame.group_by("_source").agg(pl.col("_offset").max() + 1)
        for source, end in last.iter_rows():
            ends[source] = max(end, ends.get(source, 0))
        self._ends |= ends
        if self._reset:
            self._resume_partitions()
        self._is_down &= not ends or time.monotonic() < self._down_at + _QUEUED_S
        revoked, self._revoked = frozenset(self._revoked), set()
        return PolledRecords(frame, ends, revoked)

    def is_same(self) -> bool:
        """See RecordSource: the client reads on in a topic that was made again."""
        return self.topic.is_same()

    def rewind(self) -> None:
        """See RecordSource."""
        self._assign_partitions(self._source_of, self._read_offsets())

    def compute_lag(self) -> dict[str, int]:
        """See RecordSource."""
        lag = {}
        for partition, source in self._source_of.items():
            with contextlib.suppress(KafkaException):
                _, high = self._consumer.get_watermark_offsets(
                    TopicPartition(self.topic.name, partition), cached=True
                )
                lag[source] = max(high - self._ends.get(source, 0), 0)
        return lag

    def is_caught_up(self) -> bool:
        """See RecordSource.

        False until the group has assigned partitions, and while their brokers do not report how far
        they reach.
        """
        if new := [p for p, source in self._source_of.items() if source not in self._wanted_ends]:
            ends = self.topic.fetch_ends(new)
            self._wanted_ends |= {self.topic.build_source_name(p): end for p, end in ends.items()}
        return bool(self._source_of) and all(
            self._ends.get(source, 0) >= self._wanted_ends.get(source, _UNKNOWN_END)
            for source in self._source_of.values()
        )

    def close(self) -> None:
        """See RecordSource.

        The place in the group is kept for the session's time: the next start takes it without a
        rebalance.
        """
        self._consumer.close()

    def _join_group(self) -> None:
        self._consumer.subscribe(
            [self.topic.name],
            on_assign=self._apply_assignment,
            on_revoke=self._apply_revocation,
            on_lost=self._apply_revocation,
        )

    def _fetch_messages(self, n_records: int, timeout_s: float) -> list[Message]:
        """Messages, piece by piece.

        Records of 20 MB may come where small ones are usual, and the client counts records alone.
        """
        deadline, messages, n_bytes = time.monotonic() + timeout_s, list[Message](), 0
        while (
            len(messages) < n_records and n_bytes < _POLL_BYTES and (left := deadline - time.monotonic()) > 0
        ):
            piece = self._consumer.consume(min(n_records - len(messages), _PIECE), min(left, _PIECE_S))
            n_bytes += sum(map(len, piece))
            messages += piece
        return messages

    def _take_records(self, messages: list[Message]) -> tuple[list[Message], dict[str, int]]:
        """(those that are records, source -> where it ends). The others are faults."""
        ends: dict[str, int] = {}
        records = []
        for message in messages:
            if (fault := message.error()) is None:
                # The client may still read from where an earlier assignment began
                if message.offset() >= self._starts.get(message.partition(), 0):
                    records.append(message)
            elif fault.code() == ClientError.PARTITION_EOF:
                if (source := self._source_of.get(message.partition())) is not None:
                    ends[source] = message.offset()
            else:
                self._check_fault(fault)
        return records, ends

    def _handle_client_error(self, error: KafkaError) -> None:
        if error.code() != ClientError.ALL_BROKERS_DOWN:
            return
        self._down_at = time.monotonic()
        if not self._is_down:
            self._is_down = True
            self._report_down(f"Kafka at {self.topic.address} does not answer: {error.str()}")

    def _apply_assignment(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        self._was_assigned = True
        self._assign_partitions([p.partition for p in partitions], self._read_offsets())

    def _assign_partitions(self, partitions: Iterable[int], offsets: Offsets) -> None:
        self._source_of = {p: self.topic.build_source_name(p) for p in partitions}
        self._starts = {p: offsets.get(source, 0) for p, source in self._source_of.items()}
        self._ends = {source: offsets[source] for source in self._source_of.values() if source in offsets}
        self._consumer.assign(
            [
                TopicPartition(self.topic.name, p, offsets.get(source, OFFSET_BEGINNING))
                for p, source in self._source_of.items()
            ]
        )

    def _apply_revocation(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        for p in partitions:
            if (source := self._source_of.pop(p.partition, None)) is not None:
                self._revoked.add(source)

    def _build_frame(self, messages: list[Message]) -> pl.DataFrame:
        source_of = self._source_of
        return pl.DataFrame(
            {
                "_source": [source_of[m.partition()] for m in messages],
                "_offset": [m.offset() for m in messages],
                "_timestamp": pl.Series([m.timestamp()[1] for m in messages], dtype=pl.Int64) * 1000,
                "_key": [m.key() for m in messages],
                "_value": [m.value() for m in messages],
                "_headers": [_encode_headers(m.headers()) for m in messages],
            },
            schema_overrides={**RECORDS, "_timestamp": pl.Int64()},
        ).with_columns(pl.col("_timestamp").cast(RECORDS["_timestamp"]))

    def _rejoin_group(self) -> None:
        """Take the place once more, as a start would.

        Another process that has it after all is fenced, and reports that.
        """
        self._down_at = -math.inf
        self._revoked |= set(self._source_of.values())
        self._source_of = {}
        self._consumer.close()
        self._consumer = Consumer(self._settings)
        self._join_group()

    def _resume_partitions(self) -> None:
        """Go on where the client gave a partition up, while the broker has the offset.

        A request that a busy broker has not answered in time looks to the client like one for an
        offset that is gone. Raises OffsetLostError when it is gone.
        """
        try:
            kept = self.topic.fetch_kept_offsets()
        except FeedError:
            return  # no broker answers at the moment; the next poll asks again
        nexts = {source: self._ends.get(source, kept[source][0]) for source in self._source_of.values()}
        if any(not kept[source][0] <= offset <= kept[source][1] for source, offset in nexts.items()):
            raise OffsetLostError(
                f"{self.topic.name}: the offset to read next is not kept any more ({self._reset}). Retention"
                " removed what was not read, or the log was cut. Nothing was skipped. Look first whether the"
                " records can be produced again; `tidemill feed skip` notes the gap and goes on at the first"
                " record that is there."
            )
        self._assign_partitions(self._source_of, nexts)
        self._reset = ""

    def _check_topic(self) -> None:
        self._checked_at = time.monotonic()
        self.topic.check_same()

    def _check_fault(self, error: KafkaError) -> None:
        if error.code() == ClientError.AUTO_OFFSET_RESET:
            self._reset = error.str()
        elif error.code() in _NO_TOPIC:
            self._check_topic()
        elif is_fenced(error):
            if time.monotonic() > self._down_at + _REJOIN_S:
                raise FencedError(
                    f"{self.topic.name}: {error.str()} ({error.name()}). Another process has the same"
                    " TIDEMILL_FEED_MEMBER and took this one's place; what was held here is read there. End"
                    " one of the two, or give it a member of its own."
                )
            self._rejoin_group()
        elif error.fatal() or error.code() in _FATAL:
            raise FeedError(
                f"{self.topic.name}: {error.str()} ({error.name()}). The client cannot fix it: check the"
                " access rights."
            )


def is_fenced(error: KafkaError) -> bool:
    """Whether *error* says that another process took this member's place.

    The client reports it once, as a message of code _FATAL whose `fatal()` is false and whose text
    alone has the reason. After that it is silent.
    """
    is_fatal = error.code() == ClientError.FATAL
    return error.code() in _FENCED or (is_fatal and "fenced" in error.str())


def _encode_headers(headers: list[tuple[str, bytes | None]] | None) -> str | None:
    """Headers as JSON, bytes that are no text as hexadecimal."""
    if not headers:
        return None
    return json.dumps([[name, None if value is None else _decode_text(value)] for name, value in headers])


def _decode_text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return f"0x{value.hex()}"
