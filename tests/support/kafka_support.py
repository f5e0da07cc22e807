"""A real Kafka broker for tests, one a test process, and topics with names of their own."""

from uuid import uuid4

import pytest

from deployments.ops.kafka_broker import run_broker


@pytest.fixture(scope="session")
def kafka_cluster(tmp_path_factory):
    """A running broker; `.address` is what clients are given. It ends with the tests."""
    with run_broker(tmp_path_factory.mktemp("kafka")) as cluster:
        yield cluster


def make_topic(address: str, n_partitions: int = 4, copies: int = -1, name: str = "", **config: str) -> str:
    """The name of a new topic that exists for every client.

    config: its settings, `_` for `.` (cleanup_policy="compact").
    """
    from confluent_kafka.admin import AdminClient, NewTopic

    name = name or f"t-{uuid4().hex[:10]}"
    admin = AdminClient({"bootstrap.servers": address})
    settings = {key.replace("_", "."): value for key, value in config.items()}
    admin.create_topics([NewTopic(name, n_partitions, copies, config=settings)], operation_timeout=20)[
        name
    ].result(30)
    return name
