"""`feed_sinks.py SIDE ADDRESS TOPIC FOLDER [--n=N] [--ever] [KEY=VALUE ...]`: one side lands a
topic of bars in a Delta table, in a process of its own.

It prints seconds from after the imports (for Spark: from its session's start) until all that was
there has landed, and the peak of memory (Linux's VmHWM). --ever: it goes on until killed. --n: how
many records there are, which Quix must be told. KEY=VALUE: of `feed`, for `tidemill`. Sides:
`tidemill`, the full path; `bare`, the simplest sink that is exactly once: no contract, no
quarantine, no dedupe, nothing synced; `bytewax` and `quix` with a sink that appends 50,000 rows at
a time, at least once; `spark`, Structured Streaming to Delta with its checkpoint, 100,000 a batch.
"""

import json
import os
import sys
import time
from argparse import ArgumentParser
from pathlib import Path

import polars as pl

FIELDS = {
    "symbol": pl.String(),
    "ts": pl.String(),
    **dict.fromkeys(("open", "high", "low", "close", "volume"), pl.Float64()),
}
EVERY = 50_000
TUNING = {"queued.min.messages": 20_000, "fetch.queue.backoff.ms": 5}


def tidemill(given):
    sys.path.insert(0, str(Path.cwd()))
    from tasks.edges.feeds.kafka import KafkaFeed
    from tasks.feed.land import LandingBuffer, open_table, run_landing
    from tasks.feed.params import FeedParams

    fields = {name: {} for name in FIELDS if name not in {"symbol", "ts"}}
    more = {key: json.loads(value) for key, value in (one.split("=") for one in given.more)}
    params = FeedParams(
        source={"kind": "kafka", "topic": given.topic},
        series_field="symbol",
        time_field="ts",
        fields=fields,
        **more,
    )

    def land():
        feed = KafkaFeed(given.address, given.topic, f"g-{given.topic}-{Path(given.folder).name}")
        run_landing(
            LandingBuffer(open_table(Path(given.folder), params), params, "1m", feed),
            feed,
            until_caught_up=not given.ever,
        )
        feed.close()

    return land


def bare(given):
    from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition
    from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
    from deltalake.exceptions import TableNotFoundError

    topic = given.topic

    def land():
        more = {"enable.partition.eof": True, "enable.auto.commit": False}
        consumer = Consumer(
            {
                "bootstrap.servers": given.address,
                "group.id": f"g-{given.topic}-{Path(given.folder).name}",
                **TUNING,
                **more,
            }
        )
        partitions = list(consumer.list_topics(topic, timeout=10).topics[topic].partitions)
        try:
            table = DeltaTable(given.folder)
            marks = {p: table.transaction_version(f"{topic}-{p}") for p in partitions}
        except TableNotFoundError:
            marks = dict.fromkeys(partitions)
        consumer.assign(
            [
                TopicPartition(topic, p, OFFSET_BEGINNING if mark is None else mark)
                for p, mark in marks.items()
            ]
        )
        held, ended, since = [], set(), time.monotonic()
        while given.ever or len(ended) < len(partitions):
            for message in consumer.consume(10_000, 0.1):
                if message.error() is None:
                    held.append(message)
                    ended.discard(message.partition())
                elif message.error().code() == KafkaError._PARTITION_EOF:
                    ended.add(message.partition())
            if len(held) >= EVERY or (
                held and (len(ended) == len(partitions) or time.monotonic() - since > 0.5)
            ):
                commit(held)
                held, since = [], time.monotonic()
        consumer.close()

    def commit(held):
        rows = rows_of([m.partition() for m in held], [m.offset() for m in held], [m.value() for m in held])
        moves = [
            Transaction(f"{topic}-{p}", end)
            for p, end in rows.group_by("partition").agg(pl.col("offset").max() + 1).iter_rows()
        ]
        write_deltalake(
            given.folder, rows, mode="append", commit_properties=CommitProperties(app_transactions=moves)
        )

    return land


def rows_of(partitions, offsets, values):
    frame = pl.DataFrame(
        {
            "partition": partitions,
            "offset": offsets,
            "value": pl.Series(values, dtype=pl.Binary).cast(pl.String),
        }
    )
    return timed(frame.with_columns(pl.col("value").str.json_decode(pl.Struct(FIELDS))).unnest("value"))


def timed(rows):
    return rows.with_columns(
        pl.col("ts").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_unit="us", time_zone="UTC")
    )


def bytewax(given):
    from bytewax import operators as op
    from bytewax.connectors.kafka import KafkaSource
    from bytewax.dataflow import Dataflow
    from bytewax.outputs import DynamicSink, StatelessSinkPartition
    from bytewax.testing import cluster_main
    from deltalake import write_deltalake

    class Part(StatelessSinkPartition):
        def __init__(self):
            self.held = []

        def write_batch(self, items):
            self.held += items
            if len(self.held) >= EVERY:
                self.land()

        def land(self):
            held, self.held = self.held, []
            write_deltalake(
                given.folder,
                rows_of([m.partition for m in held], [m.offset for m in held], [m.value for m in held]),
                mode="append",
            )

        def close(self):
            if self.held:
                self.land()

    class Sink(DynamicSink):
        def build(self, step_id, worker_index, worker_count):
            return Part()

    def land():
        flow = Dataflow("feed")
        source = KafkaSource([given.address], [given.topic], tail=False, batch_size=10_000, add_config=TUNING)
        op.output("out", op.input("in", flow, source), Sink())
        cluster_main(flow, [], 0)

    return land


def quix(given):
    from deltalake import write_deltalake
    from quixstreams import Application
    from quixstreams.sinks import BatchingSink

    class Sink(BatchingSink):
        def write(self, batch):
            kept = list(batch)
            frame = pl.DataFrame([item.value for item in kept], schema=FIELDS)
            write_deltalake(
                given.folder,
                timed(frame.with_columns(offset=pl.Series([item.offset for item in kept]))),
                mode="append",
            )

    def land():
        app = Application(
            broker_address=given.address,
            consumer_group=f"g-{given.topic}-{Path(given.folder).name}",
            auto_offset_reset="earliest",
            commit_every=EVERY,
            commit_interval=60,
            consumer_extra_config=TUNING,
            loglevel="ERROR",
        )
        app.dataframe(app.topic(given.topic, value_deserializer="json")).sink(Sink())
        app.run(count=given.n)

    return land


def spark(given):
    from pyspark.sql import SparkSession, functions
    from pyspark.sql.types import DoubleType, StringType, StructType

    jars = Path(sys.prefix) / "jars"
    session = (
        SparkSession.builder.master("local[2]")
        .config("spark.jars", ",".join(map(str, jars.glob("*.jar"))))
        .config("spark.sql.extensions", "io.delta.sql.DeltaSparkSessionExtension")
        .config("spark.sql.catalog.spark_catalog", "org.apache.spark.sql.delta.catalog.DeltaCatalog")
        .config("spark.sql.shuffle.partitions", "2")
        .config("spark.databricks.delta.snapshotPartitions", "2")
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.ui.enabled", "false")
        .getOrCreate()
    )
    session.sparkContext.setLogLevel("ERROR")
    form = StructType()
    for name, dtype in FIELDS.items():
        form = form.add(name, StringType() if dtype == pl.String else DoubleType())

    def land():
        read = (
            session.readStream.format("kafka")
            .option("kafka.bootstrap.servers", given.address)
            .option("subscribe", given.topic)
        )
        read = read.option("startingOffsets", "earliest").option("maxOffsetsPerTrigger", "100000").load()
        told = functions.from_json(functions.col("value").cast("string"), form)
        rows = read.select("partition", "offset", "timestamp", told.alias("v")).select(
            "partition", "offset", "timestamp", "v.*"
        )
        rows = rows.withColumn("ts", functions.to_timestamp("ts"))
        writing = (
            rows.writeStream.format("delta")
            .option("checkpointLocation", f"{given.folder}-checkpoint")
            .trigger(availableNow=True)
            .start(given.folder)
        )
        writing.awaitTermination()

    return land


def peak_mb():
    """Of this process, and of its child where there is one (Spark's JVM)."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    statuses = [Path(f"/proc/{process}/status").read_text() for process in ("self", *children)]
    return sum(int(status.split("VmHWM:")[1].split()[0]) for status in statuses) / 1024


if __name__ == "__main__":
    parser = ArgumentParser()
    for name in ("side", "address", "topic", "folder"):
        parser.add_argument(name)
    parser.add_argument("more", nargs="*")
    parser.add_argument("--ever", action="store_true")
    parser.add_argument("--n", type=int)
    given = parser.parse_args()
    land = {"tidemill": tidemill, "bare": bare, "bytewax": bytewax, "quix": quix, "spark": spark}[given.side](
        given
    )
    begun = time.monotonic()
    land()
    print(json.dumps({"seconds": time.monotonic() - begun, "peak_mb": peak_mb()}))
