"""What the last refresh of a dataset's published rows found."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import polars as pl
from pydantic import Field

from tasks.core.errors import TidemillError
from tasks.core.reports.base import IsoTime
from tasks.core.reports.feed import FeedWindow
from tasks.core.strict import Strict
from tasks.edges.artifacts import read_json, write_json
from tasks.edges.files import compute_file_hash
from tasks.edges.params import ParamsDocument
from tasks.edges.registry import get_rows_path
from tasks.edges.safe_names import encode_name
from tasks.edges.settings import read_settings

Stamp = dict[str, tuple[int, ...]]


class FileRead(Strict):
    """How far a file was read. sha256: of its first *n_bytes*."""

    n_bytes: int
    sha256: str


class RefreshKey(Strict):
    """All that the rows follow from.

    entry: hash of the dataset's `about`, `ingest` and `validate`.
    source: size, time of change (ns) and inode of each file; of a feed, of its window and its
      table's log.
    """

    entry: str
    source: Stamp


class RefreshReport(Strict):
    """A refresh of the published rows.

    dataset: whose rows they are.
    version: sha256 of the published file.
    as_of: newest `known_at`.
    n_rows, n_series: what is published.
    n_new: rows more than were published before; below 0 when rows went.
    is_changed: whether this refresh published other bytes than were there.
    n_quarantined: rows of the source that break the contract.
    by_rule: rows that break each rule.
    key: what the rows follow from; with the same key they stay.
    quarantine: sha256 of the file with the rows that break the contract.
    files: how far each file of the source was read, by its name there; empty when one changed
      while it was read, and for a feed.
    window: of a feed, what was read.
    """

    dataset: str
    version: str
    as_of: IsoTime
    n_rows: int
    n_series: int
    n_new: int
    is_changed: bool
    n_quarantined: int
    by_rule: dict[str, int]
    key: RefreshKey
    quarantine: str = ""
    files: dict[str, FileRead] = Field(default_factory=dict)
    window: FeedWindow | None = None


def get_refresh_folder(dataset: str) -> Path:
    """Where the last refresh of *dataset* left its report and the rows that broke the contract."""
    return read_settings().home / "refresh" / encode_name(dataset)


def read_refresh(dataset: str) -> RefreshReport | None:
    """The last refresh of *dataset*; None when there is none, or it has an earlier form."""
    path = get_refresh_folder(dataset) / "report.json"
    try:
        return RefreshReport.model_validate(read_json(path)) if path.exists() else None
    except ValueError:
        return None


@contextmanager
def record_refresh_fault(dataset: str) -> Iterator[None]:
    """Keep in the refresh folder why the block failed; nothing is there when it ended well."""
    path = _get_fault_path(dataset)
    try:
        yield
    except (TidemillError, OSError) as error:
        with suppress(OSError):  # a full disk has an alarm of its own
            write_json(path, {"fault": f"{type(error).__name__}: {error}"})
        raise
    path.unlink(missing_ok=True)


def read_refresh_fault(dataset: str) -> str | None:
    """Why the last refresh of *dataset* failed; None when it ended well."""
    path = _get_fault_path(dataset)
    return str(read_json(path)["fault"]) if path.exists() else None


def _get_fault_path(dataset: str) -> Path:
    return get_refresh_folder(dataset) / "fault.json"


def compute_entry_hash(document: ParamsDocument) -> str:
    """Hash of what the current dataset's rows follow from in params.yaml."""
    parts = [document.get_entry(document.dataset).get(name) for name in ("about", "ingest", "validate")]
    parts += [document.content.get(name) for name in ("ingest", "validate")]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def is_refreshed_since(document: ParamsDocument, path: Path) -> bool:
    """Whether the published rows are newer than those in the parquet file *path*.

    They are when a refresh under the same parameters wrote them and knew of later rows.
    """
    refresh, published = read_refresh(document.dataset), get_rows_path(document.dataset)
    if refresh is None or not published.exists() or refresh.key.entry != compute_entry_hash(document):
        return False
    as_of = pl.scan_parquet(path).select(pl.col("known_at").max()).collect().item()
    return refresh.as_of > as_of and refresh.version == compute_file_hash(published)
