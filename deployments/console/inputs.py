"""Check which inputs of a page exist and belong to the current dataset."""

from collections.abc import Iterable
from pathlib import Path

from tasks.edges.current import is_current
from tasks.edges.params import read_dataset


def list_missing(paths: Iterable[str], root: Path) -> list[str]:
    """Those of *paths* that a page of the current dataset cannot use, with the reason.

    paths: relative to *root*.
    """
    paths, dataset = tuple(paths), read_dataset(root)
    absent = [path for path in paths if not (root / path).exists()]
    others = [path for path in paths if not is_current(path, dataset, root)]
    return [*absent, *(f"{path} (of another dataset)" for path in others)]
