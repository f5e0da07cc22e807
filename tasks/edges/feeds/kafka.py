"""A Kafka topic as a feed.

The table's marks say where reading begins, never the broker's: offsets committed in the group are
for lag displays alone. Partitions come by a consumer group with static membership: a process that
was killed takes its place again at once, instead of after the session's 45 s, and a second one
under the same member number fences the first. Callbacks of the group run inside `poll`.
"""

import contextlib
import json
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import polars as pl
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Message,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec

from tasks.core.errors import FeedError, FencedError, OffsetLostError, TopicMissingError
from tasks.core.records import RECORDS, Marks, PolledRecords

# Prefetched beside what we hold: 16 MB cost 60 MB more and gain nothing; a record of 20 MB still
# passes
_QUEUED_KB = 8_192
# A poll ends when it has so much; looked at after each piece
_POLL_BYTES, _PIECE, _PIECE_S = 8_000_000, 1_000, 0.01
_ANSWER_S = 10.0
_VOUCH_S = 2.0  # a commit waits for this answer
# Who is fenced so soon after the brokers went was taken for another: the answer to its own return
# was lost with them
_AGAIN_S = 60.0
_STILL_S = 5.0  # what comes so soon after the brokers went was in the client before
_FAR = 2**63  # where nobody has said how far a source reaches
_LOOK_S = 10.0  # how often the topic's id is asked for: a topic that is made anew has another one
_TUNING = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    # `earliest` would land everything twice after a topic is made anew, `latest` would skip what
    # retention left
    "auto.offset.reset": "error",
    "enable.partition.eof": True,
    "isolation.level": "read_committed",
    # With the default of 1000 the client sleeps beside a full queue: a fifth of the rate
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
# The library's name
_NO_TOPIC = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC}  # noqa: SLF001
# What the client cannot mend by trying again.
_FATAL = {
    # The library's name
    KafkaError._AUTO_OFFSET_RESET,  # noqa: SLF001
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    # The same
    KafkaError._FATAL,  # noqa: SLF001
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError._AUTHENTICATION,  # noqa: SLF001
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001
    KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001  (the same)
}
# A fenced consumer hears of it once, as a message of code _FATAL whose `fatal()` is false; the
# reason stands in its text alone. After that it is silent.
_FENCED = {KafkaError.FENCED_INSTANCE_ID, KafkaError._FENCED}  # noqa: SLF001  (the same)


class KafkaFeed:
    """One topic, read as member *member* of *group*. options: more settings of librdkafka
    (security); they win over ours.

    told: called with the reason when no broker answers any more, once until records come again. The
    client goes on trying.
    """

    def __init__(
        self,
        address: str,
        topic: str,
        group: str,
        member: str = "0",
        options: Mapping[str, Any] | None = None,
        told: Callable[[str], Any] = lambda _: None,
    ) -> None:
        # With 3 it writes 20 lines a second while no broker is there
        common = {"bootstrap.servers": address, "log_level": 2, **(options or {})}
        self._topic, self._address = topic, address
        self._admin = AdminClient(select_admin_options(common))
        self._cluster, self._topic_id, n_partitions = self._fetch_topic_ids()
        # A member that comes back under its id is given what it had, whatever it subscribes to now:
        # of another topic, or of fewer partitions.
        instance = f"{group}-{self._topic_id}-{n_partitions}-{member}"
        identity = {"group.id": group, "group.instance.id": instance, "client.id": f"{group}-{member}"}
        self._told, self._is_away, self._away_at = told, False, -math.inf
        self._settings = {**_TUNING, **identity, **common, "error_cb": self._heard}
        self._consumer = Consumer(self._settings)
        self._marks: Callable[[], Marks] = dict
        self._ours: dict[int, str] = {}
        self._ends: dict[str, int] = {}
        self._wanted: dict[str, int] = {}
        self._revoked: set[str] = set()
        self._was_assigned = False
        self._looked = time.monotonic()

    def open(self, marks: Callable[[], Marks]) -> None:
        """Join the group. Partitions come with the first polls."""
        self._marks = marks
        self._join_group()

    def _join_group(self) -> None:
        self._consumer.subscribe(
            [self._topic],
            on_assign=self._apply_assignment,
            on_revoke=self._apply_revocation,
            on_lost=self._apply_revocation,
        )

    def poll(self, n_records: int, within_s: float) -> PolledRecords:
        """See Feed.

        Raises FeedError when the topic is gone or made anew, offsets are no longer kept, or access
        is refused.
        """
        if time.monotonic() - self._looked > _LOOK_S:
            self._check_same_topic()
        self._was_assigned = False
        try:
            messages = self._fetch_messages(n_records, within_s)
        except KafkaException as error:
            self._check_fault(error.args[0])
            messages = []
        # Some may have been read before, from where the table's marks no longer are
        if self._was_assigned and messages:
            messages = []
            self.rewind()
        ends: dict[str, int] = {}
        records = []
        for message in messages:
            if (fault := message.error()) is None:
                records.append(message)
            elif fault.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001  (the library's name)
                if (source := self._ours.get(message.partition())) is not None:
                    ends[source] = message.offset()
            else:
                self._check_fault(fault)
        frame = self._build_frame([m for m in records if m.partition() in self._ours])
        last = frame.group_by("_source").agg(pl.col("_offset").max() + 1)
        for source, end in last.iter_rows():
            ends[source] = max(end, ends.get(source, 0))
        self._ends |= ends
        self._is_away &= not ends or time.monotonic() < self._away_at + _STILL_S
        revoked, self._revoked = frozenset(self._revoked), set()
        return PolledRecords(frame, ends, revoked)

    def is_same(self) -> bool:
        """See Feed: the client goes on reading a topic that was made anew as though it were the old
        one.

        One that is gone was still the one.
        """
        try:
            now = self._admin.describe_topics(TopicCollection([self._topic]), request_timeout=_VOUCH_S)[
                self._topic
            ].result(2 * _VOUCH_S)
        except TimeoutError:  # the client does not even say that nobody answers
            return False
        except KafkaException as error:
            return error.args[0].code() in _NO_TOPIC
        self._check_topic_id(str(now.topic_id))
        return True

    def _fetch_messages(self, n_records: int, within_s: float) -> list[Message]:
        """Piece by piece, since records of 20 MB may come where small ones are usual, and the
        client counts records alone.
        """
        until, messages, n_bytes = time.monotonic() + within_s, list[Message](), 0
        while len(messages) < n_records and n_bytes < _POLL_BYTES and (left := until - time.monotonic()) > 0:
            piece = self._consumer.consume(min(n_records - len(messages), _PIECE), min(left, _PIECE_S))
            n_bytes += sum(map(len, piece))
            messages += piece
        return messages

    def rewind(self) -> None:
        """See Feed."""
        self._start_partitions(list(self._ours))

    def lag(self) -> dict[str, int]:
        """See Feed."""
        found = {}
        for partition, source in self._ours.items():
            with contextlib.suppress(KafkaException):
                _, high = self._consumer.get_watermark_offsets(
                    TopicPartition(self._topic, partition), cached=True
                )
                found[source] = max(high - self._ends.get(source, 0), 0)
        return found

    def is_caught_up(self) -> bool:
        """See Feed; False until the group has given us partitions, and while the broker does not
        say how far they reach.
        """
        if fresh := [p for p, source in self._ours.items() if source not in self._wanted]:
            self._wanted |= {
                self._source(p): offset for p, offset in self._reach(fresh, OffsetSpec.latest()).items()
            }
        return bool(self._ours) and all(
            self._ends.get(source, 0) >= self._wanted.get(source, _FAR) for source in self._ours.values()
        )

    def kept(self) -> dict[str, tuple[int, int]]:
        """Source -> (first offset that the topic has, next one to be written), of every partition.

        Raises FeedError when nobody answers.
        """
        try:
            partitions = list(
                self._admin.list_topics(topic=self._topic, timeout=_ANSWER_S).topics[self._topic].partitions
            )
            first, end = (
                self._reach(partitions, spec) for spec in (OffsetSpec.earliest(), OffsetSpec.latest())
            )
            return {self._source(p): (first[p], end[p]) for p in partitions}
        except (KafkaException, KeyError) as error:
            raise FeedError(
                f"Kafka at {self._address} does not say what it has of {self._topic!r}. Try again when all"
                " its nodes are up."
            ) from error

    def close(self) -> None:
        """See Feed.

        The place in the group is kept for the session's time: the next start takes it without a
        rebalance.
        """
        self._consumer.close()

    def _heard(self, error: KafkaError) -> None:
        if error.code() != KafkaError._ALL_BROKERS_DOWN:  # noqa: SLF001  (the library's name)
            return
        self._away_at = time.monotonic()
        if not self._is_away:
            self._is_away = True
            self._told(f"Kafka at {self._address} does not answer: {error.str()}")

    def _apply_assignment(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        self._was_assigned = True
        self._start_partitions([p.partition for p in partitions])

    def _start_partitions(self, partitions: list[int]) -> None:
        marks = self._marks()
        self._ours = {p: self._source(p) for p in partitions}
        self._ends = {source: marks[source] for source in self._ours.values() if source in marks}
        self._consumer.assign(
            [
                TopicPartition(self._topic, p, marks.get(source, OFFSET_BEGINNING))
                for p, source in self._ours.items()
            ]
        )

    def _apply_revocation(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        for p in partitions:
            if (source := self._ours.pop(p.partition, None)) is not None:
                self._revoked.add(source)

    def _reach(self, partitions: list[int], wanted: OffsetSpec) -> dict[int, int]:
        """Partition -> its first or next offset, of committed records; those that nobody answers
        for lack.

        The admin client asks: on the consumer's connection the question would wait behind a fetch
        that waits for records, half a second.
        """
        asked = dict.fromkeys((TopicPartition(self._topic, p) for p in partitions), wanted)
        answers = self._admin.list_offsets(
            asked, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=_ANSWER_S
        )
        found = {}
        for partition, answer in answers.items():
            with contextlib.suppress(KafkaException):  # the broker is away just now
                found[partition.partition] = answer.result().offset
        return found

    def _source(self, partition: int) -> str:
        return f"kafka:{self._cluster}/{self._topic_id}/{partition}"

    def _build_frame(self, messages: list[Message]) -> pl.DataFrame:
        names = self._ours
        return pl.DataFrame(
            {
                "_source": [names[m.partition()] for m in messages],
                "_offset": [m.offset() for m in messages],
                "_timestamp": pl.Series([m.timestamp()[1] for m in messages], dtype=pl.Int64) * 1000,
                "_key": [m.key() for m in messages],
                "_value": [m.value() for m in messages],
                "_headers": [_encode_headers(m.headers()) for m in messages],
            },
            schema_overrides={**RECORDS, "_timestamp": pl.Int64()},
        ).with_columns(pl.col("_timestamp").cast(RECORDS["_timestamp"]))

    def _fetch_topic_ids(self) -> tuple[str, str, int]:
        """(cluster id, topic id, number of partitions).

        Raises TopicMissingError when the topic is not there, FeedError when no broker answers.
        """
        try:
            cluster = self._admin.list_topics(topic=self._topic, timeout=_ANSWER_S).cluster_id
            found = self._admin.describe_topics(TopicCollection([self._topic]), request_timeout=_ANSWER_S)[
                self._topic
            ].result(2 * _ANSWER_S)
        except TimeoutError as error:
            raise FeedError(
                f"Kafka at {self._address} does not answer. Start it (`tidemill up --kafka`), or set"
                " TIDEMILL_KAFKA."
            ) from error
        except KafkaException as error:
            if error.args[0].code() in _NO_TOPIC:
                raise TopicMissingError(self._address, self._topic) from error
            raise FeedError(
                f"Kafka at {self._address} does not answer: {error.args[0].str()}. Start it (`tidemill up"
                " --kafka`), or set TIDEMILL_KAFKA."
            ) from error
        return str(cluster), str(found.topic_id), len(found.partitions)

    def _join_again(self) -> None:
        """Take the place once more, as a start would; if somebody else has it after all, they
        are fenced, and say so.
        """
        self._away_at = -math.inf
        self._revoked |= set(self._ours.values())
        self._ours = {}
        self._consumer.close()
        self._consumer = Consumer(self._settings)
        self._join_group()

    def _check_same_topic(self) -> None:
        self._looked = time.monotonic()
        try:
            _, now, _ = self._fetch_topic_ids()
        except TopicMissingError:
            raise
        except FeedError:
            return  # no broker answers just now; the client goes on trying
        self._check_topic_id(now)

    def _check_topic_id(self, now: str) -> None:
        if now != self._topic_id:
            raise FeedError(
                f"Topic {self._topic!r} was made anew (id {now}, before {self._topic_id}): what it held and"
                " was not read is gone. Start again to read the new one from its beginning."
            )

    def _check_fault(self, error: KafkaError) -> None:
        if error.code() == KafkaError._AUTO_OFFSET_RESET:  # noqa: SLF001  (the library's name)
            raise OffsetLostError(
                f"{self._topic}: the offset to read next is not kept any more ({error.str()}). Retention"
                " removed what was not read, or the log was cut. Nothing was skipped. Look first whether the"
                " records can be produced again; `tidemill feed skip` notes the gap and goes on at the first"
                " record that is there."
            )
        # The same
        if error.code() in {
            KafkaError.UNKNOWN_TOPIC_OR_PART,
            KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001
            KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001
        }:
            self._check_same_topic()
        elif error.code() in _FENCED or (error.code() == KafkaError._FATAL and "fenced" in error.str()):  # noqa: SLF001  (the same)
            if time.monotonic() > self._away_at + _AGAIN_S:
                raise FencedError(
                    f"{self._topic}: {error.str()} ({error.name()}). Another process has the same"
                    " TIDEMILL_FEED_MEMBER and took this one's place; what was held here is read there. End"
                    " one of the two, or give it a member of its own."
                )
            self._join_again()
        elif error.fatal() or error.code() in _FATAL:
            raise FeedError(
                f"{self._topic}: {error.str()} ({error.name()}). The client cannot mend it: look at access"
                " rights."
            )


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


def select_admin_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """What of *options* an admin client knows: addresses, security, logging."""
    return {
        k: v
        for k, v in options.items()
        if k.split(".")[0] in {"bootstrap", "security", "sasl", "ssl", "socket", "log_level", "broker"}
    }
