"""What can be seen of a landing from outside: Prometheus metrics, and a status file for those who
have no Prometheus.

The status is written every two seconds; whoever reads it sees by `at` whether the process still
speaks.
"""

import os
import time
from datetime import UTC, datetime
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from tasks.core.records import Feed
from tasks.core.reports.feed import FeedTableStatus, MemberStatus, SeenMember, SourceLag
from tasks.edges.artifacts import read_report, write_report
from tasks.edges.delta import VersionedTable
from tasks.feed.events import RAISED
from tasks.feed.land import LandedCommit, LandingBuffer

LOOK_S = 2.0
SPEAKS_S = 10.0  # a status older than this is of a process that hangs or is gone
_COMMIT_S = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class LandingWatch:
    """Counts what lands and writes it down. port: where Prometheus finds the metrics; None:
    nowhere.
    """

    def __init__(
        self,
        folder: Path,
        dataset: str,
        member: str,
        landing: LandingBuffer,
        feed: Feed,
        port: int | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self._path, self._landing, self._feed = get_status_path(folder, member), landing, feed
        self._dataset, self._member = dataset, member
        self._looked = 0.0
        self._n_before, self._rate = 0, 0.0
        self._started = datetime.now(UTC)
        self.counts: dict[str, int] = {}
        self._watermark: datetime | None = None
        registry = CollectorRegistry()
        self._records = Counter(
            "tidemill_feed_records", "Records read, by the place they went to.", ["place"], registry=registry
        )
        self._bytes = Counter("tidemill_feed_bytes", "Bytes of records read.", registry=registry)
        self._commit_s = Histogram(
            "tidemill_feed_commit_seconds",
            "Decoding, sorting and committing one batch.",
            buckets=_COMMIT_S,
            registry=registry,
        )
        self._held_s = Histogram(
            "tidemill_feed_held_seconds",
            "From the first record held to its commit.",
            buckets=_COMMIT_S,
            registry=registry,
        )
        self._refused = Counter(
            "tidemill_feed_commits_refused",
            "Commits that another writer had overtaken; what was held was read again.",
            registry=registry,
        )
        self._lag = Gauge(
            "tidemill_feed_lag_records",
            "Records of a source that were not polled yet.",
            ["source"],
            registry=registry,
        )
        self._offset = Gauge(
            "tidemill_feed_next_offset",
            "The table's mark: the next offset to read.",
            ["source"],
            registry=registry,
        )
        self._buffer = Gauge("tidemill_feed_buffer_bytes", "Bytes of records held.", registry=registry)
        self._watermark_s = Gauge(
            "tidemill_feed_watermark_seconds",
            "Newest event time landed, seconds since 1970.",
            registry=registry,
        )
        self._version = Gauge("tidemill_feed_table_version", "Version of the table.", registry=registry)
        registry.register(RAISED)
        if port is not None:
            start_http_server(port, host, registry)

    def add_commit(self, landed: LandedCommit) -> None:
        """Count one commit."""
        for place, n in landed.counts.items():
            self.counts[place] = self.counts.get(place, 0) + n
            self._records.labels(place).inc(n)
        self._bytes.inc(landed.bytes_read)
        self._commit_s.observe(landed.commit_seconds)
        self._held_s.observe(landed.seconds)
        self._version.set(landed.version)
        if landed.newest is not None:
            self._watermark = max(self._watermark or landed.newest, landed.newest)
            self._watermark_s.set(self._watermark.timestamp())

    def refused(self) -> None:
        """Count a commit that was refused."""
        self._refused.inc()

    def write_heartbeat(self, *, at_once: bool = False) -> None:
        """Every LOOK_S: lag, marks and buffer into the metrics, everything into the status file."""
        now = time.monotonic()
        if not at_once and now - self._looked < LOOK_S:
            return
        n = sum(self.counts.values())
        self._rate = (n - self._n_before) / (now - self._looked) if self._looked else 0.0
        self._looked, self._n_before = now, n
        lag, marks = self._feed.lag(), self._landing.begins
        for source in lag:
            self._lag.labels(source).set(lag[source])
            self._offset.labels(source).set(marks.get(source, 0))
        self._buffer.set(self._landing.n_held_bytes)
        sources = tuple(
            SourceLag(source=source, next_offset=marks.get(source, 0), lag=lag[source])
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
    """Where a member's status lies."""
    return folder / f"status-{member}.json"


def write_fault(folder: Path, member: str, fault: str) -> None:
    """Say in the status why this member does not land."""
    status = MemberStatus(member=member, pid=os.getpid(), at=datetime.now(UTC), fault=fault)
    write_report(get_status_path(folder, member), status)


def read_status(folder: Path) -> tuple[SeenMember, ...]:
    """What each member wrote last, and whether it wrote that within SPEAKS_S."""
    statuses = [read_report(path, MemberStatus) for path in sorted(folder.glob("status-*.json"))]
    now = datetime.now(UTC)
    return tuple(
        SeenMember(**dict(status), speaks=(now - status.at).total_seconds() < SPEAKS_S) for status in statuses
    )


def describe_table(table: VersionedTable) -> FeedTableStatus:
    """The table by itself."""
    return FeedTableStatus(
        version=table.version,
        rows=table.count_rows_by("place"),
        marks=table.list_offsets(),
        n_files=table.count_files(),
    )
