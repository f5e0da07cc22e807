"""`tidemill remove`: a dataset's entry and what its runs left in home, nothing of another one."""

import difflib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from deployments.ops.forecaster_process import fetch_served_dataset, find_served_dataset
from deployments.ops.supervisor_state import read_state
from tasks.core.errors import ParamsError
from tasks.edges.audit import get_audit_head_path
from tasks.edges.objectives import get_counts_path
from tasks.edges.observations import list_observation_files
from tasks.edges.params import read_document
from tasks.edges.processes import is_running
from tasks.edges.registry import get_rows_path
from tasks.edges.release_files import MANIFEST, ReleaseIdentity
from tasks.edges.row_versions import get_rows_versions_folder
from tasks.edges.safe_names import encode_name
from tasks.edges.served_store import get_archive_path, get_served_path
from tasks.edges.settings import ROOT, read_settings


class DatasetRemoval(NamedTuple):
    """What would be removed. has_entry: params.yaml has one. paths: files and folders in home."""

    dataset: str
    has_entry: bool
    paths: tuple[Path, ...]
    root: Path

    def describe(self) -> list[str]:
        """A line for each thing."""
        entry = [f"{self.root / 'params.yaml'}: datasets.{self.dataset}"] if self.has_entry else []
        return [*entry, *map(str, self.paths)]


def plan_removal(dataset: str, root: Path = ROOT) -> DatasetRemoval:
    """What belongs to *dataset* alone.

    Raises ParamsError for the current dataset, one that is in use, and one that there is not.
    """
    document = read_document(root)
    entries = document.content["datasets"]
    if dataset == document.content["dataset"]:
        raise ParamsError(
            f"{dataset!r} is the current dataset. `tidemill use` another one first; there are"
            f" {', '.join(sorted(entries))}."
        )
    paths = tuple(sorted(_list_paths(dataset)))
    if dataset not in entries and not paths:
        near = difflib.get_close_matches(dataset, entries, n=3) or sorted(entries)
        raise ParamsError(f"There is no dataset {dataset!r}, but {', '.join(near)}.")
    _check_is_unused(dataset)
    return DatasetRemoval(dataset, dataset in entries, paths, root)


def apply_removal(removal: DatasetRemoval) -> None:
    """Remove the files, then the entry: after a kill in between, the same command goes on."""
    from tasks.ingest.wizard.write import remove_entry

    for path in removal.paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    if removal.has_entry:
        remove_entry(removal.dataset, removal.root)


def _check_is_unused(dataset: str) -> None:
    state = read_state()
    if state is None or not is_running(state.supervisor):
        return
    served = (find_served_dataset(), fetch_served_dataset(dataset))  # the second: one of several
    for part, found in (("service", served), ("feed", [state.feed_dataset])):
        if dataset in found:
            raise ParamsError(
                f"The {part} of `tidemill up` works on {dataset!r}. Stop it first with `tidemill down`."
            )


def _list_paths(dataset: str) -> Iterator[Path]:
    """Files and folders in home whose name or manifest is *dataset*'s."""
    home, served = read_settings().home, get_served_path(dataset)
    named = (
        *(home / folder / encode_name(dataset) for folder in ("registry", "feed", "failed/validate")),
        *(served.with_name(f"{served.name}{suffix}") for suffix in ("", "-wal", "-shm")),
        get_archive_path(dataset, "any").parent,
        get_audit_head_path(dataset),
        get_rows_path(dataset),
        get_rows_versions_folder(dataset),
        *list_observation_files(dataset),
        get_counts_path(dataset),
        home / "progress" / f"{encode_name(dataset)}.json",
        home / "refresh" / dataset,
        *(home / "retrain" / f"{dataset}.{kind}" for kind in ("jsonl", "lock")),
    )
    yield from (path for path in named if path.exists())
    for manifest in (home / "releases").glob(f"*/{MANIFEST}"):
        if ReleaseIdentity.model_validate_json(manifest.read_bytes()).dataset == dataset:
            yield manifest.parent
