"""`tidemill replay` into a real topic: every row once, at its speed, with a clean end."""

import json
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from kafka_support import make_topic
from small_checkout import small_checkout

N = 500


@pytest.fixture(scope="module")
def checkout(kafka_cluster, tmp_path_factory):
    """A checkout with a file of *N* hourly loads of two series."""
    found = small_checkout(tmp_path_factory.mktemp("replay"), TIDEMILL_KAFKA=kafka_cluster.address)
    start = datetime(2024, 1, 1, tzinfo=UTC)
    rows = [
        f"{name},{start + timedelta(hours=i):%Y-%m-%dT%H:%M:%SZ},{i}.5"
        for i in range(N // 2)
        for name in ("north", "south")
    ]
    (found.root / "loads.csv").write_text("\n".join(["region,time,load", *rows]) + "\n")
    return found


@pytest.fixture
def topic(kafka_cluster):
    return make_topic(kafka_cluster.address)


def held(address, topic):
    """(time of production in ms, fields) of every record of *topic*."""
    consumer = Consumer({"bootstrap.servers": address, "group.id": "look", "enable.partition.eof": True})
    consumer.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in range(4)])
    found, n_ended = [], 0
    while n_ended < 4:
        for message in consumer.consume(1000, 1.0):
            if message.error():
                n_ended += 1
            else:
                found.append((message.timestamp()[1], json.loads(message.value())))
    consumer.close()
    return found


def test_every_row_is_in_the_topic_once_known_when_its_hour_ends(checkout, kafka_cluster, topic):
    result = json.loads(
        checkout.tidemill("replay", "loads.csv", "--topic", topic, "--speed", "max", "--json").stdout
    )
    assert (result["sent"], result["records"], result["stopped"], result["made"]) == (N, N, False, False)
    records = held(kafka_cluster.address, topic)
    assert {(one["series_id"], one["load"]) for _, one in records} == {
        (name, i + 0.5) for i in range(N // 2) for name in ("north", "south")
    }
    assert len(records) == N
    for produced, one in records:
        begins = datetime.strptime(one["event_time"], "%Y-%m-%dT%H:%M:%S%z")
        assert timedelta(milliseconds=produced) == begins + timedelta(hours=1) - datetime.fromtimestamp(
            0, UTC
        )


def test_now_moves_the_last_row_to_the_last_full_hour(checkout, kafka_cluster, topic):
    checkout.tidemill("replay", "loads.csv", "--topic", topic, "--speed", "max", "--now")
    newest = max(produced for produced, _ in held(kafka_cluster.address, topic)) / 1000
    assert 0 <= time.time() - newest < 3600 + 60


def test_control_c_ends_it_with_what_was_sent_until_then(checkout, kafka_cluster, topic):
    """At 36,000 times real time ten hours pass in a second, so that the 250 of the file take 25."""
    command = [
        sys.executable,
        "-m",
        "deployments.cli",
        "replay",
        "loads.csv",
        "--topic",
        topic,
        "--speed",
        "36000x",
        "--json",
    ]
    process = checkout.start(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    while not (n_before := len(held(kafka_cluster.address, topic))):
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    result = json.loads(process.communicate(timeout=30)[0])
    assert process.returncode == 0
    assert result["stopped"]
    assert n_before <= result["sent"] == len(held(kafka_cluster.address, topic)) < N


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("empty.csv",), "empty.csv"),
        (("nothing",), "nothing"),
        (("loads.csv", "--speed", "fast"), "'fast' is not a speed"),
        (("loads.csv", "--to", "rabbit"), "'rabbit' is no place"),
    ],
)
def test_what_cannot_be_played_is_said(checkout, arguments, says):
    (checkout.root / "empty.csv").write_text("region,time,load\n")
    failed = checkout.run(sys.executable, "-m", "deployments.cli", "replay", *arguments, code=2)
    assert says in failed.stdout + failed.stderr
