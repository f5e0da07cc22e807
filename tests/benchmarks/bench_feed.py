"""The feed's reach on a real broker beside a bare sink and three peers: 1,000,000 JSON bars of real
values, 16 keys in 4 partitions, lz4.

The sides take turns, each in a process of its own that lands the whole topic, the broker on the
same cores. Nothing is asserted.
"""

import json
import os
import random
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from statistics import median

import polars as pl
import pytest
from confluent_kafka import Producer
from kafka_support import make_topic

from tasks.edges.delta import open_existing_table

pytestmark = [pytest.mark.bench, pytest.mark.shared]
N, N_SERIES, N_ROUNDS = 1_000_000, 16, 3
SIDES = Path(__file__).parent / "peers" / "feed_sinks.py"
CLOSE = re.compile(rb'"close":[^,]+,')
BREAKS = (  # ten kinds of poison
    lambda _: b"price: 1",
    lambda v: v[:-3],
    lambda v: v.replace(b"USD", b"\xff"),
    lambda _: b"",
    lambda v: v + v,
    lambda _: b"null",
    lambda v: CLOSE.sub(b"", v),
    *(
        lambda v, given=given: CLOSE.sub(b'"close":' + given + b",", v)
        for given in (b"NaN", b"1" + b"0" * 400, b"true")
    ),
)
PER_S, LASTS_S = 10_000, 20
ROOT = Path(__file__).parents[2]
PEERS = ("bytewax", "quix", "spark")
# name -> (side, topic, more). Peers would stop at the first broken record, so that they land the
# clean topic alone.
RUNS = {
    "bare": ("bare", "clean", []),
    "tidemill": ("tidemill", "clean", []),
    **{name: (name, "clean", [f"--n={N}"]) for name in PEERS},
    "1 % poison": ("tidemill", "poison", []),
    "not synced": ("tidemill", "clean", ["sync=false"]),
    "no dedupe": ("tidemill", "clean", ["dedupe=false"]),
}


@pytest.fixture(scope="module")
def values(shared_data):
    """(key, bytes) of each record: the same minutes of BTC/USD under 16 names."""
    names = ["ms", "open", "close", "high", "low", "volume"]
    bars = pl.read_csv(
        shared_data / "bitfinex_1m" / "BTCUSD-2015.csv.gz",
        has_header=False,
        new_columns=names,
        n_rows=N // N_SERIES,
    )
    bars = bars.with_columns(ts=pl.from_epoch("ms", time_unit="ms").dt.strftime("%Y-%m-%dT%H:%M:%SZ"))
    rows = bars.select("ts", "open", "high", "low", "close", "volume").to_dicts()
    return [
        (f"S{k:02d}USD", json.dumps({"symbol": f"S{k:02d}USD", **row}, separators=(",", ":")).encode())
        for row in rows
        for k in range(N_SERIES)
    ]


def produce(address, topic, values, per_s=None):
    producer = Producer(
        {
            "bootstrap.servers": address,
            "compression.type": "lz4",
            "linger.ms": 5,
            "queue.buffering.max.messages": 2_000_000,
            "message.max.bytes": 30_000_000,
            "queue.buffering.max.kbytes": 1_000_000,
        }
    )
    begun = time.monotonic()
    for i, (key, value) in enumerate(values):
        producer.produce(topic, value, key)
        if i % 100 == 0:
            producer.poll(0)
            if per_s and (ahead := begun + i / per_s - time.monotonic()) > 0:
                time.sleep(ahead)
    producer.flush()


def start(side, address, topic, folder, *more):
    python = ROOT / ".venv-peers/bin/python" if side in PEERS else sys.executable
    return subprocess.Popen(
        [python, SIDES, side, address, topic, folder, *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
    )


def land(side, address, topic, folder, *more):
    said, _ = start(side, address, topic, folder, *more).communicate()
    return json.loads(said.splitlines()[-1])


@pytest.fixture(scope="module")
def clean(kafka_cluster, values):
    topic = make_topic(kafka_cluster.address)
    produce(kafka_cluster.address, topic, values)
    return topic


def test_a_million_records(kafka_cluster, clean, values, tmp_path):
    random.seed(1)
    poison = make_topic(kafka_cluster.address)
    produce(
        kafka_cluster.address,
        poison,
        [(key, random.choice(BREAKS)(value) if random.random() < 0.01 else value) for key, value in values],
    )
    topics, found = {"clean": clean, "poison": poison}, {name: [] for name in RUNS}
    for nth in range(N_ROUNDS):
        for name, (side, topic, more) in RUNS.items():
            found[name].append(
                land(
                    side,
                    kafka_cluster.address,
                    topics[topic],
                    tmp_path / f"{name.replace(' ', '-')}-{nth}",
                    *more,
                )
            )
    ours = median(one["seconds"] for one in found["tidemill"])
    print(f"\n{'':<12}{'thousand records/s':<24}{'tidemill is':<14}peak MB")
    for name, rounds in found.items():
        rates = [N / one["seconds"] / 1000 for one in rounds]
        shown = " / ".join(f"{rate:.0f}" for rate in (min(rates), median(rates), max(rates)))
        times = f"{median(one['seconds'] for one in rounds) / ours:.2f} x"
        print(f"{name:<12}{shown:<24}{times:<14}{max(one['peak_mb'] for one in rounds):.0f}")
    print(f"1 % poison: {open_existing_table(tmp_path / '1-%-poison-0').count_rows_by('disposition')}")


def test_memory_with_records_of_twenty_megabytes(kafka_cluster, tmp_path):
    """A backlog of 60 of them, 1.2 GB, in one topic with 100,000 small ones: too large for the
    contract, they are kept in quarantine."""
    topic = make_topic(kafka_cluster.address, max_message_bytes="30000000")
    large = [(b"x", os.urandom(20_000_000)) for _ in range(3)]
    small = [
        (
            b"a",
            b'{"symbol": "a", "ts": "2024-01-01T00:00:00Z", "open": 1, "high": 1, "low": 1, "close": 1,'
            b' "volume": %d}' % i,
        )
        for i in range(5_000)
    ]
    for nth in range(20):
        produce(
            kafka_cluster.address, topic, [*small, large[nth % 3], large[(nth + 1) % 3], large[(nth + 2) % 3]]
        )
    done = land("tidemill", kafka_cluster.address, topic, tmp_path / "table", "dedupe=false")
    print(
        f"\n60 records of 20 MB among 100,000: {done['seconds']:.1f} s, peak {done['peak_mb']:.0f} MB,"
        f" {open_existing_table(tmp_path / 'table').count_rows_by('disposition')}"
    )


def test_produced_to_readable(kafka_cluster, values, tmp_path):
    """At 10,000 records/s: from a record's timestamp to the moment at which a reader that looks
    each 10 ms has its row."""
    topic, folder = make_topic(kafka_cluster.address), tmp_path / "table"
    child = start("tidemill", kafka_cluster.address, topic, folder, "--ever")
    try:
        rest = values[: PER_S * LASTS_S]
        producing = threading.Thread(target=produce, args=(kafka_cluster.address, topic, rest, PER_S))
        producing.start()
        seen = _watch(folder, len(rest))
        producing.join()
    finally:
        child.kill()
        child.communicate()
    table = open_existing_table(folder)
    rows = table.scan(columns=["_source", "_offset", "_timestamp"]).collect().sort("_offset")
    waited = rows.join_asof(
        seen.sort("_upto"),
        left_on="_offset",
        right_on="_upto",
        by="_source",
        strategy="forward",
        check_sortedness=False,
    )
    # The process has started by then
    steady = waited.filter(pl.col("_timestamp") > pl.col("_timestamp").min() + pl.duration(seconds=3))
    seconds = steady["at"] - steady["_timestamp"].dt.epoch("ms") / 1000
    print(
        f"\nproduced to readable, {len(seconds):,} records: p50 {seconds.quantile(0.5):.2f} s, p95"
        f" {seconds.quantile(0.95):.2f} s, max {seconds.max():.2f} s"
    )


def _watch(folder, n_rows):
    """_source, _upto, at: when each mark was seen first."""
    found, table, version = [], None, -1
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if table is None and (folder / "_delta_log" / f"{0:020d}.json").exists():
            table = open_existing_table(folder)
        if table is not None:
            table.refresh()
            if table.version != version:
                at, version = time.time(), table.version
                found += [
                    {"_source": source, "_upto": mark - 1, "at": at}
                    for source, mark in table.list_offsets().items()
                    if source.startswith("kafka:")
                ]
                if sum(table.count_rows_by("disposition").values()) >= n_rows:
                    break
        time.sleep(0.01)
    return pl.DataFrame(found)


def test_restarts(kafka_cluster, values, tmp_path):
    """Kill -9 twenty times while 10,000 records/s arrive: from the start of the process to its
    first commit on disk."""
    print()
    for side in ("bare", "tidemill"):
        topic, folder = make_topic(kafka_cluster.address), tmp_path / side
        stopped = threading.Event()
        endless = (value for _ in iter(stopped.is_set, True) for value in values[:100_000])
        producing = threading.Thread(
            target=produce, args=(kafka_cluster.address, topic, _until(stopped, endless), PER_S)
        )
        producing.start()
        took = []
        try:
            for _ in range(21):  # the first makes the table, and is no restart
                n_before, begun = _n_commits(folder), time.monotonic()
                child = start(side, kafka_cluster.address, topic, folder, "--ever")
                while _n_commits(folder) == n_before:
                    time.sleep(0.005)
                took.append(time.monotonic() - begun)
                child.kill()
                child.communicate()
        finally:
            stopped.set()
            producing.join()
        seconds = pl.Series(took[1:])
        print(
            f"{side:<12}start to first commit: median {seconds.median():.2f} s, p95"
            f" {seconds.quantile(0.95):.2f} s, max {seconds.max():.2f} s"
        )


def _until(stopped, values):
    for value in values:
        if stopped.is_set():
            return
        yield value


def _n_commits(folder):
    """Commits that move a mark."""
    return sum(b'"txn"' in path.read_bytes() for path in folder.glob("_delta_log/*.json"))
