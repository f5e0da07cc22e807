"""Rows that consumers of the service have sent: `<home>/observations/<dataset>.parquet`.

One file in the form of every source's rows (SERIES), replaced by rename, on disk before it is
answered. Ingest and refresh read it after the files or the feed of the dataset, through the link
`.observations.parquet` in the source's folder. A dataset without observations has no file.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl

from tasks.core.frames import QUARANTINE, SERIES
from tasks.edges.files import hold_lock, replace_file, sync_folder
from tasks.edges.safe_names import encode_name
from tasks.edges.settings import read_settings

LINK = ".observations.parquet"  # in data/source; list_linked_files leaves it out
MAX_QUARANTINED = 10_000  # the newest are kept


def get_observations_path(dataset: str) -> Path:
    """The file of *dataset*."""
    return read_settings().home.absolute() / "observations" / f"{encode_name(dataset)}.parquet"


def get_quarantine_path(dataset: str) -> Path:
    """The file of the rows that break the contract of *dataset*."""
    return get_observations_path(dataset).with_suffix(".quarantine.parquet")


def list_observation_files(dataset: str) -> list[Path]:
    """All files of *dataset*; some may not be there."""
    path = get_observations_path(dataset)
    return [path, get_quarantine_path(dataset), path.with_suffix(".lock")]


def read_observations(path: Path) -> pl.DataFrame | None:
    """SERIES, the vintages that were sent; None when there is no file."""
    return SERIES.check(pl.read_parquet(path.read_bytes())) if path.exists() else None


@contextmanager
def hold_observations(dataset: str) -> Iterator[pl.DataFrame | None]:
    """The observations of *dataset*, which no other process changes inside the block."""
    path = get_observations_path(dataset)
    with hold_lock(path.with_suffix(".lock")):
        yield read_observations(path)


def write_observations(dataset: str, rows: pl.DataFrame, quarantined: pl.DataFrame) -> None:
    """Put *rows* (SERIES, all of them) on disk, and add *quarantined* (QUARANTINE) to theirs.

    Called inside `hold_observations`.
    """
    path, broken = get_observations_path(dataset), get_quarantine_path(dataset)
    if quarantined.height:
        parts = [pl.read_parquet(broken.read_bytes())] if broken.exists() else []
        kept = pl.concat([*parts, QUARANTINE.conform(quarantined)], how="diagonal").tail(MAX_QUARANTINED)
        replace_file(broken, kept.write_parquet)
    if rows.height:
        replace_file(path, SERIES.conform(rows).write_parquet)
    sync_folder(path.parent)


def link_observations(dataset: str, folder: Path) -> None:
    """Have the link in the source's *folder* lead to the observations of *dataset*, if any."""
    path, link = get_observations_path(dataset), folder / LINK
    if link.is_symlink() and (not path.exists() or link.readlink() != path):
        link.unlink()
    if path.exists() and not link.is_symlink():
        part = folder / f"{LINK}.{os.getpid()}.part"
        part.unlink(missing_ok=True)
        part.symlink_to(path)
        part.replace(link)
