"""Fits that need not be made again, in TIDEMILL_HOME/fits, bounded in size.

A fit's name is a digest of everything that it depends on. So a training that was killed goes on
where it was, and a longer history adds only its new folds. Entries are zip archives, which carry
checksums: a damaged one is no entry. They appear by rename; those used longest ago are removed
first.
"""

import hashlib
import io
import os
import platform
import sysconfig
import zipfile
from functools import cache
from pathlib import Path

from tasks.edges.files import replace_file
from tasks.edges.settings import ROOT, read_settings


def read_cached_fit(key: str) -> bytes | None:
    """The entry of *key*, whole, or None."""
    path = _get_fit_path(key)
    try:
        content = path.read_bytes()
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            is_damaged = archive.testzip() is not None
    except FileNotFoundError:
        return None
    except (OSError, zipfile.BadZipFile):
        is_damaged = True
    if is_damaged:
        path.unlink(missing_ok=True)
        return None
    os.utime(path)  # used now: the others are removed before it
    return content


def write_cached_fit(key: str, archive: bytes) -> None:
    """Make *archive* the entry of *key*; nothing when entries are not kept."""
    if read_settings().keep_fits_mb <= 0:
        return
    replace_file(_get_fit_path(key), lambda part: part.write_bytes(archive), sync=False)


def delete_old_fits() -> None:
    """Remove the entries used longest ago, until the rest fits into `keep_fits_mb`."""
    left_bytes = read_settings().keep_fits_mb * 1_000_000
    entries = []
    for path in _get_fit_path("").parent.glob("*.zip"):
        try:
            status = path.stat()
        except FileNotFoundError:  # another training removes entries at the same time
            continue
        entries.append((status.st_mtime, status.st_size, path))
    for _, size, path in sorted(entries, reverse=True):
        left_bytes -= size
        if left_bytes < 0:
            path.unlink(missing_ok=True)


@cache
def compute_code_digest() -> str:
    """sha256 over what makes fits: our code, Python, the machine, and the libraries' versions."""
    hashed = hashlib.sha256(f"{platform.python_version()} {platform.machine()}".encode())
    for package in ("core", "forecasters", "train"):
        for path in sorted((ROOT / "tasks" / package).rglob("*.py")):
            hashed.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    for folder in sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}):
        hashed.update("\n".join(sorted(path.name for path in Path(folder).glob("*.dist-info"))).encode())
    return hashed.hexdigest()


def _get_fit_path(key: str) -> Path:
    return read_settings().home / "fits" / f"{key}.zip"
