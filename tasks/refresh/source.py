"""The current dataset's source as it is now, where ingest's readers find it."""

from collections.abc import Iterable
from pathlib import Path

from tasks.core.errors import SourceError
from tasks.edges.artifacts import write_folder, write_report
from tasks.edges.delta import open_existing_table
from tasks.edges.settings import read_settings
from tasks.feed.service import read_window
from tasks.feed.window import NAME, build_open_window
from tasks.ingest.params import ArchSource, FeedSource, SourceParams
from tasks.ingest.wizard.use import list_dataset_files, write_links

Stamp = dict[str, tuple[int, ...]]


def read_stamp(params: SourceParams, dataset: str, root: Path) -> Stamp:
    """The stamps of the source's files, by which a change is seen without reading them.

    Raises SourceError or ParamsError when there is no such source.
    """
    if isinstance(params, ArchSource):
        return {}
    if isinstance(params, FeedSource):
        folder = read_settings().home / "feed" / dataset
        paths = [folder / NAME, folder / "table" / "_delta_log"]
    else:
        paths = list_dataset_files(params.files, dataset, root)
    return build_stamp(paths)


def build_stamp(paths: Iterable[Path]) -> Stamp:
    """Size, time of change (ns) and inode of each of *paths* that is there."""
    stats = {str(path): path.stat() for path in paths if path.exists()}
    return {path: (s.st_size, s.st_mtime_ns, s.st_ino) for path, s in stats.items()}


def write_source(params: SourceParams, dataset: str, folder: Path, root: Path) -> None:
    """Fill *folder* as `data/source` is: links to the files, or the window of all that has landed.

    Raises SourceError when a feed has landed nothing.
    """
    if isinstance(params, ArchSource):
        return
    if not isinstance(params, FeedSource):
        write_links(folder, "files", list_dataset_files(params.files, dataset, root))
        return
    feed = read_settings().home / "feed" / dataset
    window = read_window(feed)
    # Bars are closed by their window; of records all that has landed is news
    if window is None or window.bars is None:
        window = build_open_window(open_existing_table(feed / "table"))
    if window is None:
        raise SourceError(
            f"The feed of {dataset!r} has landed no row yet, so there is nothing to refresh. `tidemill feed"
            " status` shows what it reads."
        )
    with write_folder(folder) as new_folder:
        write_report(new_folder / NAME, window)
