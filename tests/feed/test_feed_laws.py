"""What every Feed keeps to, whatever it reads: in pieces as at once, from any mark on, offsets rise, it ends, and nothing comes after its end."""

import json
import time
from contextlib import suppress
from datetime import UTC, datetime
from uuid import uuid4

import polars as pl
import pytest
from kafka import make_topic

from tasks.core.about import About, Target
from tasks.core.records import RECORDS
from tasks.edges.kafka import KafkaFeed
from tasks.edges.kafka_producer import TopicWriter
from tasks.edges.played import PlayedFeed
from tasks.feed.params import FeedParams
from tasks.feed.played import play_lines
from tasks.feed.replay import replay

N = 60
ABOUT = About(description="law", every="1h", target=Target(column="x", unit="1"), horizon_steps=1, publish_delay_s=30)
PARAMS = FeedParams.model_validate({"source": {"kind": "files", "path": "x.jsonl"}, "fields": {"x": {}}})


def at(hour):
    return datetime.fromtimestamp(1_700_000_400 + 3600 * hour, UTC)


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """Lines in an order of their own, one of them poison."""
    path = tmp_path_factory.mktemp("lines") / "x.jsonl"
    lines = [json.dumps({"series_id": f"s{i % 3}", "event_time": f"{at(i):%Y-%m-%dT%H:%M:%SZ}", "x": i}) for i in range(N - 1)]
    path.write_text("\n".join(["not json", *lines[30:], *lines[:30]]))
    return play_lines(path, PARAMS, ABOUT)


@pytest.fixture(scope="module", params=["files", "kafka"])
def reopened(request, played):
    """A function that gives the same feed again, not opened."""
    if request.param == "files":
        return lambda: PlayedFeed(played)
    address = request.getfixturevalue("kafka_cluster").address
    topic = make_topic(address, 2)
    replay(played, TopicWriter(address, topic), None)
    return lambda: KafkaFeed(address, topic, f"g-{uuid4().hex}")


def read(feed, marks, n):
    """(records, where each source ended) from *marks* to the end, *n* records at most a time."""
    feed.open(lambda: marks)
    frames, ends, until = [pl.DataFrame(schema=dict(RECORDS))], dict(marks), time.monotonic() + 20
    while not feed.is_drained() and time.monotonic() < until:
        polled = feed.poll(n, 0.05)
        assert polled.records.height <= n
        frames.append(polled.records)
        ends |= polled.ends
    assert feed.is_drained()
    feed.close()
    with suppress(RuntimeError):  # a Kafka client that was closed says so
        assert feed.poll(n, 0.0).records.is_empty()
    return pl.concat(frames).sort("_source", "_offset", maintain_order=True), ends


@pytest.mark.parametrize("n", [1, 7])
def test_read_in_pieces_is_read_at_once_and_offsets_rise(reopened, n):
    whole, ends = read(reopened(), {}, 1000)
    assert whole.height == N
    for source, records in whole.group_by("_source"):
        assert (records["_offset"].diff().drop_nulls() > 0).all()
        assert ends[source[0]] == records["_offset"].max() + 1
    assert read(reopened(), {}, n)[0].equals(whole)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_reopened_at_a_mark_nothing_is_missing_and_nothing_comes_twice(reopened, share):
    whole, ends = read(reopened(), {}, 1000)
    marks = {source: int(end * share) for source, end in ends.items()}
    before = pl.concat([whole.filter((pl.col("_source") == s) & (pl.col("_offset") < m)) for s, m in marks.items()])
    after, _ = read(reopened(), marks, 1000)
    assert pl.concat([before, after]).sort("_source", "_offset").equals(whole)


def test_lines_are_played_in_the_order_in_which_they_were_known(played):
    whole, _ = read(PlayedFeed(played), {}, 1000)
    times = [json.loads(v)["event_time"] for v in whole["_value"] if v != b"not json"]
    assert times == sorted(times)
    assert whole["_timestamp"].max() == at(N - 1).replace(second=30)


def test_a_speed_makes_records_due_by_their_distance(played):
    feed = PlayedFeed(played, speed=3600 * 20.0)  # 20 records a second
    feed.open(dict)
    began, n = time.monotonic(), 0
    while n < 12:
        n += feed.poll(1000, 0.05).records.height
    assert time.monotonic() - began >= 0.45
    assert not feed.is_drained()
