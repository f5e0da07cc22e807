"""The laws of a user's own sources: the same file gives the same rows in any folder."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from tasks.core.about import About
from tasks.core.frames import SERIES
from tasks.edges.artifacts import compute_file_hash
from tasks.ingest.params import ExtensionSource
from tasks.ingest.source import build_source
from tasks.ingest.source_file import SourceFile
from tasks.ingest.wizard.inspect.files import build_link_names
from tasks.ingest.wizard.use import write_links
from tasks.laws.law import Law, LawBrokenError


@dataclass(frozen=True)
class SourceSubject:
    """A source to check. files: that it reads; about: of the dataset."""

    params: ExtensionSource
    about: About
    files: tuple[Path, ...]

    def read(self, files: tuple[Path, ...] | None = None) -> list[SourceFile]:
        """What the source returns for *files*, by a new instance of its class."""
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "source"
            write_links(folder, "files", list(self.files if files is None else files))
            return list(build_source(self.params, self.about, folder).read())


def check_rows(subject: SourceSubject) -> str:
    """Every file has rows with a series and a time, and values that are finite or null."""
    files = subject.read()
    for file in files:
        if file.rows.is_empty():
            raise LawBrokenError(f"{file.name} has no rows")
        if n := file.rows["series_id"].null_count():
            raise LawBrokenError(f"{n} rows of {file.name} have no series_id")
        for column in (c for c in file.rows.columns if c not in SERIES.key):
            if n := int((~file.rows[column].is_finite()).fill_null(value=False).sum()):
                raise LawBrokenError(f"{n} values of {column} in {file.name} are not finite")
    n_rows, series = sum(f.rows.height for f in files), pl.concat(f.rows["series_id"] for f in files)
    return f"{n_rows:,} rows of {series.n_unique()} series in {len(files)} file(s)"


def check_repeatable(subject: SourceSubject) -> str:
    """A second reading gives the same rows."""
    for first, second in zip(subject.read(), subject.read(), strict=True):
        _compare(second.rows, first.rows, f"{first.name}, read twice")
    return "the same rows twice"


def check_alone(subject: SourceSubject) -> str:
    """A file under another name, alone in another folder, gives the same rows."""
    together = {file.name: file.rows for file in subject.read()}
    for path, name in zip(subject.files, build_link_names(list(subject.files)), strict=True):
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / f"copy-of-{path.name}"
            copy.write_bytes(path.read_bytes())
            (alone,) = subject.read((copy,))
        _compare(alone.rows, together[name], f"{name}, copied to another folder")
    return "the same rows for a copy of each file"


def check_files_untouched(subject: SourceSubject) -> str:
    """Reading does not change the files."""
    before = [compute_file_hash(path) for path in subject.files]
    subject.read()
    for path, sha256 in zip(subject.files, before, strict=True):
        if compute_file_hash(path) != sha256:
            raise LawBrokenError(f"{path.name} was changed")
    return f"{len(before)} file(s) are unchanged"


def _compare(actual: pl.DataFrame, expected: pl.DataFrame, name: str) -> None:
    """Raises LawBrokenError unless the rows are equal, in their order."""
    if actual.equals(expected):
        return
    if actual.shape != expected.shape:
        raise LawBrokenError(f"{name}: {actual.shape} rows and columns instead of {expected.shape}")
    different = [c for c in expected.columns if not actual[c].equals(expected[c])]
    raise LawBrokenError(f"{name}: {different} differ")


SOURCE_LAWS = (
    Law(
        "files have rows with series, time and finite values",
        "Return series_id, event_time (UTC) and numbers; null where a value is unknown.",
        check_rows,
    ),
    Law(
        "the same file gives the same rows",
        "Use no clock and no random numbers; `known_at` is the data's own, or left out.",
        check_repeatable,
    ),
    Law(
        "a file's rows do not depend on its name, its folder or other files",
        "Read from the path that `read` gets alone, and keep nothing between calls.",
        check_alone,
    ),
    Law("files stay unchanged", "Open files for reading only.", check_files_untouched),
)
