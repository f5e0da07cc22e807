"""Rows that consumers of the service have sent: `<home>/observations/<dataset>.jsonl`.

A chained journal that only grows: a line for the rows of a request (SERIES by columns, times in
microseconds), on disk before the request is answered. A line that a kill cut off was not answered
and counts as not written. Ingest and refresh read it after the files or the feed of the dataset,
through the link `.observations.jsonl` in the source's folder. A dataset without observations has no
file.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import polars as pl

from tasks.core.frames import QUARANTINE, SERIES, UTC
from tasks.edges.chained_journal import START, JournalEnd, append_line, read_further
from tasks.edges.files import hold_lock, replace_file, sync_folder
from tasks.edges.safe_names import encode_name
from tasks.edges.settings import read_settings

LINK = ".observations.jsonl"  # in data/source; list_linked_files leaves it out
MAX_QUARANTINED = 10_000  # the newest are kept
_N_CHUNKS = 100  # of the rows in memory
_FORMER = ".parquet"  # one file that each request replaced
_TIMES = [name for name, dtype in SERIES.columns.items() if dtype == UTC]


class _ReadRows(NamedTuple):
    """What has been read of a file, so that the next time its new lines are read alone.

    stamp: inode, size and time of change (ns).
    """

    stamp: tuple[int, int, int]
    end: JournalEnd
    rows: pl.DataFrame | None


_NOTHING = _ReadRows((0, 0, 0), START, None)
_read: dict[Path, _ReadRows] = {}  # by the file's own path


def get_observations_path(dataset: str) -> Path:
    """The file of *dataset*."""
    return read_settings().home.absolute() / "observations" / f"{encode_name(dataset)}.jsonl"


def get_quarantine_path(dataset: str) -> Path:
    """The file of the rows that break the contract of *dataset*."""
    return get_observations_path(dataset).with_suffix(".quarantine.parquet")


def list_observation_files(dataset: str) -> list[Path]:
    """All files of *dataset*; some may not be there."""
    path = get_observations_path(dataset)
    return [path, get_quarantine_path(dataset), *(path.with_suffix(s) for s in (".lock", _FORMER))]


def read_observations(path: Path) -> pl.DataFrame | None:
    """SERIES, the vintages that were sent; None when there is no file.

    Raises JournalError when a line was changed.
    """
    return _read_rows(path).rows


def _read_rows(path: Path) -> _ReadRows:
    path = path.resolve()
    stamp, known = _read_stamp(path), _read.get(path, _NOTHING)
    if known.stamp == stamp:
        return known
    is_longer = known.stamp[0] == stamp[0] and known.end.n_bytes < stamp[1]
    known = known if is_longer else _NOTHING
    lines, end = read_further(path, known.end)
    new = [_build_rows(line["rows"]) for line in lines]
    parts = new if known.rows is None else [known.rows, *new]
    rows = pl.concat(parts) if parts else None
    if rows is not None and rows.n_chunks() > _N_CHUNKS:
        rows = rows.rechunk()
    _read[path] = _ReadRows(stamp, end, rows)
    return _read[path]


def _read_stamp(path: Path) -> tuple[int, int, int]:
    stat = path.stat() if path.exists() else None
    return (0, 0, 0) if stat is None else (stat.st_ino, stat.st_size, stat.st_mtime_ns)


def _build_rows(stored: dict[str, list[object]]) -> pl.DataFrame:
    names = [*SERIES.key, *sorted(stored.keys() - set(SERIES.key))]
    dtypes = {name: SERIES.columns.get(name, pl.Float64) for name in names}
    rows = pl.DataFrame(stored, schema=dtypes | dict.fromkeys(_TIMES, pl.Int64))
    return SERIES.check(rows.with_columns(pl.col(_TIMES).cast(UTC)))


@contextmanager
def hold_observations(dataset: str) -> Iterator[pl.DataFrame | None]:
    """The observations of *dataset*, which no other process changes inside the block."""
    path = get_observations_path(dataset)
    with hold_lock(path.with_suffix(".lock")):
        _convert_former(path)
        yield read_observations(path)


def write_observations(dataset: str, new: pl.DataFrame, quarantined: pl.DataFrame) -> None:
    """Append *new* (SERIES) and *quarantined* (QUARANTINE) to theirs; on return they are on disk.

    Called inside `hold_observations`.
    """
    path, broken = get_observations_path(dataset), get_quarantine_path(dataset)
    if quarantined.height:
        parts = [pl.read_parquet(broken.read_bytes())] if broken.exists() else []
        kept = pl.concat([*parts, QUARANTINE.conform(quarantined)], how="diagonal").tail(MAX_QUARANTINED)
        replace_file(broken, kept.write_parquet)
    if new.height:
        _append(path, new, _read_rows(path).end)
    sync_folder(path.parent)


def _append(path: Path, rows: pl.DataFrame, end: JournalEnd = START) -> None:
    plain = SERIES.conform(rows).with_columns(pl.col(_TIMES).dt.epoch("us"))
    append_line(path, {"rows": plain.to_dict(as_series=False)}, end)


def _convert_former(path: Path) -> None:
    """Make the journal of the file that an earlier version wrote, once."""
    former = path.with_suffix(_FORMER)
    if former.exists():
        if not path.exists():
            rows = SERIES.check(pl.read_parquet(former.read_bytes()))
            replace_file(path, lambda part: _append(part, rows))
            sync_folder(path.parent)
        former.unlink()


def link_observations(dataset: str, folder: Path) -> None:
    """Have the link in the source's *folder* lead to the observations of *dataset*, if any."""
    path, link = get_observations_path(dataset), folder / LINK
    if path.with_suffix(_FORMER).exists():
        with hold_observations(dataset):
            pass
    (folder / LINK).with_suffix(_FORMER).unlink(missing_ok=True)
    if link.is_symlink() and (not path.exists() or link.readlink() != path):
        link.unlink()
    if path.exists() and not link.is_symlink():
        part = folder / f"{LINK}.{os.getpid()}.part"
        part.unlink(missing_ok=True)
        part.symlink_to(path)
        part.replace(link)
