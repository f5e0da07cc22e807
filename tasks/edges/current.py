"""Whose files are in `data/` and `models/`.

A checkout works on one dataset at a time; a change leaves the old one's files until the next run. A
decision or a report names its dataset; of any other output dvc.lock says with which `dataset` its
stage ran last.
"""

from pathlib import Path

import yaml

from tasks.core.errors import OtherDatasetError
from tasks.core.reports.base import Report
from tasks.edges.artifacts import ReportT, read_json
from tasks.edges.registry import get_rows_path
from tasks.edges.settings import ROOT

ROWS = "data/clean/rows.parquet"


def find_dataset_of_file(path: str, root: Path = ROOT) -> str | None:
    """The dataset whose run wrote *path*; None when there is no file, or dvc.lock knows no run.

    path: a file or folder below a stage's output, relative to *root*.
    """
    lock = root / "dvc.lock"
    if not lock.exists() or not (root / path).exists():
        return None
    try:
        stages = (yaml.load(lock.read_text(), Loader=yaml.CSafeLoader) or {}).get("stages") or {}
    except yaml.YAMLError:  # DVC is just writing it, or was killed while it did
        return None
    for stage in filter(None, stages.values()):
        if any(path == out["path"] or path.startswith(f"{out['path']}/") for out in stage.get("outs") or ()):
            found = ((stage.get("params") or {}).get("params.yaml") or {}).get("dataset")
            return None if found is None else str(found)
    return None


def is_current(path: str, dataset: str, root: Path = ROOT) -> bool:
    """Whether *path* may be taken for *dataset*'s: no other dataset's run wrote it."""
    return find_dataset_of_file(path, root) in {None, dataset}


def check_current(path: str, dataset: str, root: Path = ROOT) -> None:
    """Raise OtherDatasetError when the run of another dataset than *dataset* wrote *path*."""
    if (found := find_dataset_of_file(path, root)) not in {None, dataset}:
        raise OtherDatasetError(path, str(found), dataset)


def find_rows(dataset: str, root: Path = ROOT) -> Path:
    """The published rows, which a refresh keeps new; before the first promotion the clean rows."""
    if (path := get_rows_path(dataset)).exists():
        return path
    check_current(ROWS, dataset, root)
    return root / ROWS


def find_report(kind: type[ReportT], dataset: str, root: Path = ROOT) -> ReportT | None:
    """The report at `kind.PATH` of *root*; None when it is not there or is another dataset's.

    It says itself whose it is, or dvc.lock knows. Raises FrameError when it has another form.
    """
    path = root / kind.PATH
    if not path.exists():
        return None
    content = read_json(path)
    says_whose = issubclass(kind, Report) and "dataset" in kind.model_fields
    is_ours = content.get("dataset") == dataset if says_whose else is_current(kind.PATH, dataset, root)
    return kind.parse(content, str(path)) if is_ours else None
