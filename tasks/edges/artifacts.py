"""Artifacts of the stages: frames, JSON, reports and folders, never half-written.

Files appear by rename, after their bytes are on disk.
"""

import json
import os
import re
import shutil
import tempfile
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import polars as pl

from tasks.core.about import About
from tasks.core.calendar import Calendar, build_calendar
from tasks.core.errors import FrameError
from tasks.core.frames import UTC, FrameSchema
from tasks.core.reports.base import StageFile
from tasks.edges import files

ReportT = TypeVar("ReportT", bound=StageFile)

_ROW_GROUP = 65_536  # rows; fixed, so that equal frames have equal bytes, however they came together
_SLICE = _ROW_GROUP // 2  # rows in memory
_CLOCKS_S = 60.0  # that the kernel's clock and that of the files may differ by
_UNFINISHED = re.compile(r"\..+\.(?P<process>\d+)\.[^.]+(\.old)?")


@contextmanager
def write_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that becomes *path* when the block ends well, and is removed when not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{path.name}.{os.getpid()}.", dir=path.parent))
    try:
        yield fresh
        fresh.chmod(0o755)
        for file in fresh.rglob("*"):
            if file.is_file():
                files.sync_file(file)
        if path.exists():
            old = fresh.with_name(fresh.name + ".old")
            path.rename(old)
            fresh.rename(path)
            shutil.rmtree(old)
        else:
            fresh.rename(path)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def delete_leftovers(*folders: Path) -> None:
    """Remove what killed writers left in *folders* and up to two levels below them.

    That is `.<name>.<process>.<random>` of a process that has ended.
    """
    for folder in folders:
        for pattern in (".*", "*/.*", "*/*/.*"):
            for left in folder.glob(pattern):
                match = _UNFINISHED.fullmatch(left.name)
                if match is None or _is_written_by(int(match["process"]), left):
                    continue
                if left.is_file():
                    left.unlink(missing_ok=True)
                else:
                    shutil.rmtree(left, ignore_errors=True)


def _is_written_by(pid: int, left: Path) -> bool:
    """Whether the process *pid* is at work on *left*: not one that got its number later."""
    import psutil

    try:
        process, changed_at = psutil.Process(pid), left.stat().st_mtime
        is_at_work: bool = process.status() != psutil.STATUS_ZOMBIE
        return is_at_work and process.create_time() < changed_at + _CLOCKS_S
    except psutil.AccessDenied:
        return True
    except (psutil.NoSuchProcess, FileNotFoundError):
        return False


def write_frame(path: Path, frame: pl.DataFrame, schema: FrameSchema, *, sync: bool = True) -> None:
    """Conform *frame* to *schema* and write it as parquet, by rename."""
    made = schema.conform(frame)
    files.replace_file(path, lambda part: made.write_parquet(part, row_group_size=_ROW_GROUP), sync=sync)


def merge_into_frame(path: Path, rows: pl.DataFrame, schema: FrameSchema) -> None:
    """Add *rows*, in any order, to the parquet file *path*, by rename.

    It is read in slices, and the bytes are those of `write_frame` for all of it. The file is sorted
    by the key of *schema*, no key of *rows* is in it, and they have its columns.
    """
    from polars.io.plugins import register_io_source

    new = schema.conform(rows)
    merged = register_io_source(
        lambda *_: _merge_slices(path, new, schema.key), schema=new.schema, is_pure=True
    )
    files.replace_file(path, lambda part: merged.sink_parquet(part, row_group_size=_ROW_GROUP))


def _merge_slices(path: Path, new: pl.DataFrame, key: Sequence[str]) -> Iterator[pl.DataFrame]:
    keys, begin = new.select(key).rows(), 0
    for old in read_slices(path):
        end = bisect_right(keys, old.select(key).row(-1))
        part = new[begin:end]
        yield pl.concat([old, part.select(old.columns)]).sort(key) if part.height else old
        begin = end
    yield new[begin:]


def read_slices(path: Path, columns: Sequence[str] | None = None) -> Iterator[pl.DataFrame]:
    """The rows of the parquet file *path*, some at a time. columns: those to read."""
    rows = pl.scan_parquet(path)
    n_rows = rows.select(pl.len()).collect().item()
    wanted = rows if columns is None else rows.select(columns)
    for start in range(0, n_rows, _SLICE):
        yield wanted.slice(start, _SLICE).collect()


def read_frame(path: Path, schema: FrameSchema) -> pl.DataFrame:
    """Read a parquet file and check it against *schema*.

    Raises FrameError that names the stage to run when it is missing.
    """
    _check_exists(path)
    return schema.check(pl.read_parquet(path))


def scan_frame(path: Path, schema: FrameSchema) -> pl.LazyFrame:
    """A parquet file that is read as far as it is used.

    Its columns and types are checked against *schema*; the order of what is read of it is for the
    caller to check. Raises FrameError as `read_frame`.
    """
    _check_exists(path)
    rows = pl.scan_parquet(path)
    schema.check(rows.head(0).collect())
    return rows


def write_json(path: Path, content: Any, *, sync: bool = True) -> None:
    """Write canonical JSON (sorted keys, two spaces, final newline), by rename."""
    text = json.dumps(content, indent=2, sort_keys=True, default=str) + "\n"
    files.replace_file(path, lambda part: part.write_text(text), sync=sync)


def read_json(path: Path) -> Any:
    """Read JSON. Raises FrameError when the file is missing."""
    _check_exists(path)
    return json.loads(path.read_text())


def _check_exists(path: Path) -> None:
    if not path.exists():
        raise FrameError(
            f"{path} is not there. Run the stage that writes it: `dvc repro` builds everything that is"
            " missing."
        )


def write_report(path: Path, report: StageFile, *, sync: bool = True) -> None:
    """Write a report as canonical JSON, by rename."""
    write_json(path, report.render(), sync=sync)


def read_report(path: Path, kind: type[ReportT]) -> ReportT:
    """Read a report of *kind*. Raises FrameError when the file is missing or has another form."""
    return kind.parse(read_json(path), str(path))


def read_last_report(path: Path, kind: type[ReportT]) -> ReportT | None:
    """What the last run left; None when there is nothing that this version reads.

    The stage makes it again then.
    """
    try:
        return read_report(path, kind)
    except FrameError:
        return None


def write_text(path: Path, content: str) -> None:
    """Write text, by rename."""
    files.replace_file(path, lambda part: part.write_text(content))


def read_calendar(folder: Path, about: About) -> Calendar:
    """The calendar of *about*, with the exchange's sessions that are in *folder*.

    No exchange library is needed for them; `write_sessions` wrote them.
    """
    path = folder / "sessions.parquet"
    return build_calendar(about, pl.read_parquet(path)["event_time"] if path.exists() else None)


def write_sessions(folder: Path, calendar: Calendar) -> None:
    """Keep an exchange's sessions with what was computed on them; other calendars need none."""
    if calendar.sessions is not None:
        sessions = calendar.sessions.cast(UTC).alias("event_time").to_frame()
        files.replace_file(folder / "sessions.parquet", sessions.write_parquet)
