"""A landing without a broker: records go through the decoder, the sorting and a real table, in
whatever batches a test wants."""

from datetime import UTC, datetime, timedelta

import polars as pl

from tasks.core.records import RECORDS, PolledRecords
from tasks.feed.land import LandingBuffer, open_table, run_landing
from tasks.feed.params import FeedParams

NOON = datetime(2024, 1, 2, 12, tzinfo=UTC)
SOURCE = {"kind": "kafka", "topic": "t"}


def params_of(**more) -> FeedParams:
    """A feed of prices with a nullable volume."""
    fields = {"price": {}, "volume": {"nullable": True}}
    return FeedParams.model_validate(
        {"source": SOURCE, "fields": fields, "sync": False, "lateness_s": 3600, **more}
    )


def record(value, offset=0, source="kafka:c/t/0", at=NOON, key=None, headers=None):
    return {
        "_source": source,
        "_offset": offset,
        "_timestamp": at,
        "_key": key,
        "_value": value,
        "_headers": headers,
    }


def records_of(values, **more) -> pl.DataFrame:
    return pl.DataFrame(
        [record(value, offset, **more) for offset, value in enumerate(values)], schema=dict(RECORDS)
    )


def bar(series="a", minutes=0, price=1.0, **more) -> dict:
    return {
        "series_id": series,
        "event_time": (NOON - timedelta(minutes=minutes)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "price": price,
        **more,
    }


class Given:
    """A feed that gives *batches*, one a poll, from the table's marks on."""

    def __init__(self, batches):
        self._batches, self._next = batches, 0

    def open(self, read_offsets):
        self._read_offsets = read_offsets
        self.rewind()

    def rewind(self):
        self._at, self._next = dict(self._read_offsets()), 0

    def poll(self, n_records, timeout_s):
        frame = (
            self._batches[self._next]
            if self._next < len(self._batches)
            else pl.DataFrame(schema=dict(RECORDS))
        )
        self._next += 1
        mine = [f["_offset"] >= self._at.get(f["_source"], 0) for f in frame.iter_rows(named=True)]
        frame = frame.filter(pl.Series(mine, dtype=pl.Boolean))
        ends = dict(frame.group_by("_source").agg(pl.col("_offset").max() + 1).iter_rows())
        return PolledRecords(frame, ends)

    def is_same(self):
        return True

    def compute_lag(self):
        return {}

    def is_caught_up(self):
        return self._next >= len(self._batches)

    def close(self):
        pass


def land(folder, batches, params=None, every=None):
    """The table after each of *batches* was landed in a commit of its own, by one process."""
    table = open_table(folder, params or params_of())
    landing = LandingBuffer(table, params or params_of(), every, Given([]))
    for batch in batches:
        landing.add_records(
            PolledRecords(batch, dict(batch.group_by("_source").agg(pl.col("_offset").max() + 1).iter_rows()))
        )
        landing.commit()
    return table


def land_all(folder, records, params=None):
    """The table after *records* were drained."""
    table = open_table(folder, params or params_of())
    feed = Given([records])
    run_landing(LandingBuffer(table, params or params_of(), None, feed), feed, until_caught_up=True)
    return table


def rows_of(table) -> pl.DataFrame:
    table.refresh()
    return table.scan().collect().sort("_source", "_offset")
