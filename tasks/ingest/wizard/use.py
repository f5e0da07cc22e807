"""Making a dataset current: its name and models in params.yaml, its files in data/source."""

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from tasks.core.errors import ParamsError
from tasks.core.reports.feed import FeedWindow
from tasks.edges.artifacts import read_report, write_folder, write_json, write_report
from tasks.edges.observations import link_observations
from tasks.edges.params import read_document
from tasks.edges.run_stage import wait_for_checkout_lock
from tasks.edges.safe_names import encode_name
from tasks.edges.settings import ROOT, read_settings
from tasks.ingest.wizard.inspect.files import build_link_names, find_files
from tasks.ingest.wizard.write import read_commented_params, write_commented_params

SOURCE = "data/source"
WINDOW = "window.json"  # of a feed: the rows that the chain may use


class AppliedDataset(NamedTuple):
    """The dataset that is current now. links: name in data/source -> file; empty without files."""

    dataset: str
    models: tuple[str, ...]
    links: dict[str, Path]


def apply_dataset(name: str, root: Path = ROOT) -> AppliedDataset:
    """Make *name* current.

    data/source is filled first: after a kill in between `dataset` is unchanged, and
    `tidemill use NAME` repairs data/source.

    Raises ParamsError for an unknown name (with close matches), SourceError for missing files.
    """
    document = read_commented_params(root)
    entry = _get_entry(document, name)
    read_document(root).select_dataset(name).list_models()  # a section that is missing or no section
    links = _write_source(entry, name, root)
    models = tuple(entry["models"])
    document["dataset"] = name
    document.setdefault("models", []).clear()  # in place: the list holds comments
    document["models"].extend(models)
    write_commented_params(document, root)
    return AppliedDataset(name, models, links)


def update_source(root: Path = ROOT) -> bool:
    """Bring data/source to what the current dataset's entry names now; whether that was another.

    So the next training reads the files that have come under a glob, and a feed's newest window.
    Raises ParamsError or SourceError as `apply_dataset`.
    """
    document, folder = read_document(root), root / SOURCE
    name = document.dataset
    with wait_for_checkout_lock(root):
        before = _read_source(folder)
        _write_source(document.get_entry(name), name, root)
        return _read_source(folder) != before


def _read_source(folder: Path) -> dict[str, Path | bytes]:
    """By name, where the links of *folder* lead and what its files hold."""
    return {
        path.name: path.readlink() if path.is_symlink() else path.read_bytes() for path in folder.glob("*")
    }


def _write_source(entry: Any, name: str, root: Path) -> dict[str, Path]:
    """Write data/source of the dataset *name* as *entry* says now. Returns {link: file}."""
    source = entry["ingest"].get("source") or {}
    if "kind" not in source:
        raise ParamsError(
            f"params.yaml: datasets.{name}.ingest has no `source` with a `kind`. `tidemill new` writes one;"
            " docs/reference/params.md has all."
        )
    kind = "files" if source["kind"] == "extension" else source["kind"]
    files = list_dataset_files(source.get("files") or (), name, root) if kind == "files" else []
    window = find_window(name, root / SOURCE) if kind == "feed" else None
    links = write_links(root / SOURCE, kind, files, window)
    link_observations(name, root / SOURCE)
    return links


def _get_entry(document: Any, name: str) -> Any:
    known = list(document["datasets"])
    if name not in known:
        close = difflib.get_close_matches(name, known, n=3)
        raise ParamsError(
            f"There is no dataset {name!r}"
            + (f"; did you mean {' or '.join(close)}?" if close else f", but {', '.join(known)}.")
            + " `tidemill new NAME --csv FILE` writes one, `tidemill datasets` lists them."
        )
    return document["datasets"][name]


def list_dataset_files(patterns: Iterable[str], name: str, root: Path) -> list[Path]:
    """The files that the entry of the dataset *name* names.

    Raises ParamsError or SourceError when there are none.
    """
    files = [
        path.resolve() for pattern in patterns for path in find_files(str(root / Path(pattern).expanduser()))
    ]
    if not files:
        raise ParamsError(
            f"datasets.{name}.ingest.source has no `files`. Give paths or globs, relative to the checkout or"
            " absolute."
        )
    return list(dict.fromkeys(files))


def find_window(name: str, folder: Path) -> FeedWindow | None:
    """The window that the feed of *name* closed last; None while none has closed.

    It is read from where the feed writes it, else from *folder*.
    """
    for path in (read_settings().home / "feed" / encode_name(name) / WINDOW, folder / WINDOW):
        if path.exists():
            window = read_report(path, FeedWindow)
            if window.dataset == name:
                return window
    return None


def write_links(
    folder: Path, kind: str, files: list[Path], window: FeedWindow | None = None
) -> dict[str, Path]:
    """Write *folder* from scratch, with links to *files* and the *window* of a feed.

    Returns {link: file}.
    """
    links = dict(zip(build_link_names(files), files, strict=True))
    with write_folder(folder) as new_folder:
        if window is not None:
            write_report(new_folder / WINDOW, window)
        for link, path in links.items():
            (new_folder / link).symlink_to(path)
        write_json(
            new_folder / "source.json", {"kind": kind} | ({"files": sorted(links)} if kind == "files" else {})
        )
    return links
