"""The rows that answers were made from, by the hash of their file, so that they can be recomputed.

`<home>/rows/versions/<dataset>/<sha256>.parquet` is a hard link to the file that was published,
which a newer one replaces by rename: it takes space only once it is an older version.
"""

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from tasks.edges.files import compute_file_hash, replace_file
from tasks.edges.safe_names import encode_name
from tasks.edges.settings import read_settings


def get_rows_versions_folder(dataset: str) -> Path:
    """Where the kept rows of *dataset* are."""
    return read_settings().home / "rows" / "versions" / encode_name(dataset)


def keep_rows_version(dataset: str, published: Path, content: bytes, version: str) -> None:
    """Keep the rows of *content*, and remove the oldest beyond TIDEMILL_KEEP_ROWS_MB, never these.

    published: the file that they were read from.
    version: sha256 of *content*.
    """
    path = get_rows_versions_folder(dataset) / f"{version}.parquet"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(OSError):  # another file system, or no file there any more
            os.link(published, path)
        if not path.exists() or compute_file_hash(path) != version:  # it was replaced meanwhile
            replace_file(path, lambda part: part.write_bytes(content))
    _delete_oldest(path)


def find_rows_version(dataset: str, version: str) -> bytes | None:
    """The content of the rows' file; None when it is not kept (any more), or was changed."""
    path = get_rows_versions_folder(dataset) / f"{version}.parquet"
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    return content if hashlib.sha256(content).hexdigest() == version else None


def _delete_oldest(current: Path) -> None:
    files = sorted(
        ((path.stat(), path) for path in current.parent.glob("*.parquet") if path != current),
        key=lambda item: item[0].st_ctime_ns,  # since when it is not the published file any more
        reverse=True,
    )
    kept_bytes = 0
    for facts, path in files:
        kept_bytes += facts.st_size
        if kept_bytes > read_settings().keep_rows_mb * 1_000_000:
            path.unlink(missing_ok=True)
