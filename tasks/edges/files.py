"""What every durable write needs, once: fsync, and named points between two of them."""

import os
from pathlib import Path


def run_durability_hook(point: str) -> None:
    """Do nothing between two durable writes, at a named point where a test can end the process."""


def sync_file(path: Path) -> None:
    """Have the bytes of the file *path* on disk."""
    with path.open("rb") as handle:
        os.fsync(handle.fileno())


def sync_folder(folder: Path) -> None:
    """Have the names in *folder* on disk; its files are synced one by one."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
