"""The challenger of a rollout, loaded alongside the champion: who answers for which series.

The journal of the registry says what runs; it is checked by `stat` at each request, and followed
as champion.json is. A restart finds the same weight and the same series. Whatever the challenger
fails, the champion answers, and the failure is noted.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from deployments.forecaster import shapes
from deployments.forecaster.loaded import (
    LoadedRelease,
    ReleaseChoice,
    Stamp,
    format_iso,
    list_value_columns,
    read_stamp,
)
from deployments.forecaster.worker import BoundedWorker, WorkerBusyError
from tasks.core.errors import ReleaseError, TidemillError
from tasks.core.rollout import is_assigned
from tasks.edges.rollouts import Rollout, get_rollout_path, read_rollout, write_challenger_error
from tasks.rollout.challenger import load_challenger

RETRY_S = 5.0
N_MIRRORED_WAITING = 100
_log = logging.getLogger("tidemill.forecaster")


class RolloutSlots:
    """Holds the challenger of the champion's dataset. Used by one event loop.

    rollout: as the journal has it; None without one.
    challenger: with the champion's rows; None until it is loaded.
    n_errors: that this process has seen of it; above `max_errors` it answers no more.
    n_mirrored, n_dropped: requests that it answered as shadow, and that found its queue full.
    """

    def __init__(self) -> None:
        self.rollout: Rollout | None = None
        self.challenger: LoadedRelease | None = None
        self.fault: str | None = None
        self.n_errors = self.n_mirrored = self.n_dropped = 0
        self._stamp: Stamp | None = None
        self._last_attempt = -RETRY_S
        self._loading: asyncio.Task[LoadedRelease | str] | None = None
        self._worker = BoundedWorker("shadow", N_MIRRORED_WAITING)
        self._tasks: set[asyncio.Task[None]] = set()

    def load_initial(self, champion: LoadedRelease | None) -> None:
        """Load the challenger, and wait for it: the first answer keeps to its assignment."""
        if champion is not None and self._find_load(champion) is not None:
            self._last_attempt = time.monotonic()
            self._apply_loaded(self._load(champion, self.rollout, None))

    async def refresh(self, champion: LoadedRelease) -> None:
        """Follow the journal. A new challenger is loaded meanwhile; its new rows are waited for."""
        if (is_first := self._find_load(champion)) is None:
            return
        if self._loading is None and (not is_first or time.monotonic() - self._last_attempt > RETRY_S):
            self._last_attempt = time.monotonic()
            self._loading = asyncio.create_task(
                asyncio.to_thread(self._load, champion, self.rollout, self.challenger)
            )
        if self._loading is not None and (self._loading.done() or not is_first):
            loaded = await asyncio.shield(self._loading)
            if self._loading is not None:
                self._loading = None
                self._apply_loaded(loaded)

    def select(self, champion: LoadedRelease, series: list[str]) -> LoadedRelease:
        """Who answers for *series*: that of the first in their alphabetical order."""
        rollout, challenger = self.rollout, self.challenger
        if rollout is None or challenger is None or challenger.rows is not champion.rows:
            return champion
        is_its = self._is_able() and is_assigned(min(series), rollout.challenger, rollout.weight)
        return challenger if is_its else champion

    def mirror(self, champion: LoadedRelease, work: Callable[[LoadedRelease], object]) -> None:
        """Have a shadow do *work* off the reply path; it is dropped where its queue is full."""
        challenger, rollout = self.challenger, self.rollout
        is_shadow = rollout is not None and rollout.is_active and rollout.weight == 0
        if is_shadow and challenger is not None and challenger.rows is champion.rows and self._is_able():
            self._run(self._mirror(partial(work, challenger)))

    def report_error(self, error: Exception) -> None:
        """Note a request that the challenger failed and the champion answered."""
        assert self.rollout is not None, "there is a challenger"
        self.n_errors += 1
        if self._is_able() or self.n_errors == self.rollout.params.max_errors + 1:
            self._run(self._write_error(self.rollout, f"{type(error).__name__}: {error}"))

    def describe(self) -> shapes.RolloutSlot | None:
        """The rollout that is active, as /models shows it."""
        rollout = self.rollout
        if rollout is None or not rollout.is_active:
            return None
        return {
            **describe_rollout(rollout),
            "is_loaded": self.challenger is not None,
            "fault": self.fault,
            "n_errors": self.n_errors,
            "n_mirrored": self.n_mirrored,
            "n_dropped": self.n_dropped,
        }

    def _find_load(self, champion: LoadedRelease) -> bool | None:
        """Whether to load a challenger: True the first time, False for new rows, else None."""
        dataset = champion.manifest.dataset
        stamp = (dataset, *read_stamp(get_rollout_path(dataset)))
        if stamp != self._stamp:
            self._stamp = stamp
            self._update_rollout(dataset if len(stamp) > 1 else None)
        rollout, challenger = self.rollout, self.challenger
        if rollout is None or rollout.champion != champion.manifest.digest or rollout.state == "back":
            self.challenger = None
            return None
        if challenger is not None:
            return None if challenger.rows is champion.rows else False
        is_due = rollout.is_active and champion.choice.chosen_by == "champion" and self._is_able()
        return True if is_due else None

    def _update_rollout(self, dataset: str | None) -> None:
        before = None if self.rollout is None else self.rollout.challenger
        try:
            self.rollout, self.fault = (None if dataset is None else read_rollout(dataset)), None
        except (TidemillError, ValueError, OSError) as error:
            self.rollout, self.fault = None, str(error)
            _log.warning("the rollout is not followed, the champion answers: %s", error)
        if self.rollout is None or self.rollout.challenger != before:
            self.challenger, self.n_errors, self._last_attempt = None, 0, -RETRY_S

    def _is_able(self) -> bool:
        return self.rollout is not None and self.n_errors <= self.rollout.params.max_errors

    def _load(
        self, champion: LoadedRelease, rollout: Rollout | None, loaded: LoadedRelease | None
    ) -> LoadedRelease | str:
        """loaded: the challenger with former rows; what it returns is of *rollout*."""
        assert rollout is not None, "_find_load has seen one"
        try:
            release = load_challenger(rollout) if loaded is None else loaded.release
            assert release.manifest is not None, "load_challenger checks it"
            if missing := sorted(set(list_value_columns(release.rows)) - set(champion.rows.columns)):
                raise ReleaseError(f"The rows do not have {', '.join(missing)}, which it reads.")  # noqa: TRY301
            choice = ReleaseChoice(release.folder, rollout.challenger[:12], "challenger")
            rows = (champion.rows, champion.rows_stamp, champion.rows_version)
            challenger = LoadedRelease(release, release.manifest, choice, *rows)
            challenger.predict(challenger.newest_known)  # raises for a release that cannot answer
        except Exception as error:  # noqa: BLE001  (of any kind; the champion answers)
            message = f"It cannot be loaded: {type(error).__name__}: {error}"
            write_challenger_error(rollout.dataset, rollout.challenger, message)
            return message
        return challenger

    def _apply_loaded(self, loaded: LoadedRelease | str) -> None:
        self.fault = loaded if isinstance(loaded, str) else None
        self.n_errors += isinstance(loaded, str)
        digest = None if self.rollout is None else self.rollout.challenger
        is_ours = isinstance(loaded, LoadedRelease) and loaded.manifest.digest == digest
        self.challenger = loaded if isinstance(loaded, LoadedRelease) and is_ours else None

    async def _mirror(self, work: Callable[[], object]) -> None:
        try:
            await self._worker.run(work)
            self.n_mirrored += 1
        except WorkerBusyError:
            self.n_dropped += 1
        except Exception as error:  # noqa: BLE001  (of any kind: the champion has answered)
            self.report_error(error)

    async def _write_error(self, rollout: Rollout, error: str) -> None:
        try:
            await asyncio.to_thread(write_challenger_error, rollout.dataset, rollout.challenger, error)
        except OSError as fault:  # the answer is given; the judge misses one error
            _log.warning("an error of the challenger is not noted: %s", fault)

    def _run(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def describe_rollout(rollout: Rollout) -> shapes.RolloutState:
    """A rollout as the routes show it."""
    return {
        "dataset": rollout.dataset,
        "challenger": rollout.challenger,
        "champion": rollout.champion,
        "name": rollout.model,
        "state": rollout.state,
        "weight": rollout.weight,
        "steps_frac": list(rollout.params.steps_frac),
        "by": rollout.by,
        "reason": rollout.reason,
        "moved_at": format_iso(rollout.moved_at),
    }
