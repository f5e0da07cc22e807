"""The rows of a replay: all of a dataset or of a file, in the order in which they were known."""

import hashlib
import json
import tempfile
from pathlib import Path
from typing import NamedTuple

import polars as pl

from tasks.core.about import About
from tasks.core.errors import SourceError
from tasks.edges.params import parse_about, parse_params, read_document
from tasks.edges.settings import ROOT
from tasks.ingest.params import ExtensionSource, FilesSource, IngestParams
from tasks.ingest.source import build_source
from tasks.ingest.wizard.use import list_dataset_files, write_links

_FORMATS = {".csv": "csv", ".parquet": "parquet", ".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl"}


class ReplayRows(NamedTuple):
    """The rows of a replay.

    frame: series_id, event_time, known_at, values; by known_at, then in the order of the files.
    digest: of the files and of how they are read.
    """

    frame: pl.DataFrame
    digest: str
    about: About


def read_dataset_rows(name: str, root: Path = ROOT) -> ReplayRows:
    """The rows of the files of the dataset *name*, whether it is current or not.

    Raises SourceError when it has no files, ParamsError when there is no such dataset.
    """
    document = read_document(root)
    entry = document.get_entry(name)
    about = parse_about(entry["about"], f"datasets.{name}.about")
    merged = {**(document.content.get("ingest") or {}), **(entry["ingest"] or {})}
    return _read_rows(parse_params(IngestParams, merged, f"datasets.{name}.ingest"), about, name, root)


def read_file_rows(pattern: str) -> ReplayRows:
    """The rows of a file, or of files by a glob, as `tidemill new` would read them.

    Raises SourceError for what it cannot read.
    """
    # not needed for a dataset
    from tasks.ingest.wizard.decide.propose import build_proposal
    from tasks.ingest.wizard.inspect.inspect_files import inspect_files
    from tasks.ingest.wizard.inspect.inspected import OwnerAnswers

    suffixes = [s for s in Path(pattern).suffixes if s != ".gz"]
    if not suffixes or (file_format := _FORMATS.get(suffixes[-1].lower())) is None:
        raise SourceError(
            f"{pattern!r} is neither a dataset nor a file that ends in {', '.join(_FORMATS)} (also .gz)."
            " `tidemill datasets` lists the datasets."
        )
    answers = OwnerAnswers(pattern, file_format)  # type: ignore[arg-type]  # one of the literals
    entry = build_proposal(inspect_files(answers), answers).entry
    about = parse_about(entry["about"], pattern)
    return _read_rows(parse_params(IngestParams, entry["ingest"], pattern), about, pattern, Path())


def _read_rows(params: IngestParams, about: About, name: str, root: Path) -> ReplayRows:
    source = params.source
    if source.kind == "feed":
        raise SourceError(
            f"Dataset {name!r} reads a feed and has no files to replay. Name the dataset whose files"
            " they are, or a file."
        )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "source"
        if isinstance(source, FilesSource | ExtensionSource):
            write_links(folder, "files", list_dataset_files(source.files, name, root))
        files = list(build_source(source, about, folder).read())
    frame = pl.concat([file.rows for file in files]).sort("known_at", maintain_order=True)
    if frame.is_empty():
        raise SourceError(f"{name!r} has no rows, so there is nothing to replay. Check its files.")
    read_as = [
        source.model_dump(mode="json", exclude={"files"}),
        about.every,
        about.calendar,
        about.publish_delay_s,
    ]
    digest = hashlib.sha256(
        json.dumps([[(file.name, file.sha256) for file in files], read_as], sort_keys=True).encode()
    )
    return ReplayRows(frame, digest.hexdigest()[:16], about)
