"""Whose files are in `data/` and `models/`.

A checkout works on one dataset at a time; a change leaves the old one's files until the next run. A
decision or a report names its dataset; of any other output dvc.lock says with which `dataset` its
stage ran last.
"""

import json
from pathlib import Path
from typing import Any

import yaml

from tasks.core.errors import OtherDatasetError
from tasks.edges.settings import ROOT


def find_dataset_of_file(path: str, root: Path = ROOT) -> str | None:
    """The dataset whose run wrote *path*; None when there is no file, or dvc.lock knows no run.

    path: a file or folder below a stage's output, relative to *root*.
    """
    lock = root / "dvc.lock"
    if not lock.exists() or not (root / path).exists():
        return None
    stages = (yaml.load(lock.read_text(), Loader=yaml.CSafeLoader) or {}).get("stages") or {}
    for stage in stages.values():
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


def read_json_of_dataset(path: Path, dataset: str) -> dict[str, Any]:
    """The JSON file *path* when it names *dataset*; empty when it is not there or names another."""
    content: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return content if content.get("dataset") == dataset else {}
