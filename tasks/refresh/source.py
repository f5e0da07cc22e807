"""The current dataset's source as it is now, where ingest's readers find it."""

from collections.abc import Iterable
from pathlib import Path

from tasks.core.errors import SourceError
from tasks.edges.artifacts import write_report
from tasks.edges.observations import get_observations_path, link_observations
from tasks.edges.refreshed import Stamp
from tasks.edges.safe_names import encode_name
from tasks.edges.settings import read_settings
from tasks.ingest.params import ArchSource, FeedSource, SourceParams
from tasks.ingest.wizard.use import SOURCE, WINDOW, list_dataset_files, write_links


def read_stamp(params: SourceParams, dataset: str, root: Path) -> Stamp:
    """The stamps of the source's files, by which a change is seen without reading them.

    Raises SourceError or ParamsError when there is no such source.
    """
    if isinstance(params, ArchSource):
        paths = []
    elif isinstance(params, FeedSource):
        folder = read_settings().home / "feed" / encode_name(dataset)
        paths = [folder / WINDOW, folder / "table" / "_delta_log"]
    else:
        paths = list_dataset_files(params.files, dataset, root)
    return build_stamp([*paths, get_observations_path(dataset)])


def build_stamp(paths: Iterable[Path]) -> Stamp:
    """Size, time of change (ns) and inode of each of *paths* that is there."""
    stats = {str(path): path.stat() for path in paths if path.exists()}
    return {path: (s.st_size, s.st_mtime_ns, s.st_ino) for path, s in stats.items()}


def write_source(params: SourceParams, dataset: str, folder: Path, root: Path) -> None:
    """Fill *folder* as `data/source` is: links to the files, or the window of all that has landed.

    With a link to the observations, also in `data/source` itself: the next training reads them.
    Raises SourceError when a feed has landed nothing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(params, FeedSource):
        _write_window(dataset, folder)
    elif not isinstance(params, ArchSource):
        write_links(folder, "files", list_dataset_files(params.files, dataset, root))
    for place in (folder, root / SOURCE):
        if place.is_dir():
            link_observations(dataset, place)


def _write_window(dataset: str, folder: Path) -> None:
    # the feed's libraries, which files do not need
    from tasks.edges.delta import open_existing_table
    from tasks.feed.service import get_feed_folder, read_window
    from tasks.feed.window import build_open_window

    feed = get_feed_folder(dataset)
    window = read_window(feed)
    # Bars are closed by their window; of records all that has landed is news
    if window is None or window.bars is None:
        window = build_open_window(open_existing_table(feed / "table"))
    if window is None:
        raise SourceError(
            f"The feed of {dataset!r} has landed no row yet, so there is nothing to refresh. `tidemill feed"
            " status` shows what it reads."
        )
    write_report(folder / WINDOW, window, sync=False)
