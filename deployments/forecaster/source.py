"""The release and the rows that the service forecasts from.

Both are checked by `stat` at each request; a new one is loaded and verified while the old one is in
use. The release: `TIDEMILL_RELEASE` if set, else the champion of the dataset in `TIDEMILL_HOME`,
else the one embedded in the Bento (`release/` at the root). The dataset: one that
`TIDEMILL_DATASETS` names, else that of a fixed release, else the current one of the checkout that
`TIDEMILL_CHECKOUT` names, as soon as it has a champion, else the embedded one's. The rows:
`TIDEMILL_HOME/rows/<dataset>.parquet`, which promote publishes, else those in the release.
"""

import asyncio
import hashlib
import logging
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import polars as pl

from deployments.forecaster import shapes
from deployments.forecaster.loaded import (
    LoadedRelease,
    ReleaseChoice,
    Stamp,
    format_iso,
    list_value_columns,
    read_stamp,
)
from deployments.forecaster.slots import RolloutSlots
from tasks.core.errors import ParamsError, ReleaseError, TidemillError
from tasks.core.frames import SERIES
from tasks.core.objectives import ServiceTargets
from tasks.core.service_rules import SECTION, ServiceRules
from tasks.edges.registry import get_champion_folder, get_champion_path, get_rows_path, read_champion
from tasks.edges.release_files import SIGNATURE
from tasks.edges.row_versions import keep_rows_version
from tasks.edges.settings import ROOT, read_settings
from tasks.release import Release, load_release
from tasks.release.manifest import read_manifest

EMBEDDED = ROOT / "release"
_log = logging.getLogger("tidemill.forecaster")
RETRY_S = 5.0  # a release that failed is tried again this often, in case a file of it was fixed


class ReleaseSource:
    """Holds the loaded release of one dataset and updates it.

    Used by one event loop, which alone assigns to it.
    """

    def __init__(self, embedded: Path = EMBEDDED, dataset: str | None = None) -> None:
        """Load nothing yet.

        dataset: by default that of the fixed release, else the followed checkout's current one,
          else the embedded one's.
        """
        self.embedded, self.name = embedded, dataset
        self.loaded: LoadedRelease | None = None
        self.fault: str | None = "Nothing has been loaded yet."  # why the newest choice is not in use
        self.rows_fault: str | None = None
        self.dataset_fault: str | None = None
        self.n_swaps = 0
        self.slots = RolloutSlots()
        self.targets = ServiceTargets()  # of the checkout, if there is one
        self._rules = ServiceRules()  # of the checkout's entry
        self._dataset = dataset
        self._checkout = None if read_settings().release is not None else _find_checkout(embedded)
        self._params_stamp: Stamp | None = None
        self._checkout_dataset: str | None = None
        self._choice_stamp: Stamp | None = None
        self._last_attempt = -RETRY_S
        self._loading: asyncio.Task[LoadedRelease | str] | None = None
        self._reading: asyncio.Task[None] | None = None

    @property
    def faults(self) -> list[str]:
        """What cannot be loaded now; a release that is already loaded stays in use."""
        faults = (self.fault, self.rows_fault, self.dataset_fault, self.slots.fault)
        return [fault for fault in faults if fault]

    @property
    def rules(self) -> ServiceRules:
        """How old the newest row may be; without a checkout of the dataset there is no rule."""
        is_ours = self.loaded is not None and self.loaded.manifest.dataset == self._checkout_dataset
        return self._rules if is_ours else ServiceRules()

    @property
    def dataset(self) -> str:
        """The dataset of the loaded release, or of the one to load.

        Raises TidemillError when neither a release nor a checkout names one.
        """
        if self.loaded is not None:
            return self.loaded.manifest.dataset
        return self._get_dataset()

    def _get_dataset(self) -> str:
        if self._dataset is None:
            self._dataset = (
                _find_dataset(read_settings().release)
                or _find_dataset(self.embedded)
                or _read_checkout(ROOT)[0]
            )
        return self._dataset

    def _update_from_checkout(self) -> None:
        """Change to the checkout's current dataset once it has a champion, unless one was named.

        Until then the old one stays in use, with a fault.
        """
        if self._checkout is None:
            return
        if (stamp := read_stamp(self._checkout / "params.yaml")) != self._params_stamp:
            self._params_stamp, self.dataset_fault = stamp, None
            try:
                self._checkout_dataset, self.targets, self._rules = _read_checkout(self._checkout, self.name)
            except Exception as error:  # noqa: BLE001  (a file that is being edited; the old dataset stays)
                self.dataset_fault = f"{type(error).__name__}: {error}"
        if self._checkout_dataset is None or self._checkout_dataset == self._dataset:
            return
        if self.loaded is None or get_champion_path(self._checkout_dataset).exists():
            self._dataset, self.dataset_fault = self._checkout_dataset, None
        else:
            self.dataset_fault = (
                f"The checkout's current dataset {self._checkout_dataset!r} has no champion yet, so"
                f" {self.dataset!r} stays in use. `tidemill run` makes one, and the service changes to it by"
                " itself."
            )

    def load_initial(self) -> None:
        """Load the release, and wait for it; a fault is kept in `fault`, not raised.

        For the start of the process.
        """
        self._update_from_checkout()
        self._record_load_attempt()
        self._apply_loaded(self._load_or_report())
        self.slots.load_initial(self.loaded)

    async def refresh(self, *, waits: bool = True) -> LoadedRelease | None:
        """The release in use, after an update in threads.

        A changed champion is loaded while the old one is in use.
        waits: for changed rows; else the former ones are in use until the new ones are read.
        """
        self._update_from_checkout()
        if self._loading is None and self._is_load_due():
            self._record_load_attempt()
            self._loading = asyncio.create_task(asyncio.to_thread(self._load_or_report))
        if self._loading is not None and (self.loaded is None or self._loading.done()):
            loaded = await asyncio.shield(self._loading)
            if self._loading is not None:
                self._loading = None
                self._apply_loaded(loaded)
        if self._reading is None and self._has_new_rows():
            self._reading = asyncio.create_task(self._update_rows())
        if self._reading is not None and waits:
            await asyncio.shield(self._reading)
        if self.loaded is not None:
            await self.slots.refresh(self.loaded)
        return self.loaded

    def _is_load_due(self) -> bool:
        failed = self.fault is not None and time.monotonic() - self._last_attempt > RETRY_S
        return failed or self._read_choice_stamp() != self._choice_stamp

    def _record_load_attempt(self) -> None:
        self._choice_stamp, self._last_attempt = self._read_choice_stamp(), time.monotonic()

    def _apply_loaded(self, loaded: LoadedRelease | str) -> None:
        self.fault = loaded if isinstance(loaded, str) else None
        if isinstance(loaded, LoadedRelease):
            self.n_swaps += self.loaded is not None and loaded.manifest.digest != self.loaded.manifest.digest
            self.loaded = loaded

    def _load_or_report(self) -> LoadedRelease | str:
        try:
            return self._load_release()
        except Exception as error:  # noqa: BLE001  (of any kind; the old one stays)
            return f"{type(error).__name__}: {error}"

    def _load_release(self) -> LoadedRelease:
        dataset = self._get_dataset()
        choice = self._select_release(dataset)
        current, manifest = self.loaded, read_manifest(choice.folder)
        if current is not None and current.manifest == manifest and current.choice == choice:
            return current
        release = load_release(choice.folder)
        if manifest.dataset != dataset:
            raise ReleaseError(
                f"{choice.folder} is a release of {manifest.dataset!r}, this service serves {dataset!r}."
                " Start one for each dataset."
            )
        loaded = LoadedRelease(release, manifest, choice, *_read_newest_rows(release, dataset))
        loaded.predict(loaded.newest_known)  # fills the cache, and raises for a release that cannot answer
        return loaded

    def _has_new_rows(self) -> bool:
        return (
            self.loaded is not None
            and read_stamp(get_rows_path(self.loaded.manifest.dataset)) != self.loaded.rows_stamp
        )

    async def _update_rows(self) -> None:
        """Read changed rows for the loaded release.

        If another release was loaded meanwhile, the next request checks again.
        """
        try:
            if (current := self.loaded) is not None:
                updated, fault = await asyncio.to_thread(self._load_newest_rows, current)
                if self.loaded is current:
                    self.loaded, self.rows_fault = updated, fault
        finally:
            self._reading = None

    def _load_newest_rows(self, current: LoadedRelease) -> tuple[LoadedRelease, str | None]:
        """*current* with the newest rows, and its first forecast made.

        With its old rows, and the fault, when something is wrong with the new ones.
        """
        path = get_rows_path(current.manifest.dataset)
        stamp = read_stamp(path)
        try:
            updated = LoadedRelease(
                current.release,
                current.manifest,
                current.choice,
                *_read_newest_rows(current.release, current.manifest.dataset),
            )
            updated.predict(updated.newest_known)
        except (TidemillError, OSError, pl.exceptions.PolarsError) as error:
            return replace(current, rows_stamp=stamp), f"{path}: {error}"
        return updated, None

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
            if champion.signed_by is not None and not (folder / SIGNATURE).exists():
                raise ReleaseError(
                    f"{folder} has no {SIGNATURE}, and it was promoted with one. Promote again with `dvc"
                    " repro promote`, or go back with `tidemill rollback`."
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
            return read_stamp(fixed / "manifest.json")
        try:
            dataset = self._get_dataset()
            return (
                dataset,
                *(read_stamp(get_champion_path(dataset)) or read_stamp(self.embedded / "manifest.json")),
            )
        except TidemillError as error:  # no dataset either
            return (str(error),)


def _read_newest_rows(release: Release, dataset: str) -> tuple[pl.DataFrame, Stamp, str]:
    """(rows, stamp, version) of the published rows, or of those in the release."""
    path = get_rows_path(dataset)
    stamp = read_stamp(path)
    # Read once: a refresh may replace the file at any time
    content = (path if stamp else release.folder / "rows.parquet").read_bytes()
    rows = SERIES.check(pl.read_parquet(content)) if stamp else release.rows
    if rows.is_empty():
        raise ReleaseError(
            f"{path if stamp else release.folder} holds no rows, so there is nothing to forecast from. Run"
            " `tidemill refresh`."
        )
    if missing := [c for c in list_value_columns(release.rows) if c not in rows.columns]:
        raise ReleaseError(
            f"The columns {missing} of the release are missing in {path}. Run `tidemill refresh`, which"
            " publishes the rows."
        )
    version = hashlib.sha256(content).hexdigest()
    if stamp:
        try:
            keep_rows_version(dataset, path, content, version)
        except OSError as error:  # answers go on; that one cannot be recomputed is said where it is asked for
            _log.warning("the rows %s are not kept for recomputing: %s", version, error)
    return rows, stamp, version


def describe_source(source: ReleaseSource) -> shapes.Ready:
    """The release in use, and the faults."""
    current = source.loaded
    return {
        "ready": current is not None,
        "dataset": current.manifest.dataset if current else None,
        "version": current.choice.version if current else None,
        "digest": current.manifest.digest if current else None,
        "chosen_by": current.choice.chosen_by if current else None,
        "rows_from": ("published" if current.rows_stamp else "release") if current else None,
        "as_of": format_iso(current.newest_known) if current else None,
        "faults": source.faults,
    }


def _find_dataset(folder: Path | None) -> str | None:
    return read_manifest(folder).dataset if folder is not None and folder.is_dir() else None


def _find_checkout(embedded: Path) -> Path | None:
    """The checkout whose current dataset is followed.

    That of the setting, else this one when this is no Bento.
    """
    return read_settings().checkout or (None if embedded.is_dir() else ROOT)


def _read_checkout(checkout: Path, name: str | None = None) -> tuple[str, ServiceTargets, ServiceRules]:
    """The dataset *name*, by default the current one, with what the checkout's entry asks of it."""
    from tasks.edges.objectives import read_targets
    from tasks.edges.params import read_document

    document, targets, rules = read_document(checkout), ServiceTargets(), ServiceRules()
    if name is not None:
        if name not in document.content["datasets"]:  # it is trained in another checkout of this home
            return name, targets, rules
        document = document.select_dataset(name)
    with suppress(ParamsError):  # the monitor reports it; which dataset is served does not depend on it
        targets = read_targets(document)
    with suppress(ParamsError):  # `tidemill datasets check` reports it
        rules = document.parse_stage(SECTION, ServiceRules)
    return document.dataset, targets, rules
