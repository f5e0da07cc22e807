"""Which inputs of a page are there, and are the current dataset's."""

from collections.abc import Iterable
from pathlib import Path

from tasks.edges.current import is_current
from tasks.edges.params import read_dataset


def list_missing(paths: Iterable[str], root: Path) -> list[str]:
    """Those of *paths* (from *root*) that a page of the current dataset cannot be made of, in
    words.
    """
    paths, dataset = tuple(paths), read_dataset(root)
    absent = [path for path in paths if not (root / path).exists()]
    others = [path for path in paths if not is_current(path, dataset, root)]
    return [*absent, *(f"{path} (what is there is another dataset's)" for path in others)]
