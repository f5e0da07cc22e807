"""A checkout's folder whose dataset reads CSV files, and what the full stages make of it."""

import json
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import yaml
from confluent_kafka import Producer
from small_release import SMALL_ABOUT, SMALL_FEATURES

from tasks.edges.params import STAGES
from tasks.edges.settings import ROOT, build_child_environment
from tasks.ingest.__main__ import main as ingest
from tasks.ingest.wizard.use import list_dataset_files, write_links
from tasks.validate.__main__ import main as validate

DATASET = "small"
# The loop that `tidemill up` starts, on a root that is its argument
LOOP = """
import sys; from pathlib import Path; from tasks.refresh.run_loop import main
main(Path(sys.argv[1]))
"""
RETRAIN = {"max_age_steps": 63, "max_error_ratio": 1.25, "min_coverage_frac": 0.7}


def build_root(folder: Path, **entry) -> Path:
    """A root whose dataset reads `meters*.csv` in it; *entry*: further sections of the dataset."""
    source = {
        "kind": "files",
        "files": [str(folder / "meters*.csv")],
        "format": "csv",
        "layout": "long",
        "time_column": "day",
        "series_column": "meter",
        "value_columns": ["load"],
    }
    contract = {"columns": {"load": {"min": 0, "strict_min": True}}, "max_quarantine_frac": 0.02}
    dataset = {
        "about": SMALL_ABOUT,
        "models": {},
        **{stage: {} for stage in STAGES},
        "ingest": {"source": source},
        "validate": contract,
        "features": SMALL_FEATURES,
        **entry,
    }
    folder.mkdir(parents=True, exist_ok=True)
    defaults = {"promote": {"gate_steps": 120, "min_gate_rows": 60, "alpha": 0.05, "min_gain_frac": 0.005}}
    document = {"dataset": DATASET, "models": [], **defaults, "monitor": {"min_rows": 20}, "retrain": RETRAIN}
    (folder / "params.yaml").write_text(yaml.safe_dump({**document, "datasets": {DATASET: dataset}}))
    return folder


def build_feed_root(folder: Path, topic: str) -> Path:
    """A root whose dataset reads the Kafka topic *topic*."""
    feed = {
        "source": {"kind": "kafka", "topic": topic, "group": topic},
        "fields": {"load": {}},
        "window": "1d",
    }
    return build_root(folder, feed=feed, ingest={"source": {"kind": "feed", "known_at": "nominal"}})


def send_rows(producer: Producer, topic: str, rows: pl.DataFrame) -> None:
    """*rows* (SERIES) as records of the topic; on return the broker has them."""
    for series, when, load in rows.select("series_id", "event_time", "load").iter_rows():
        record = {"series_id": series, "event_time": when.isoformat(), "load": load}
        producer.produce(topic, json.dumps(record).encode(), key=series)
    assert producer.flush(20) == 0


def start_program(program: str, root: Path, log: Path) -> subprocess.Popen:
    """*program* on *root* in a process of its own, under this process's settings."""
    with log.open("a") as out:
        return subprocess.Popen(
            [sys.executable, "-c", program, str(root)],
            cwd=ROOT,
            env=build_child_environment(),
            stdout=out,
            stderr=out,
        )


@contextmanager
def refreshing(root: Path, log: Path):
    """The refresh loop on *root* in a process of its own."""
    process = start_program(LOOP, root, log)
    yield
    process.terminate()
    assert process.wait(30) == 0


def write_meters(root: Path, rows: pl.DataFrame, name: str = "meters.csv") -> None:
    """*rows* (SERIES) as a file of the dataset."""
    table = rows.select(pl.col("series_id").alias("meter"), pl.col("event_time").alias("day"), "load")
    table.write_csv(root / name, datetime_format="%Y-%m-%d", float_precision=None)


def write_links_of(root: Path) -> None:
    """data/source, as `tidemill use` fills it."""
    entry = yaml.safe_load((root / "params.yaml").read_text())["datasets"][DATASET]
    files = list_dataset_files(entry["ingest"]["source"]["files"], DATASET, root)
    write_links(root / "data/source", "files", files)


def run_full_pass(root: Path, links: bool = True) -> bytes:
    """The bytes of data/clean/rows.parquet after the stages ingest and validate.

    links: fill data/source first.
    """
    if links:
        write_links_of(root)
    ingest(root)
    validate(root)
    return (root / "data/clean/rows.parquet").read_bytes()
