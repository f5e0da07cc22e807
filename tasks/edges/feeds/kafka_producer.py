"""Records into a Kafka topic, each with its own time of production."""

from collections.abc import Mapping
from typing import Any

import polars as pl
from confluent_kafka import KafkaError, KafkaException, Message, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from tasks.core.errors import FeedError
from tasks.edges.feeds.kafka_topic import select_admin_options

_ANSWER_S = 10.0
_DELIVERY_S = 60.0
_TUNING = {
    "enable.idempotence": True,  # a batch that is sent again after a lost answer is there once, and in order
    "linger.ms": 20,
    "compression.type": "lz4",
    "queue.buffering.max.messages": 200_000,
    "message.timeout.ms": int(_DELIVERY_S * 1000),
}
N_PARTITIONS = 4


class TopicWriter:
    """Writes to one topic. options: as in KafkaFeed."""

    def __init__(self, address: str, topic: str, options: Mapping[str, Any] | None = None) -> None:
        common = {"bootstrap.servers": address, "log_level": 3, **(options or {})}
        self._topic, self._address = topic, address
        self._admin = AdminClient(select_admin_options(common))
        self._producer = Producer({**_TUNING, **common})
        self.n_delivered = 0
        self._fault: KafkaError | None = None

    def make_topic(self) -> bool:
        """Make the topic when it does not exist; whether it was made.

        It keeps records without a limit: those of a replay are older than any retention.
        """
        try:
            if self._topic in self._admin.list_topics(timeout=_ANSWER_S).topics:
                return False
            wanted = NewTopic(self._topic, num_partitions=N_PARTITIONS, config={"retention.ms": "-1"})
            self._admin.create_topics([wanted], operation_timeout=_ANSWER_S)[self._topic].result()
        except KafkaException as error:
            raise FeedError(
                f"Kafka at {self._address} does not make topic {self._topic!r}: {error.args[0].str()}. Start"
                " it (`tidemill up --kafka`), set TIDEMILL_KAFKA, or check the access rights."
            ) from error
        return True

    def write(self, records: pl.DataFrame) -> None:
        """Send _timestamp, _key and _value of *records*, in their order.

        Raises FeedError when an earlier one was refused.
        """
        columns = records.select(pl.col("_timestamp").dt.timestamp("ms"), "_key", "_value")
        for timestamp, key, value in columns.iter_rows():
            while True:
                try:
                    self._producer.produce(
                        self._topic, value, key, timestamp=timestamp, on_delivery=self._count_delivery
                    )
                    break
                except BufferError:  # the queue is full: wait for the broker
                    self._producer.poll(0.1)
        self._producer.poll(0)
        self._check_fault()

    def flush(self) -> int:
        """Wait until everything is delivered; the number of records that were.

        Raises FeedError when some were not.
        """
        left = self._producer.flush(_DELIVERY_S)
        self._check_fault()
        if left:
            raise FeedError(
                f"Kafka at {self._address} did not take {left:,} records within {_DELIVERY_S:.0f} s. Check"
                " whether it still runs."
            )
        return self.n_delivered

    def _count_delivery(self, fault: KafkaError | None, _: Message) -> None:
        if fault is None:
            self.n_delivered += 1
        else:
            self._fault = fault

    def _check_fault(self) -> None:
        if self._fault is not None:
            raise FeedError(
                f"{self._topic}: a record was refused: {self._fault.str()} ({self._fault.name()})."
                f" {self.n_delivered:,} before it were taken."
            )
