"""All rows of a dataset, or of a file that belongs to none, in the order in which they were known: what a replay plays."""

import hashlib
import json
import tempfile
from pathlib import Path
from typing import NamedTuple

import polars as pl

from tasks.core.about import About
from tasks.core.errors import SourceError
from tasks.edges.params import checked, read_document, read_entry
from tasks.edges.settings import ROOT
from tasks.ingest.params import FilesSource, IngestParams
from tasks.ingest.source import build_source
from tasks.ingest.wizard.use import files_of, link_files

_FORMATS = {".csv": "csv", ".parquet": "parquet", ".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl"}


class Rows(NamedTuple):
    """frame: series_id, event_time, known_at, values; by known_at, then as they stand in the files. digest: other files, or another reading, have another."""

    frame: pl.DataFrame
    digest: str
    about: About


def rows_of_dataset(name: str, root: Path = ROOT) -> Rows:
    """The rows of a dataset's own files, whichever is current. Raises SourceError when it has none, ParamsError when it is not there."""
    entry = read_entry(name, root)
    about = checked(About, entry["about"], f"datasets.{name}.about")
    merged = {**(read_document(root).get("ingest") or {}), **(entry["ingest"] or {})}
    return _read(checked(IngestParams, merged, f"datasets.{name}.ingest"), about, name, root)


def rows_of_file(pattern: str) -> Rows:
    """The rows of a file (or of files, by a glob) as `tidemill new` would read them. Raises SourceError for what it cannot read."""
    from tasks.ingest.wizard.decide.propose import propose  # noqa: PLC0415
    from tasks.ingest.wizard.inspect.look import Asked, look  # noqa: PLC0415  (a dataset needs no wizard)

    suffixes = [s for s in Path(pattern).suffixes if s != ".gz"]
    if not suffixes or (form := _FORMATS.get(suffixes[-1].lower())) is None:
        raise SourceError(
            f"{pattern!r} is neither a dataset nor a file that ends in {', '.join(_FORMATS)} (also .gz). `tidemill datasets` lists what there is."
        )
    asked = Asked(pattern, form)  # type: ignore[arg-type]  # one of the literals
    entry = propose(look(asked), asked).entry
    about = checked(About, entry["about"], pattern)
    return _read(checked(IngestParams, entry["ingest"], pattern), about, pattern, Path())


def _read(params: IngestParams, about: About, name: str, root: Path) -> Rows:
    source = params.source
    if source.kind == "feed":
        raise SourceError(f"Dataset {name!r} reads a feed and has no files of its own to play. Name the dataset whose files they are, or a file.")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "source"
        if isinstance(source, FilesSource):
            link_files(folder, source.kind, files_of(source.files, name, root))
        files = list(build_source(source, about, folder).read())
    frame = pl.concat([file.rows for file in files]).sort("known_at", maintain_order=True)
    if frame.is_empty():
        raise SourceError(f"{name!r} has no rows, so there is nothing to play. Look at its files.")
    read_as = [source.model_dump(mode="json", exclude={"files"}), about.every, about.calendar, about.publish_delay_s]
    digest = hashlib.sha256(json.dumps([[(file.name, file.sha256) for file in files], read_as], sort_keys=True).encode())
    return Rows(frame, digest.hexdigest()[:16], about)
