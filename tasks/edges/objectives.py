"""What the service counted, by level and time: the windows that burn rates are computed from.

A SQLite file per dataset, `<home>/service_levels/<dataset>.db`. The process that reads the
service's metrics adds to it; counters of the service start from zero when it starts again.
"""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

from tasks.core.objectives import (
    WINDOWS_S,
    EventCount,
    ServiceObjective,
    ServiceTargets,
    compute_objectives,
)
from tasks.edges.params import ParamsDocument
from tasks.edges.safe_names import encode_name
from tasks.edges.settings import read_settings

SECTION = "service_levels"
_TABLES = """
CREATE TABLE IF NOT EXISTS samples (at REAL, level TEXT, events REAL, bad REAL);
CREATE INDEX IF NOT EXISTS samples_at ON samples (at);
CREATE TABLE IF NOT EXISTS counters (level TEXT PRIMARY KEY, events REAL, bad REAL);
"""


def read_targets(document: ParamsDocument) -> ServiceTargets:
    """The targets of the current dataset."""
    return document.parse_stage(SECTION, ServiceTargets)


def add_counts(dataset: str, counters: Mapping[str, EventCount], now: float) -> None:
    """Add what was counted since the last call; the first call only notes the counters.

    counters: of the service since its start, by level. now: seconds since 1970.
    """
    path = get_counts_path(dataset)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _open_store(path) as store, store:
        for level, count in counters.items():
            last = store.execute("SELECT events, bad FROM counters WHERE level = ?", [level]).fetchone()
            if last is not None:
                # A service that started again counts from zero
                base = EventCount(*last) if count.events >= last[0] else EventCount(0, 0)
                added = (count.events - base.events, max(count.bad - base.bad, 0.0))
                if added[0]:
                    store.execute("INSERT INTO samples VALUES (?, ?, ?, ?)", [now, level, *added])
            store.execute("INSERT OR REPLACE INTO counters VALUES (?, ?, ?)", [level, *count])
        store.execute("DELETE FROM samples WHERE at < ?", [now - max(WINDOWS_S.values())])


def read_objectives(dataset: str, targets: ServiceTargets, now: float) -> tuple[ServiceObjective, ...]:
    """The state of each level; none before anything was counted. now: seconds since 1970."""
    path = get_counts_path(dataset)
    if not path.exists():
        return ()
    counts: dict[str, dict[str, EventCount]] = {}
    with _open_store(path) as store:
        for window, length_s in WINDOWS_S.items():
            for level, events, bad in store.execute(
                "SELECT level, sum(events), sum(bad) FROM samples WHERE at > ? GROUP BY level",
                [now - length_s],
            ):
                counts.setdefault(level, {})[window] = EventCount(events, bad)
    return compute_objectives(targets, counts)


def get_counts_path(dataset: str) -> Path:
    """Where the counts of *dataset* are kept."""
    return read_settings().home / "service_levels" / f"{encode_name(dataset)}.db"


@contextmanager
def _open_store(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, timeout=5.0)) as store:
        store.executescript(_TABLES)
        yield store
