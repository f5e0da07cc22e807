"""A Kafka topic by an admin client: which one it is, and which offsets it has."""

import contextlib
from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import Any

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from tasks.core.errors import FeedError, TopicMissingError

_ANSWER_S = 10.0
_COMMIT_ANSWER_S = 2.0  # a commit waits for this answer


class ClientError(IntEnum):
    """Errors of the client itself, by the codes of librdkafka.

    `confluent_kafka` has them too, but under names that are not public: `KafkaError._FATAL`.
    """

    PARTITION_EOF = -191
    UNKNOWN_PARTITION = -190
    UNKNOWN_TOPIC = -188
    ALL_BROKERS_DOWN = -187
    AUTHENTICATION = -169
    FATAL = -150
    FENCED = -144
    AUTO_OFFSET_RESET = -140


NO_TOPIC = {KafkaError.UNKNOWN_TOPIC_OR_PART, ClientError.UNKNOWN_TOPIC}


class KafkaTopic:
    """The topic *name* at *address*, as it is when this is made.

    options: settings of librdkafka; those of an admin client are taken.
    Raises TopicMissingError when the topic is not there, FeedError when no broker answers.
    """

    def __init__(self, address: str, name: str, options: Mapping[str, Any]) -> None:
        self.address, self.name = address, name
        self._admin = AdminClient(select_admin_options({"bootstrap.servers": address, **options}))
        self.cluster_id, self.topic_id, self.n_partitions = self._fetch_ids()

    def build_source_name(self, partition: int) -> str:
        """The name of a partition: no other cluster's, and not that of a topic of the same name."""
        return f"kafka:{self.cluster_id}/{self.topic_id}/{partition}"

    def check_same(self) -> None:
        """Raise FeedError when the topic is gone, or another one has its name.

        Nothing while no broker answers.
        """
        try:
            _, topic_id, _ = self._fetch_ids()
        except TopicMissingError:
            raise
        except FeedError:
            return  # no broker answers at the moment; the client goes on trying
        self._check_topic_id(topic_id)

    def is_same(self) -> bool:
        """Whether it is still that topic; a topic that is gone was still that one.

        False while no broker answers. Raises FeedError when another topic has its name.
        """
        topics = TopicCollection([self.name])
        try:
            answer = self._admin.describe_topics(topics, request_timeout=_COMMIT_ANSWER_S)[self.name]
            found = answer.result(2 * _COMMIT_ANSWER_S)
        except TimeoutError:  # the client does not even report that no broker answers
            return False
        except KafkaException as error:
            return error.args[0].code() in NO_TOPIC
        self._check_topic_id(str(found.topic_id))
        return True

    def fetch_ends(self, partitions: Iterable[int]) -> dict[int, int]:
        """Partition -> the next offset to be written; only partitions whose broker answers."""
        return self._fetch_offsets(partitions, OffsetSpec.latest())

    def fetch_kept_offsets(self) -> dict[str, tuple[int, int]]:
        """Source -> (first offset that is kept, next one to be written), of every partition.

        Raises FeedError when not all brokers answer.
        """
        try:
            found = self._admin.list_topics(topic=self.name, timeout=_ANSWER_S).topics[self.name]
            partitions = list(found.partitions)
            first = self._fetch_offsets(partitions, OffsetSpec.earliest())
            end = self.fetch_ends(partitions)
            return {self.build_source_name(p): (first[p], end[p]) for p in partitions}
        except (KafkaException, KeyError) as error:
            raise FeedError(
                f"Kafka at {self.address} does not say which offsets of {self.name!r} it has. Try again when"
                " all its nodes are up."
            ) from error

    def _fetch_offsets(self, partitions: Iterable[int], which: OffsetSpec) -> dict[int, int]:
        """Partition -> one of its offsets, of committed records.

        The admin client asks: on the consumer's connection the request would wait behind a fetch
        that waits for records, half a second.
        """
        request = dict.fromkeys((TopicPartition(self.name, p) for p in partitions), which)
        answers = self._admin.list_offsets(
            request, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=_ANSWER_S
        )
        offsets = {}
        for partition, answer in answers.items():
            with contextlib.suppress(KafkaException):  # its broker is down at the moment
                offsets[partition.partition] = answer.result().offset
        return offsets

    def _fetch_ids(self) -> tuple[str, str, int]:
        """(cluster id, topic id, number of partitions)."""
        try:
            cluster_id = self._admin.list_topics(topic=self.name, timeout=_ANSWER_S).cluster_id
            topics = TopicCollection([self.name])
            answer = self._admin.describe_topics(topics, request_timeout=_ANSWER_S)[self.name]
            found = answer.result(2 * _ANSWER_S)
        except TimeoutError as error:
            raise FeedError(
                f"Kafka at {self.address} does not answer. Start it (`tidemill up --kafka`), or set"
                " TIDEMILL_KAFKA."
            ) from error
        except KafkaException as error:
            if error.args[0].code() in NO_TOPIC:
                raise TopicMissingError(self.address, self.name) from error
            raise FeedError(
                f"Kafka at {self.address} does not answer: {error.args[0].str()}. Start it (`tidemill up"
                " --kafka`), or set TIDEMILL_KAFKA."
            ) from error
        return str(cluster_id), str(found.topic_id), len(found.partitions)

    def _check_topic_id(self, topic_id: str) -> None:
        if topic_id != self.topic_id:
            raise FeedError(
                f"Topic {self.name!r} was deleted and made again (id {topic_id}, before {self.topic_id}):"
                " what it held and was not read is gone. Start again to read the new one from its beginning."
            )


def select_admin_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in *options* that an admin client knows: addresses, security, logging."""
    return {
        k: v
        for k, v in options.items()
        if k.split(".")[0] in {"bootstrap", "security", "sasl", "ssl", "socket", "log_level", "broker"}
    }
