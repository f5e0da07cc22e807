"""Lines of a file as a feed: in the order in which they became known, at a speed."""

import json
import time

import polars as pl
import pytest
from feed_worlds import ABOUT, N_RECORDS, time_of, write_lines

from tasks.core.errors import FeedError
from tasks.edges.feeds.files import FilesFeed
from tasks.feed.params import FeedParams
from tasks.feed.replayed_feed import read_replayed_lines

PARAMS = FeedParams.model_validate({"source": {"kind": "files", "path": "x.jsonl"}, "fields": {"x": {}}})


@pytest.fixture
def replayed(tmp_path):
    return read_replayed_lines(write_lines(tmp_path / "x.jsonl"), PARAMS, ABOUT)


def test_lines_come_in_the_order_in_which_they_were_known(replayed):
    feed = FilesFeed(replayed)
    feed.open(dict)
    whole = feed.poll(1000, 0.0).records
    times = [json.loads(v)["event_time"] for v in whole["_value"] if v != b"not json"]
    assert times == sorted(times)
    assert whole["_timestamp"].max() == time_of(N_RECORDS - 1).replace(second=30)


def test_a_speed_makes_records_due_by_their_distance(replayed):
    feed = FilesFeed(replayed, speed=3600 * 20.0)  # 20 records a second
    feed.open(dict)
    began, n = time.monotonic(), 0
    while n < 12:
        n += feed.poll(1000, 0.05).records.height
    assert time.monotonic() - began >= 0.45
    assert not feed.is_caught_up()


def test_other_lines_and_another_order_are_another_log(tmp_path, replayed):
    (tmp_path / "x.jsonl").write_text((tmp_path / "x.jsonl").read_text() + '{"event_time": "2024-01-01"}\n')
    assert read_replayed_lines(tmp_path / "x.jsonl", PARAMS, ABOUT).name != replayed.name
    by_time_format = PARAMS.model_copy(update={"known_at_field": "x", "time_format": "s"})
    assert read_replayed_lines(tmp_path / "x.jsonl", by_time_format, ABOUT).name != replayed.name


@pytest.mark.parametrize(("content", "reason"), [(None, "cannot be read"), ("not json\n", "no line with")])
def test_a_file_without_a_readable_line_is_refused(tmp_path, content, reason):
    if content is not None:
        (tmp_path / "y.jsonl").write_text(content)
    with pytest.raises(FeedError, match=reason):
        read_replayed_lines(tmp_path / "y.jsonl", PARAMS, ABOUT)


def test_records_of_a_replay_are_read_piece_by_piece(replayed):
    pieces = pl.concat([replayed.read(0, 25), replayed.read(25, 35)])
    assert pieces.equals(replayed.read(0, 60))
