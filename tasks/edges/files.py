"""Files that others rely on: replaced in one step, synced, locked, and hashed by their bytes."""

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_POLL_S = 0.2


def run_durability_hook(point: str) -> None:
    """Do nothing between two durable writes, at a named point where a test can end the process."""


def replace_file(path: Path, write: Callable[[Path], object], *, sync: bool = True) -> None:
    """Put a file that *write* makes at *path*, in one step; folders are made.

    write: called with the path of a temporary file in the same folder.
    sync: have its bytes on disk before it appears; off for what can be computed again.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    write(part)
    if sync:
        sync_file(part)
    part.replace(path)


def write_private_file(path: Path, content: str) -> None:
    """Make the file *path*, readable by this user alone; one that another process made stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(content + "\n")
    sync_file(part)
    try:
        path.hardlink_to(part)
    except FileExistsError:
        pass
    finally:
        part.unlink()


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


def compute_file_hash(path: Path) -> str:
    """sha256 of a file's bytes, in hex."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


@contextmanager
def hold_lock(
    path: Path, on_wait: Callable[[str], object] = lambda _: None, timeout_s: float | None = None
) -> Iterator[None]:
    """Hold the lock *path*; the kernel releases it when the process ends, also after kill -9.

    on_wait: called once with the process id in the lock file when another process holds it.
    Raises TimeoutError with that process id when it is not free within *timeout_s*.
    """
    while True:
        with _open_lock(path) as handle:
            if not _try_flock(handle):
                _wait_for_flock(handle, path, on_wait, timeout_s)
            if not _is_at(handle, path):  # it was removed while we waited
                continue
            _write_holder(handle)
            yield
            return


@contextmanager
def try_lock(path: Path) -> Iterator[str]:
    """Hold the lock *path* if it is free.

    Gives the process id in the lock file when another process holds it; empty when it is ours.
    """
    with _open_lock(path) as handle:
        is_ours = _try_flock(handle)
        if is_ours:
            _write_holder(handle)
        yield "" if is_ours else _read_holder(path)


def find_lock_holder(path: Path) -> str | None:
    """The process id in the lock file *path*, or `unknown`; None when no process holds it."""
    if not path.exists():
        return None
    with path.open("rb") as handle:
        return None if _try_flock(handle, fcntl.LOCK_SH) else _read_holder(path)


def _open_lock(path: Path) -> BinaryIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("ab+", buffering=0)


def _try_flock(handle: BinaryIO, kind: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait_for_flock(
    handle: BinaryIO, path: Path, on_wait: Callable[[str], object], timeout_s: float | None
) -> None:
    on_wait(_read_holder(path))
    if timeout_s is None:
        fcntl.flock(handle, fcntl.LOCK_EX)
        return
    deadline = time.monotonic() + timeout_s
    while not _try_flock(handle):
        if time.monotonic() > deadline:
            raise TimeoutError(_read_holder(path))
        time.sleep(_POLL_S)


def _is_at(handle: BinaryIO, path: Path) -> bool:
    """Whether *handle* is of the file that is at *path* now."""
    try:
        return os.path.samestat(os.fstat(handle.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _write_holder(handle: BinaryIO) -> None:
    with contextlib.suppress(OSError):  # on a full disk the lock holds without an id in it
        handle.truncate(0)
        handle.write(str(os.getpid()).encode())


def _read_holder(path: Path) -> str:
    return path.read_text() or "unknown"
