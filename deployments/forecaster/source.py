"""Which release speaks and on which rows.

Both are looked after by `stat` at each request; a new one is loaded and verified beside the old
one. The release: `TIDEMILL_RELEASE` if set, else the champion of the dataset in `TIDEMILL_HOME`,
else the one embedded in the Bento (`release/` at the root). The dataset: that of a fixed release,
else the current one of the checkout that `TIDEMILL_CHECKOUT` names, as soon as it has a champion,
else the embedded one's. The rows: `TIDEMILL_HOME/rows/<dataset>.parquet`, which promote publishes,
else those that travel in the release.
"""

import asyncio
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import polars as pl

from deployments.forecaster import shapes
from tasks.core.errors import ReleaseError, TidemillError
from tasks.core.frames import SERIES
from tasks.core.reports.package import EvaluationFigures, Provenance
from tasks.edges.artifacts import read_last_report
from tasks.edges.registry import get_champion_folder, get_champion_path, get_rows_path, read_champion
from tasks.edges.settings import ROOT, read_settings
from tasks.release import Manifest, Release, load_release, predict_cutoffs
from tasks.release.manifest import read_manifest

EMBEDDED = ROOT / "release"
RETRY_S = 5.0  # a release that failed is tried again this often, in case a file of it was mended
KEPT_ROWS, KEPT_TIMES = 200_000, 256  # forecasts kept in memory: some 10 MB

Stamp = tuple[object, ...]


@dataclass(frozen=True)
class ReleaseChoice:
    """A release to load: where it lies, the version it is shown under, and who chose it."""

    folder: Path
    version: str
    chosen_by: str


@dataclass(frozen=True, eq=False)
class LoadedRelease:
    """What answers now.

    One object, swapped whole, so that a request sees one release and one set of rows.
    """

    release: Release
    manifest: Manifest
    choice: ReleaseChoice
    rows: pl.DataFrame
    rows_stamp: Stamp  # of the published file; empty: the rows that travel in the release
    kept: OrderedDict[datetime, pl.DataFrame] = field(default_factory=OrderedDict)
    lock: threading.Lock = field(default_factory=threading.Lock)  # around kept: several threads ask

    @cached_property
    def newest_known(self) -> datetime:
        """The newest `known_at` of the rows."""
        return compute_known_span(self.rows)[1]

    @cached_property
    def metrics(self) -> EvaluationFigures | None:
        """What the release's evaluation found, from its provenance; None when that is not there or
        has another form, since it is outside the digest.
        """
        provenance = read_last_report(self.release.folder / "provenance.json", Provenance)
        return None if provenance is None else provenance.metrics

    @cached_property
    def series(self) -> list[str]:
        """The series that the rows hold, sorted."""
        return self.rows["series_id"].unique().sort().to_list()

    def forecast(self, at: datetime) -> pl.DataFrame:
        """Forecasts of all series from what was known at *at*.

        Kept, since they are a pure function of release, rows and time.
        """
        with self.lock:
            if at in self.kept:
                self.kept.move_to_end(at)
                return self.kept[at]
        made = predict_cutoffs(self.release, self.rows, [at])
        with self.lock:
            self.kept[at] = made
            if self.newest_known in self.kept:
                self.kept.move_to_end(self.newest_known)  # what most ask for stays
            while len(self.kept) > KEPT_TIMES or (
                len(self.kept) > 1 and sum(frame.height for frame in self.kept.values()) > KEPT_ROWS
            ):
                self.kept.popitem(last=False)
        return made


class ReleaseSource:
    """Holds the standing of one dataset and renews it.

    Lives in one event loop, which alone assigns to it.
    """

    def __init__(self, embedded: Path = EMBEDDED, dataset: str | None = None) -> None:
        """dataset: by default that of the fixed release, else the followed checkout's current
        one, else the embedded one's.
        """
        self.embedded = embedded
        self.standing: LoadedRelease | None = None
        self.fault: str | None = "Nothing has been loaded yet."  # why the newest choice does not speak
        self.rows_fault: str | None = None
        self.dataset_fault: str | None = None
        self.n_swaps = 0
        self._dataset = dataset
        self._checkout = (
            None if dataset is not None or read_settings().release is not None else _find_checkout(embedded)
        )
        self._seen_params: Stamp | None = None
        self._current: str | None = None  # of the checkout
        self._seen_choice: Stamp | None = None
        self._tried_at = -RETRY_S
        self._loading: asyncio.Task[LoadedRelease | str] | None = None
        self._reading: asyncio.Task[None] | None = None

    @property
    def faults(self) -> list[str]:
        """What does not load now; with a standing release, that one goes on."""
        return [fault for fault in (self.fault, self.rows_fault, self.dataset_fault) if fault]

    @property
    def dataset(self) -> str:
        """The dataset that answers, or is to.

        Raises TidemillError when neither a release nor a checkout says which.
        """
        if self.standing is not None:
            return self.standing.manifest.dataset
        return self._wanted()

    def _wanted(self) -> str:
        if self._dataset is None:
            self._dataset = (
                _find_dataset(read_settings().release)
                or _find_dataset(self.embedded)
                or _read_checkout_dataset(ROOT)
            )
        return self._dataset

    def _update_from_checkout(self) -> None:
        """Want the checkout's current dataset once it has a champion; until then the old one
        goes on, with a fault.
        """
        if self._checkout is None:
            return
        if (stamp := _read_stamp(self._checkout / "params.yaml")) != self._seen_params:
            self._seen_params, self.dataset_fault = stamp, None
            try:
                self._current = _read_checkout_dataset(self._checkout)
            except Exception as error:  # noqa: BLE001  (a file that is being edited; the old dataset goes on)
                self.dataset_fault = f"{type(error).__name__}: {error}"
        if self._current is None or self._current == self._dataset:
            return
        if self.standing is None or get_champion_path(self._current).exists():
            self._dataset, self.dataset_fault = self._current, None
        else:
            self.dataset_fault = (
                f"The checkout's current dataset {self._current!r} has no champion yet, so {self.dataset!r}"
                " goes on. `tidemill run` makes one, and the service changes to it by itself."
            )

    def load_initial(self) -> None:
        """Load what there is, waiting for it; a fault is kept in `fault`, not raised.

        For the start of the process.
        """
        self._update_from_checkout()
        self._update_last_try()
        self._apply_loaded(self._load_or_report())

    async def refresh(self) -> LoadedRelease | None:
        """What answers now, loaded in threads.

        A changed champion is loaded while the old one goes on; changed rows are waited for.
        """
        self._update_from_checkout()
        if self._loading is None and self._is_due():
            self._update_last_try()
            self._loading = asyncio.create_task(asyncio.to_thread(self._load_or_report))
        if self._loading is not None and (self.standing is None or self._loading.done()):
            loaded = await asyncio.shield(self._loading)
            if self._loading is not None:
                self._loading = None
                self._apply_loaded(loaded)
        if self._reading is None and self._has_new_rows():
            self._reading = asyncio.create_task(self._update_rows())
        if self._reading is not None:
            await asyncio.shield(self._reading)
        return self.standing

    def _is_due(self) -> bool:
        failed = self.fault is not None and time.monotonic() - self._tried_at > RETRY_S
        return failed or self._read_choice_stamp() != self._seen_choice

    def _update_last_try(self) -> None:
        self._seen_choice, self._tried_at = self._read_choice_stamp(), time.monotonic()

    def _apply_loaded(self, loaded: LoadedRelease | str) -> None:
        self.fault = loaded if isinstance(loaded, str) else None
        if isinstance(loaded, LoadedRelease):
            self.n_swaps += (
                self.standing is not None and loaded.manifest.digest != self.standing.manifest.digest
            )
            self.standing = loaded

    def _load_or_report(self) -> LoadedRelease | str:
        try:
            return self._load_release()
        except Exception as error:  # noqa: BLE001  (whatever is wrong with a new release, the old one goes on)
            return f"{type(error).__name__}: {error}"

    def _load_release(self) -> LoadedRelease:
        wanted = self._wanted()
        choice = self._select_release(wanted)
        now, manifest = self.standing, read_manifest(choice.folder)
        if now is not None and now.manifest == manifest and now.choice == choice:
            return now
        release = load_release(choice.folder)
        if manifest.dataset != wanted:
            raise ReleaseError(
                f"{choice.folder} is a release of {manifest.dataset!r}, this service serves {wanted!r}. Start"
                " one for each dataset."
            )
        standing = LoadedRelease(release, manifest, choice, *_read_newest_rows(release, wanted))
        standing.forecast(standing.newest_known)  # warm, and a release that cannot answer stops here
        return standing

    def _has_new_rows(self) -> bool:
        return (
            self.standing is not None
            and _read_stamp(get_rows_path(self.standing.manifest.dataset)) != self.standing.rows_stamp
        )

    async def _update_rows(self) -> None:
        """Read changed rows for what stands; if another release stands by then, the next request
        looks again.
        """
        try:
            if (now := self.standing) is not None:
                renewed, fault = await asyncio.to_thread(self._load_newest_rows, now)
                if self.standing is now:
                    self.standing, self.rows_fault = renewed, fault
        finally:
            self._reading = None

    def _load_newest_rows(self, now: LoadedRelease) -> tuple[LoadedRelease, str | None]:
        """*now* on the newest rows, warm; on those that it has, and the fault, when something is
        wrong with them.
        """
        path = get_rows_path(now.manifest.dataset)
        stamp = _read_stamp(path)
        try:
            renewed = LoadedRelease(
                now.release, now.manifest, now.choice, *_read_newest_rows(now.release, now.manifest.dataset)
            )
            renewed.forecast(renewed.newest_known)
        except (TidemillError, OSError, pl.exceptions.PolarsError) as error:
            return replace(now, rows_stamp=stamp), f"{path}: {error}"
        return renewed, None

    def _select_release(self, dataset: str) -> ReleaseChoice:
        if (fixed := read_settings().release) is not None:
            return ReleaseChoice(fixed, read_manifest(fixed).digest[:12], "setting")
        if (champion := read_champion(dataset)) is not None:
            folder = get_champion_folder(champion)
            if (found := read_manifest(folder).digest) != champion.digest:
                raise ReleaseError(
                    f"{folder} has digest {found[:12]}, the champion's is {champion.digest[:12]}. Promote"
                    " again with `dvc repro promote`."
                )
            return ReleaseChoice(folder, champion.version, "champion")
        if _find_dataset(self.embedded) == dataset:
            return ReleaseChoice(self.embedded, read_manifest(self.embedded).digest[:12], "embedded")
        raise ReleaseError(
            f"No champion of {dataset!r} in {read_settings().home} and no embedded release. `tidemill run`"
            " makes one, or set TIDEMILL_RELEASE."
        )

    def _read_choice_stamp(self) -> Stamp:
        if (fixed := read_settings().release) is not None:
            return _read_stamp(fixed / "manifest.json")
        try:
            wanted = self._wanted()
            return (
                wanted,
                *(_read_stamp(get_champion_path(wanted)) or _read_stamp(self.embedded / "manifest.json")),
            )
        except TidemillError as error:  # no dataset either
            return (str(error),)


def _read_newest_rows(release: Release, dataset: str) -> tuple[pl.DataFrame, Stamp]:
    path = get_rows_path(dataset)
    stamp = _read_stamp(path)
    rows = SERIES.check(pl.read_parquet(path)) if stamp else release.rows
    if rows.is_empty():
        raise ReleaseError(
            f"{path if stamp else release.folder} holds no rows, so there is nothing to forecast from. Run"
            " `dvc repro promote`."
        )
    if missing := [c for c in list_value_columns(release.rows) if c not in rows.columns]:
        raise ReleaseError(
            f"{path} lacks the columns {missing} of the release. Run `dvc repro promote`, which publishes the"
            " rows."
        )
    return rows, stamp


def describe_source(source: ReleaseSource) -> shapes.Ready:
    """What stands and what does not."""
    now = source.standing
    return {
        "ready": now is not None,
        "dataset": now.manifest.dataset if now else None,
        "version": now.choice.version if now else None,
        "digest": now.manifest.digest if now else None,
        "chosen_by": now.choice.chosen_by if now else None,
        "rows_from": ("published" if now.rows_stamp else "release") if now else None,
        "as_of": format_iso(now.newest_known) if now else None,
        "faults": source.faults,
    }


def format_iso(time: datetime) -> str:
    """ISO 8601 in UTC, with Z."""
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _find_dataset(folder: Path | None) -> str | None:
    return read_manifest(folder).dataset if folder is not None and folder.is_dir() else None


def _find_checkout(embedded: Path) -> Path | None:
    """The checkout whose current dataset is followed: that of the setting, else ours when this
    is no Bento.
    """
    return read_settings().checkout or (None if embedded.is_dir() else ROOT)


def _read_checkout_dataset(checkout: Path) -> str:
    from tasks.edges.params import read_dataset

    return read_dataset(checkout)


def compute_known_span(rows: pl.DataFrame) -> tuple[datetime, datetime]:
    """First and newest `known_at` of a SERIES frame that is not empty."""
    first, newest = rows["known_at"].min(), rows["known_at"].max()
    assert isinstance(first, datetime), "SERIES says so"
    assert isinstance(newest, datetime), "SERIES says so"
    return first, newest


def list_value_columns(rows: pl.DataFrame) -> list[str]:
    """Columns of a SERIES frame that hold numbers."""
    return [c for c, dtype in rows.schema.items() if dtype.is_float()]


def _read_stamp(path: Path) -> Stamp:
    """What changes when the file does; empty when there is none."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return (found.st_mtime_ns, found.st_ino, found.st_size)
