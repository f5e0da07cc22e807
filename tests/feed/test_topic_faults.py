"""Faults of a topic, of a consumer and of the table, one a test.

The ledger is compared after each (tests/support/ledger.py).
"""

import os
import signal

import polars as pl
import psutil
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from deltalake import DeltaTable
from kafka_support import make_topic
from landings import ended, land, landed_within, read_log, stopped, until
from ledger import check, live, note, produce, producer_to, records, send, whole

from tasks.core.errors import FeedError
from tasks.edges.delta import open_existing_table
from tasks.edges.feeds.kafka import KafkaFeed
from tasks.feed.params import FeedParams
from tasks.feed.skip import skip_lost


@pytest.fixture
def address(kafka_cluster):
    return kafka_cluster.address


@pytest.fixture
def topic(address):
    return make_topic(address)


def test_aborted_transactions_land_nothing_and_a_drain_ends_behind_their_markers(address, topic, tmp_path):
    producer = producer_to(address, **{"transactional.id": topic})
    producer.init_transactions(20)
    for first, is_kept in ((0, True), (900, False), (100, True), (950, False)):
        made = list(records(50 if first >= 900 else 100, first))
        producer.begin_transaction()
        send(producer, topic, made)
        if is_kept:
            note(tmp_path / "ledger", made)
            producer.commit_transaction(20)
        else:
            producer.abort_transaction(20)
    ended(land(address, topic, tmp_path / "table"))
    assert check(tmp_path / "table", tmp_path / "ledger") == {"rows": 200, "quarantined": 0}
    ended(land(address, topic, tmp_path / "table"))
    assert check(tmp_path / "table", tmp_path / "ledger")["rows"] == 200


def test_a_topic_made_again_under_a_running_landing_is_landed_whole_by_the_next(address, topic, tmp_path):
    """The client reads on in the new topic, at the old one's offsets: none of that may land."""
    produce(address, topic, tmp_path / "ledger", 400)
    landing = land(address, topic, tmp_path / "table", "--ever")
    landed_within(30, tmp_path / "table", tmp_path / "ledger")
    admin = AdminClient({"bootstrap.servers": address})
    admin.delete_topics([topic], operation_timeout=20)[topic].result(30)
    make_topic(address, name=topic)
    produce(address, topic, tmp_path / "ledger", 2_000, first=400)
    ended(landing, code=2)
    ended(land(address, topic, tmp_path / "table"))
    assert check(tmp_path / "table", tmp_path / "ledger")["rows"] == 2_400
    assert (
        sorted(mark for source, mark in live(tmp_path / "table")[1].items() if source.startswith("kafka:"))
        == [100] * 4 + [500] * 4
    )


def test_what_an_earlier_assignment_still_delivers_is_left_out(address, topic, tmp_path):
    """A broker's late answer to the first assignment moves the client back to where that began."""
    produce(address, topic, tmp_path / "ledger", 60)
    feed, offsets = KafkaFeed(address, topic, f"late-{topic}"), {}
    feed.open(lambda: offsets)

    def read_all():
        frames = []
        until(lambda: frames.append(feed.poll(100, 0.2).records) or feed.is_caught_up(), 30)
        return pl.concat(frames)

    ends = dict(read_all().group_by("_source").agg(pl.col("_offset").max() + 1).iter_rows())
    offsets |= {source: end // 2 for source, end in ends.items()}
    feed.rewind()
    feed._consumer.assign([TopicPartition(topic, p, 0) for p in feed._source_of])
    again = read_all()
    feed.close()
    found = {source: of["_offset"].sort().to_list() for (source,), of in again.group_by("_source")}
    assert found == {source: list(range(offsets[source], end)) for source, end in ends.items()}


def test_a_partition_that_the_client_gave_up_goes_on_while_its_offset_is_kept(address, topic, tmp_path):
    """The client asks for an offset that was never there, as after an answer that came too late."""
    produce(address, topic, tmp_path / "ledger", 60)
    feed, frames = KafkaFeed(address, topic, f"reset-{topic}"), []
    feed.open(dict)

    def read_until(n_rows):
        until(lambda: frames.append(feed.poll(100, 0.2).records) or sum(map(len, frames)) >= n_rows)

    read_until(60)
    for partition in feed._source_of:
        feed._consumer.seek(TopicPartition(topic, partition, 1_000_000))
    produce(address, topic, tmp_path / "ledger", 40, first=60)
    read_until(100)
    feed.close()
    found = {source: of["_offset"].to_list() for (source,), of in pl.concat(frames).group_by("_source")}
    assert found == {source: list(range(25)) for source in found}
    assert len(found) == 4


def test_what_retention_removed_stops_the_landing_until_it_is_skipped_and_noted(address, topic, tmp_path):
    produce(address, topic, tmp_path / "ledger", 400)
    ended(land(address, topic, tmp_path / "table"))
    send(producer_to(address), topic, list(records(400, 400)))
    admin = AdminClient({"bootstrap.servers": address})
    admin.delete_records([TopicPartition(topic, 0, 150)])[TopicPartition(topic, 0)].result(20)
    for _ in range(2):
        ended(land(address, topic, tmp_path / "table"), code=2)
    assert read_log(tmp_path / "table").count("tidemill feed skip") == 2
    table, params = (
        open_existing_table(tmp_path / "table"),
        FeedParams(source={"kind": "kafka", "topic": topic}),
    )
    kept = KafkaFeed(address, topic, "skip").topic.fetch_kept_offsets()
    assert [(gap.source[-2:], gap.first, gap.end) for gap in skip_lost(table, params, kept)] == [
        ("/0", 100, 150)
    ]
    assert skip_lost(table, params, kept) == []
    for _ in range(2):
        ended(land(address, topic, tmp_path / "table"))
        rows = table_rows(tmp_path / "table")
        assert sorted(rows["row"]) == sorted(
            (p, offset) for p in range(4) for offset in range(200) if p or offset not in range(100, 150)
        )
        assert rows["lost"] == [(0, 149)]
        # By a program that leaves the offsets: they are aligned with the rows, behind the gap
        DeltaTable(str(tmp_path / "table")).restore(table.version)


def test_a_log_that_was_cut_below_the_offset_is_not_skipped(address, topic, tmp_path):
    produce(address, topic, tmp_path / "ledger", 400)
    ended(land(address, topic, tmp_path / "table"))
    table, params = (
        open_existing_table(tmp_path / "table"),
        FeedParams(source={"kind": "kafka", "topic": topic}),
    )
    before = table.list_offsets()
    cut = {
        source: (20, 99 if source.endswith("/2") else 100)
        for source in KafkaFeed(address, topic, "skip").topic.fetch_kept_offsets()
    }
    with pytest.raises(FeedError, match=r"/2 ends at offset 99, before 100.*log was cut"):
        skip_lost(table, params, cut)
    assert open_existing_table(tmp_path / "table").list_offsets() == before


def table_rows(folder):
    """place -> (partition, offset) of its rows."""
    table = open_existing_table(folder)
    found = {}
    for place, source, offset in (
        table.scan(columns=["disposition", "_source", "_offset"]).collect().iter_rows()
    ):
        found.setdefault(place, []).append((int(source.rsplit("/", 1)[1]), offset))
    return found


def test_a_member_frozen_past_its_session_is_refused_when_it_goes_on_and_reports_it(address, topic, tmp_path):
    produce(address, topic, tmp_path / "ledger", 4_000)
    frozen = land(
        address,
        topic,
        tmp_path / "table",
        "files written",
        5,
        "--freeze",
        "--ever",
        "--session=2000",
        "--every=150",
    )
    until(lambda: psutil.Process(frozen.pid).status() == psutil.STATUS_STOPPED)
    other = land(address, topic, tmp_path / "table", "--ever", "--member=1", "--session=2000", "--every=1500")
    landed_within(30, tmp_path / "table", tmp_path / "ledger")
    assert "refused" not in read_log(tmp_path / "table")
    os.kill(frozen.pid, signal.SIGCONT)
    until(lambda: "refused" in read_log(tmp_path / "table"))
    produce(address, topic, tmp_path / "ledger", 4_000, first=4_000)
    landed_within(30, tmp_path / "table", tmp_path / "ledger")
    stopped(frozen, other)
    assert whole(tmp_path / "table") == 8_000
