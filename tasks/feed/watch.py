"""What can be seen of a landing from outside: Prometheus metrics and a status file.

The status is written every two seconds. By its `at` a reader sees whether the process still runs.
"""

import os
import time
from datetime import UTC, datetime
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from tasks.core.reports.feed import FeedTableStatus, MemberStatus, SeenMember, SourceLag
from tasks.edges.artifacts import read_report, write_report
from tasks.edges.delta import VersionedTable
from tasks.edges.feeds.base import RecordSource
from tasks.feed.events import RAISED
from tasks.feed.land import LandedCommit, LandingBuffer

HEARTBEAT_S = 2.0
ALIVE_S = 10.0  # a status older than this is of a process that hangs or has ended
_COMMIT_S = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class _LandingMetrics:
    """The Prometheus metrics of one landing."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.records = Counter(
            "tidemill_feed_records", "Records read, by disposition.", ["disposition"], registry=registry
        )
        self.bytes = Counter("tidemill_feed_bytes", "Bytes of records read.", registry=registry)
        self.commit_s = Histogram(
            "tidemill_feed_commit_seconds",
            "Decoding, sorting and committing one batch.",
            buckets=_COMMIT_S,
            registry=registry,
        )
        self.held_s = Histogram(
            "tidemill_feed_held_seconds",
            "From the first record held to its commit.",
            buckets=_COMMIT_S,
            registry=registry,
        )
        self.refused = Counter(
            "tidemill_feed_commits_refused",
            "Commits that another writer had overtaken; what was held was read again.",
            registry=registry,
        )
        self.lag = Gauge(
            "tidemill_feed_lag_records",
            "Records of a source that were not polled yet.",
            ["source"],
            registry=registry,
        )
        self.offset = Gauge(
            "tidemill_feed_next_offset",
            "The table's offset: the next one to read.",
            ["source"],
            registry=registry,
        )
        self.buffer = Gauge("tidemill_feed_buffer_bytes", "Bytes of records held.", registry=registry)
        self.watermark_s = Gauge(
            "tidemill_feed_watermark_seconds",
            "Newest event time landed, seconds since 1970.",
            registry=registry,
        )
        self.version = Gauge("tidemill_feed_table_version", "Version of the table.", registry=registry)
        registry.register(RAISED)


class LandingWatch:
    """Counts what lands and writes it down.

    port: where Prometheus finds the metrics; None: nowhere.
    """

    def __init__(
        self,
        folder: Path,
        dataset: str,
        member: str,
        landing: LandingBuffer,
        feed: RecordSource,
        port: int | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self._path, self._landing, self._feed = get_status_path(folder, member), landing, feed
        self._dataset, self._member = dataset, member
        self._written_at = 0.0
        self._n_before, self._rate = 0, 0.0
        self._started = datetime.now(UTC)
        self.counts: dict[str, int] = {}
        self._watermark: datetime | None = None
        self._metrics = _LandingMetrics()
        if port is not None:
            start_http_server(port, host, self._metrics.registry)

    def add_commit(self, landed: LandedCommit) -> None:
        """Count one commit."""
        metrics = self._metrics
        for disposition, n in landed.counts.items():
            self.counts[disposition] = self.counts.get(disposition, 0) + n
            metrics.records.labels(disposition).inc(n)
        metrics.bytes.inc(landed.bytes_read)
        metrics.commit_s.observe(landed.commit_seconds)
        metrics.held_s.observe(landed.seconds)
        metrics.version.set(landed.version)
        if landed.newest is not None:
            self._watermark = max(self._watermark or landed.newest, landed.newest)
            metrics.watermark_s.set(self._watermark.timestamp())

    def add_refusal(self) -> None:
        """Count a commit that was refused."""
        self._metrics.refused.inc()

    def write_heartbeat(self, *, is_last: bool = False) -> None:
        """Write lag, offsets and buffer to the metrics and all to the status, every HEARTBEAT_S."""
        now = time.monotonic()
        if not is_last and now - self._written_at < HEARTBEAT_S:
            return
        n = sum(self.counts.values())
        self._rate = (n - self._n_before) / (now - self._written_at) if self._written_at else 0.0
        self._written_at, self._n_before = now, n
        lag, offsets = self._feed.compute_lag(), self._landing.begins
        for source in lag:
            self._metrics.lag.labels(source).set(lag[source])
            self._metrics.offset.labels(source).set(offsets.get(source, 0))
        self._metrics.buffer.set(self._landing.n_held_bytes)
        sources = tuple(
            SourceLag(source=source, next_offset=offsets.get(source, 0), lag=lag[source])
            for source in sorted(lag)
        )
        write_report(
            self._path,
            MemberStatus(
                dataset=self._dataset,
                member=self._member,
                pid=os.getpid(),
                at=datetime.now(UTC),
                started=self._started,
                records_per_s=round(self._rate, 1),
                counts=self.counts,
                quarantine_frac=round(self.counts.get("quarantine", 0) / n, 6) if n else 0.0,
                fault=None,
                version=self._landing.table.version,
                watermark=self._watermark,
                buffer_bytes=self._landing.n_held_bytes,
                sources=sources,
            ),
        )


def get_status_path(folder: Path, member: str) -> Path:
    """Where a member's status is."""
    return folder / f"status-{member}.json"


def write_fault(folder: Path, member: str, fault: str) -> None:
    """Write to the status why this member does not land."""
    status = MemberStatus(member=member, pid=os.getpid(), at=datetime.now(UTC), fault=fault)
    write_report(get_status_path(folder, member), status)


def read_status(folder: Path) -> tuple[SeenMember, ...]:
    """Each member's last status, and whether it is younger than ALIVE_S."""
    statuses = [read_report(path, MemberStatus) for path in sorted(folder.glob("status-*.json"))]
    now = datetime.now(UTC)
    return tuple(
        SeenMember(**dict(status), is_alive=(now - status.at).total_seconds() < ALIVE_S)
        for status in statuses
    )


def describe_table(table: VersionedTable) -> FeedTableStatus:
    """The table by itself."""
    return FeedTableStatus(
        version=table.version,
        rows=table.count_rows_by("disposition"),
        marks=table.list_offsets(),
        n_files=table.count_files(),
    )
