"""What every source of FEEDS keeps to: poll, offsets, rewind, restart and close.

Read in pieces or in one pass, and from any offset on, its records are the same; offsets rise; a
stored offset is one more than that of the last record; nothing comes after its end, or twice.
"""

import time
from contextlib import suppress
from itertools import islice

import polars as pl
import pytest
from feed_worlds import N_RECORDS, WORLDS
from landed import rows_of
from pydantic import ValidationError

from tasks.core.records import RECORDS
from tasks.edges.feeds import FEEDS, get_feed_class
from tasks.feed.land import LandingBuffer, open_table, run_landing
from tasks.feed.params import FeedParams

# Offsets alone must do
LANDING = FeedParams.model_validate(
    {
        "source": {"kind": "files", "path": "x"},
        "fields": {"x": {}},
        "dedupe": False,
        "sync": False,
        "lateness_s": 1e9,
    }
)


def test_every_source_has_a_world_in_which_these_laws_run_it():
    assert {kind for kind, _ in WORLDS} >= set(FEEDS)


@pytest.fixture(scope="module", params=WORLDS, ids=" ".join)
def world(request, tmp_path_factory):
    with WORLDS[request.param](request, tmp_path_factory.mktemp("world")) as started:
        yield started


def polls(feed, n):
    """What comes until it has caught up, *n* records at most a time."""
    deadline = time.monotonic() + 20
    while not feed.is_caught_up():
        assert time.monotonic() < deadline
        polled = feed.poll(n, 0.05)
        assert polled.records.height <= n
        assert dict(polled.records.schema) == dict(RECORDS)
        yield polled


def read(world, offsets, n):
    """(records, where each source ended) from *offsets* to the end, *n* records at most a time."""
    feed = world.connect()
    feed.open(lambda: offsets)
    frames, ends = [pl.DataFrame(schema=dict(RECORDS))], dict(offsets)
    for polled in polls(feed, n):
        frames.append(polled.records)
        ends |= polled.ends
        assert feed.is_same()
    feed.close()
    with suppress(RuntimeError):  # a Kafka client that was closed raises it
        assert feed.poll(n, 0.0).records.is_empty()
    return pl.concat(frames).sort("_source", "_offset", maintain_order=True).select(world.stable), ends


@pytest.fixture(scope="module")
def whole(world):
    """(all records, where each source ends)."""
    return read(world, {}, 1000)


@pytest.mark.parametrize("n", [1, 7])
def test_polled_in_pieces_is_polled_in_one_pass(world, whole, n):
    assert whole[0].height == N_RECORDS
    assert read(world, {}, n)[0].equals(whole[0])


def test_offsets_rise_and_a_stored_offset_is_one_more_than_the_last(whole):
    records, ends = whole
    for (name,), of_source in records.group_by("_source"):
        assert (of_source["_offset"].diff().drop_nulls() > 0).all()
        assert ends[name] == of_source["_offset"].max() + 1


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_restarted_at_an_offset_nothing_is_missing_and_nothing_comes_twice(world, whole, share):
    records, ends = whole
    of_source = {name: records.filter(pl.col("_source") == name)["_offset"].to_list() for name in ends}
    offsets = {name: [0, *(o + 1 for o in all_)][int(len(all_) * share)] for name, all_ in of_source.items()}
    before = pl.concat(
        records.filter((pl.col("_source") == name) & (pl.col("_offset") < offset))
        for name, offset in offsets.items()
    )
    after, _ = read(world, offsets, 1000)
    assert pl.concat([before, after]).sort("_source", "_offset").equals(records)


def test_a_rewound_source_begins_again_at_the_offsets(world, whole):
    records, ends = whole
    feed, offsets = world.connect(), {}
    feed.open(lambda: offsets)
    while not feed.poll(20, 0.05).records.height:
        pass
    middle = {name: records.filter(pl.col("_source") == name)["_offset"].median() for name in ends}
    # All records may have come to one partition
    offsets |= {name: int(offset or 0) for name, offset in middle.items()}
    feed.rewind()
    again = pl.concat(polled.records.select(world.stable) for polled in polls(feed, 20))
    feed.close()
    expected = pl.concat(
        records.filter((pl.col("_source") == name) & (pl.col("_offset") >= offset))
        for name, offset in offsets.items()
    )
    assert again.sort("_source", "_offset").equals(expected.sort("_source", "_offset"))


def test_lag_counts_records_of_the_sources_that_were_not_polled(world, whole):
    feed = world.connect()
    feed.open(dict)
    for polled in polls(feed, 7):
        lag = feed.compute_lag()
        assert set(lag) <= set(whole[1])
        assert all(isinstance(n, int) and n >= 0 for n in lag.values())
        assert set(polled.ends) <= set(whole[1])
    feed.close()


def test_a_poll_without_records_ends_in_its_time(world):
    feed = world.connect()
    feed.open(dict)
    for _ in polls(feed, 1000):
        pass
    began = time.monotonic()
    assert feed.poll(1000, 0.2).records.is_empty()
    assert time.monotonic() - began < 5
    feed.close()


def rows_landed(world, folder, n_lives):
    """The table after *n_lives* processes that ended with records polled and not committed, and
    one that caught up."""
    for _ in range(n_lives):
        feed = world.connect()
        landing = LandingBuffer(open_table(folder, LANDING), LANDING, None, feed)
        for n_held, polled in enumerate(islice((p for p in polls(feed, 4) if p.records.height), 3)):
            landing.add_records(polled)
            if n_held == 1:
                landing.commit()
        feed.close()
    feed, table = world.connect(), open_table(folder, LANDING)
    run_landing(LandingBuffer(table, LANDING, None, feed), feed, until_caught_up=True)
    feed.close()
    return rows_of(table).select(sorted({*table.columns} - ({*RECORDS} - {*world.stable})))


def test_killed_between_poll_and_commit_or_not_the_table_is_the_same(world, tmp_path):
    undisturbed = rows_landed(world, tmp_path / "a", 0)
    assert undisturbed.height == N_RECORDS
    assert rows_landed(world, tmp_path / "b", 2).equals(undisturbed)
    assert rows_landed(world, tmp_path / "b", 0).equals(undisturbed)


def test_parameters_are_read_by_kind_and_an_unknown_key_is_refused(world):
    source = world.make_source()
    params = FeedParams.model_validate({"source": source})
    assert type(params.source) is get_feed_class(source["kind"]).Params
    assert FeedParams.model_validate({"source": params.source.model_dump()}) == params
    with pytest.raises(ValidationError, match=r"source\.tpoic\n +Extra inputs"):
        FeedParams.model_validate({"source": {**source, "tpoic": 1}})


def test_an_unknown_kind_is_refused_with_the_known_ones():
    with pytest.raises(ValidationError, match=r"'kafak' \(did you mean 'kafka'\?\).*database"):
        FeedParams.model_validate({"source": {"kind": "kafak", "topic": "t"}})
