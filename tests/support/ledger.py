"""The outside witness of a feed: a producer with a ledger of its own, and a checker that reads the
table by hand.

Neither shares a line with the pipeline: the ledger is a file that is on disk before the broker is
asked to keep the record, the table is its JSON log, its last checkpoint and its Parquet files, read
with pyarrow. No deltalake, no tasks.*.

A line of the ledger is an intention; `send` raises when the broker did not take one of them, so
that a ledger whose producer ended well is what the topic holds. The producer is idempotent: its own
retries double nothing.
"""

import hashlib
import json
import os
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
from confluent_kafka import Producer
from pyarrow import csv

START = datetime(2020, 1, 1, tzinfo=UTC)  # ten million records in four series end in 2024


class Record(NamedTuple):
    """partition, sequence: in the order of one partition from 0. event_time: ISO, empty for
    poison."""

    partition: int
    sequence: int
    event_time: str
    value: bytes


def records(n, first=0, n_partitions=4, poison_every=0):
    """Records *first* to *first + n* round the partitions; a series a partition, a minute a record.

    A field comes later and becomes a column.
    """
    for i in range(first, first + n):
        partition, sequence = i % n_partitions, i // n_partitions
        if poison_every and i % poison_every == poison_every - 1:
            yield Record(partition, sequence, "", f"poison {i}".encode())
            continue
        time = (START + timedelta(minutes=sequence)).strftime("%Y-%m-%dT%H:%M:%SZ")
        lot = f',"lot":{sequence // 1000}' if sequence % 1000 == 999 else ""
        value = f'{{"event_time":"{time}","series_id":"s{partition}","price":{100 + sequence % 97},"seq":{sequence}{lot}}}'
        yield Record(partition, sequence, time, value.encode())


def note(ledger: Path, made: list[Record]) -> None:
    """Put *made* into the ledger, on disk."""
    with ledger.open("a") as file:
        file.write(
            "".join(
                f"{r.partition},{r.sequence},{hashlib.sha256(r.value).hexdigest()},{r.event_time}\n"
                for r in made
            )
        )
        file.flush()
        os.fsync(file.fileno())


def send(producer: Producer, topic: str, made: list[Record], at: datetime | None = None) -> None:
    """Send *made* as produced *at* (None: now) and wait until the broker has them all.

    Raises AssertionError when it does not take one.
    """
    failed, more = [], {"timestamp": int(at.timestamp() * 1000)} if at else {}
    more["on_delivery"] = lambda error, _: failed.append(error) if error else None
    for r in made:
        while True:
            try:
                producer.produce(topic, r.value, key=f"s{r.partition}", partition=r.partition, **more)
            except BufferError:
                producer.poll(0.1)
            else:
                break
    assert producer.flush(120) == 0
    assert not failed, failed[:3]


def producer_to(address: str, **more) -> Producer:
    return Producer(
        {
            "bootstrap.servers": address,
            "enable.idempotence": True,
            "compression.type": "lz4",
            "linger.ms": 5,
            "queue.buffering.max.messages": 400_000,
            "log_level": 2,
            **more,
        }
    )


def produce(
    address: str,
    topic: str,
    ledger: Path,
    n: int,
    n_partitions: int = 4,
    poison_every: int = 0,
    first: int = 0,
) -> None:
    """Note and send records *first* to *first + n*."""
    made = list(records(n, first, n_partitions, poison_every))
    note(ledger, made)
    send(producer_to(address), topic, made)


@contextmanager
def producing(address: str, topic: str, ledger: Path, per_s: int, poison_every: int = 0):
    """Note and send about that many records a second while the block runs.

    Gives a function that says how many the broker has.
    """
    sent, ending, producer, failed = 0, threading.Event(), producer_to(address), []

    def work() -> None:
        nonlocal sent
        try:
            while not ending.wait(0.2):
                made = list(records(per_s // 5, sent, poison_every=poison_every))
                note(ledger, made)
                send(producer, topic, made)
                sent += len(made)
        except AssertionError as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield lambda: sent
    finally:
        ending.set()
        thread.join()
        assert not failed, failed


def check(folder: Path, ledger: Path) -> dict[str, int]:
    """Compare ledger and table: every record once, whole, in rows or in quarantine, order kept.

    Returns counts; AssertionError says what is wrong.
    """
    shas, poison = _read_ledger(ledger)
    seen = {partition: np.zeros(len(of), dtype=np.int32) for partition, of in shas.items()}
    in_log: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    n_rows = n_quarantined = 0
    for path in live_files(folder):
        file = pq.ParquetFile(folder / path)
        assert path.startswith(("disposition=quarantine/", "disposition=row/")), path
        if path.startswith("disposition=quarantine/"):
            for raw in file.read(columns=["_raw"])["_raw"].to_pylist():
                n_quarantined += 1
                sha = hashlib.sha256(raw).digest()
                assert sha in poison, f"in quarantine is what nobody sent broken: {raw[:60]!r}"
                partition, sequence = poison[sha]
                seen[partition][sequence] += 1
            continue
        rows = {
            name: file.read(columns=[name])[name].to_pylist()
            for name in ("series_id", "price", "seq", "_source")
        }
        lots = (
            file.read(columns=["lot"])["lot"].to_pylist()
            if "lot" in file.schema_arrow.names
            else [None] * len(rows["seq"])
        )
        times = np.datetime_as_string(
            file.read(columns=["event_time"])["event_time"].to_numpy().astype("datetime64[s]")
        )
        n_rows += len(times)
        for series, price, seq, lot, time in zip(
            rows["series_id"], rows["price"], rows["seq"], lots, times, strict=True
        ):
            partition, sequence = int(series[1:]), int(seq)
            end = "" if lot is None else f',"lot":{lot:.0f}'
            value = (
                f'{{"event_time":"{time}Z","series_id":"{series}","price":{price:.0f},"seq":{seq:.0f}{end}}}'
            )
            assert partition in shas, f"nobody sent {value}"
            assert sequence < len(shas[partition]), f"nobody sent {value}"
            assert shas[partition][sequence] == hashlib.sha256(value.encode()).digest(), (
                f"{value} is not what was sent"
            )
            seen[partition][sequence] += 1
        offsets, sequences = file.read(columns=["_offset"])["_offset"].to_numpy(), np.array(rows["seq"])
        for source in set(rows["_source"]):
            of = np.array([s == source for s in rows["_source"]])
            in_log.setdefault(source, []).append((offsets[of], sequences[of]))
    for partition, times_seen in seen.items():
        assert not (times_seen > 1).any(), (
            f"partition {partition}: {(times_seen > 1).sum()} records are there twice"
        )
        lacks = np.flatnonzero(times_seen == 0)
        assert not len(lacks), f"partition {partition}: {len(lacks)} records are missing, first {lacks[0]}"
    for source, parts in in_log.items():
        offsets, sequences = (np.concatenate(column) for column in zip(*parts, strict=True))
        assert (np.diff(sequences[np.argsort(offsets)]) > 0).all(), f"{source}: order is not kept"
    return {"rows": n_rows, "quarantined": n_quarantined}


def _read_ledger(ledger: Path) -> tuple[dict[int, list[bytes]], dict[bytes, tuple[int, int]]]:
    """(partition -> sha256 by sequence, sha256 of each poison -> where it is)."""
    read = csv.read_csv(ledger, csv.ReadOptions(column_names=["partition", "sequence", "sha", "time"]))
    shas: dict[int, list[bytes]] = {}
    poison = {}
    columns = (read[name].to_pylist() for name in ("partition", "sequence", "sha"))
    for partition, sequence, sha, broken in zip(
        *columns, (time is None or time == "" for time in read["time"].to_pylist()), strict=True
    ):
        of = shas.setdefault(partition, [])
        assert sequence == len(of), "the ledger itself has a hole"
        of.append(bytes.fromhex(sha))
        if broken:
            poison[of[-1]] = (partition, sequence)
    return shas, poison


def whole(folder: Path) -> int:
    """What a reader sees now: of each source every offset below its mark, once, and none beyond.

    Returns how many. For topics without holes.
    """
    files, marks = live(folder)
    found: dict[str, list[int]] = {source: [] for source in marks if source.startswith("kafka:")}
    for path in files:
        rows = pq.ParquetFile(folder / path).read(columns=["_source", "_offset"])
        for source, offset in zip(rows["_source"].to_pylist(), rows["_offset"].to_pylist(), strict=True):
            found[source].append(offset)
    for source, offsets in found.items():
        assert sorted(offsets) == list(range(marks[source])), (
            f"{source}: {len(offsets)} rows at mark {marks[source]}"
        )
    return sum(map(len, found.values()))


def live_files(folder: Path) -> list[str]:
    """Files of the newest version."""
    return live(folder)[0]


def live(folder: Path) -> tuple[list[str], dict[str, int]]:
    """(files, marks) of the newest version: the last checkpoint's, and what the log's entries
    since then added and removed."""
    log, files, marks, since = folder / "_delta_log", set(), {}, -1
    # Before the checkpoints: one that comes meanwhile replaces older entries only
    entries = sorted(log.glob("*.json"))
    if checkpoints := sorted(log.glob("*.checkpoint.parquet")):
        since = int(checkpoints[-1].name.split(".")[0])
        kept = pq.read_table(checkpoints[-1], columns=["add", "txn"])
        files = {
            action["path"]
            for action in kept["add"].to_pylist()
            if action is not None and action["path"] is not None
        }
        marks = {
            action["appId"]: action["version"]
            for action in kept["txn"].to_pylist()
            if action is not None and action["appId"] is not None
        }
    for entry in entries:
        if int(entry.stem) <= since:
            continue
        for line in entry.read_text().splitlines():
            action = json.loads(line)
            if "add" in action:
                files.add(action["add"]["path"])
            if "remove" in action:
                files.discard(action["remove"]["path"])
            if "txn" in action:
                marks[action["txn"]["appId"]] = action["txn"]["version"]
    return sorted(files), marks
