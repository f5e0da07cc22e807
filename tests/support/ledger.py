"""The outside witness of a feed: a producer with a ledger of its own, and a checker that reads the table by hand.

Neither shares a line with the pipeline: the ledger is a file that is on disk before the broker is asked to keep the record, the table is its
JSON log, its last checkpoint and its Parquet files, read with pyarrow. No deltalake, no tasks.*.
"""

import hashlib
import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq
from confluent_kafka import Producer

START = datetime(2024, 1, 1, tzinfo=UTC)


class Sent(NamedTuple):
    """partition, sequence: in the order of one partition from 0. sha256: of the bytes. event_time: ISO, empty for poison."""

    partition: int
    sequence: int
    sha256: str
    event_time: str


def produce(address: str, topic: str, ledger: Path, n: int, n_partitions: int = 4, poison_every: int = 0, first: int = 0) -> None:
    """Send records *first* to *first + n* round the partitions; a series a partition, a minute a record. Each is in the ledger, synced, before it is sent."""
    producer = Producer(
        {"bootstrap.servers": address, "enable.idempotence": True, "compression.type": "lz4", "linger.ms": 5, "queue.buffering.max.messages": 400_000}
    )
    failed = []
    records, lines = [], []
    for i in range(first, first + n):
        partition, sequence = i % n_partitions, i // n_partitions
        time = (START + timedelta(minutes=sequence)).strftime("%Y-%m-%dT%H:%M:%SZ")
        if poison_every and i % poison_every == poison_every - 1:
            value, time = f"poison {i}".encode(), ""
        else:
            record = {"event_time": time, "series_id": f"s{partition}", "price": 100 + sequence % 97, "seq": sequence}
            if sequence % 1000 == 999:  # a field that comes later becomes a column
                record["lot"] = 1
            value = json.dumps(record, separators=(",", ":")).encode()
        records.append((partition, value))
        lines.append(json.dumps(Sent(partition, sequence, hashlib.sha256(value).hexdigest(), time)))
    with ledger.open("a") as file:
        file.write("".join(f"{line}\n" for line in lines))
        file.flush()
        os.fsync(file.fileno())
    for partition, value in records:
        producer.produce(topic, value, key=f"s{partition}", partition=partition, on_delivery=lambda error, _: failed.append(error) if error else None)
        producer.poll(0)
    producer.flush()
    assert not failed, failed[:3]


def check(folder: Path, ledger: Path) -> dict[str, int]:
    """Compare ledger and table: every record once, in rows or in quarantine, order kept. Returns counts; raises AssertionError that says what is wrong."""
    sent = [Sent(*json.loads(line)) for line in ledger.read_text().splitlines()]
    rows, quarantined = read_rows(folder)
    wanted_rows = {(s.partition, s.sequence) for s in sent if s.event_time}
    found_rows = [(int(series[1:]), int(seq)) for series, seq, _, _ in rows]
    assert len(found_rows) == len(set(found_rows)), f"{len(found_rows) - len(set(found_rows))} records are there twice"
    assert not wanted_rows - set(found_rows), f"{len(wanted_rows - set(found_rows))} records are missing, first {min(wanted_rows - set(found_rows))}"
    assert not set(found_rows) - wanted_rows, "records are there that nobody sent"
    wanted_bytes = sorted(s.sha256 for s in sent if not s.event_time)
    assert sorted(hashlib.sha256(raw).hexdigest() for raw in quarantined) == wanted_bytes, "the quarantine has not exactly what was sent and broken"
    of_log: dict[str, list[tuple[int, int]]] = {}
    for _, seq, source, offset in rows:
        of_log.setdefault(source, []).append((offset, int(seq)))
    for source, pairs in of_log.items():
        in_order = [seq for _, seq in sorted(pairs)]
        assert in_order == sorted(in_order), f"{source}: order is not kept"
    return {"rows": len(rows), "quarantined": len(quarantined)}


def read_rows(folder: Path) -> tuple[list[tuple[str, float, str, int]], list[bytes]]:
    """((series, seq, source, offset) of each row, bytes of each quarantined record) of the newest version."""
    rows, quarantined = [], []
    for path in live_files(folder):
        columns = ["series_id", "seq", "_source", "_offset", "_raw"]
        table = pq.ParquetFile(folder / path).read(columns=columns).to_pydict()
        if path.startswith("place=quarantine/"):
            quarantined.extend(table["_raw"])
        else:
            assert path.startswith("place=row/"), path
            rows.extend(zip(table["series_id"], table["seq"], table["_source"], table["_offset"], strict=True))
    return rows, quarantined


def live_files(folder: Path) -> list[str]:
    """Files of the newest version: the last checkpoint's, and what the log's entries since then added and removed."""
    log, files, since = folder / "_delta_log", set(), -1
    checkpoints = sorted(log.glob("*.checkpoint.parquet"))
    if checkpoints:
        since = int(checkpoints[-1].name.split(".")[0])
        for action in pq.read_table(checkpoints[-1], columns=["add"])["add"].to_pylist():
            if action is not None and action["path"] is not None:
                files.add(action["path"])
    for entry in sorted(log.glob("*.json")):
        if int(entry.stem) <= since:
            continue
        for line in entry.read_text().splitlines():
            action = json.loads(line)
            if "add" in action:
                files.add(action["add"]["path"])
            if "remove" in action:
                files.discard(action["remove"]["path"])
    return sorted(files)
