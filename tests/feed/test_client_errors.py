"""Codes of the client's own errors, against those that the library has under private names."""

from confluent_kafka import KafkaError

from tasks.edges.feeds.kafka_topic import ClientError


def test_codes_are_those_of_the_library():
    assert {error.name: error.value for error in ClientError} == {
        error.name: getattr(KafkaError, f"_{error.name}") for error in ClientError
    }
