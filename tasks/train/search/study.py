"""Where the trials of a search are stored: an Optuna study that survives a kill.

It is a journal file in TIDEMILL_HOME/search/<key>, or in the database of TIDEMILL_SEARCH_STORAGE.
One search at a time works on a study: it holds the lock of a file, and in PostgreSQL one of the
database too; both end with its process. Its workers end with it. So a trial that is still running
when a search starts was killed: it is run again, once, with what it had drawn.
"""

import contextlib
import hashlib
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tasks.core.errors import SettingsError
from tasks.edges.files import hold_lock, try_lock
from tasks.edges.settings import read_settings
from tasks.train.search.params import SearchParams

N_RANDOM_TRIALS = 10  # drawn at random before the sampler learns from them; Optuna's default
REFUSAL = "refusal"  # attribute of a trial: why the model refused it
_COPY_OF = "copy_of"  # attribute of a waiting trial: number of the killed one
_DRAWN = "drawn"  # attribute of a trial: all its parameters are drawn
_PLACE = "place"  # attribute of a waiting trial: place of the killed one, which its sampler's seed needs
_KILLED = "killed"  # attribute of a study: numbers of the trials that a kill ended


def get_study_folder(key: str) -> Path:
    """The folder of the study *key*, made if it is missing."""
    folder = read_settings().home / "search" / key
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def open_locked_study(key: str, search: SearchParams) -> Iterator[Any]:
    """The study *key* under its lock; what a kill ended waits in it to be run again.

    Another search of the same study waits until the context ends.
    Raises SettingsError as `open_study`, and when the connection to the database ends.
    """
    url, folder = read_settings().search_storage, get_study_folder(key)
    with _convert_errors(url):
        if url:
            _open_storage(url, folder)  # raises first if something is wrong with it
        with _open_database_lock(url, key), _open_lock(folder / "lock"):
            if not url:
                _delete_journal_remains(folder / "journal.log")
            study = open_study(key, search)
            _add_waiting_copies(study)
            yield study


def delete_old_studies() -> None:
    """Remove the least recently used folders of studies, until the rest fits `keep_searches_mb`.

    One in use is never removed; what a database stores stays.
    """
    left = read_settings().keep_searches_mb * 1_000_000
    locks = []
    for lock in (read_settings().home / "search").glob("*/lock"):
        with contextlib.suppress(FileNotFoundError):  # another search removes folders at the same time
            locks.append(
                (lock.stat().st_mtime, sum(path.lstat().st_size for path in lock.parent.iterdir()), lock)
            )
    for _, size, lock in sorted(locks, reverse=True):
        left -= size
        if left < 0:
            with try_lock(lock) as holder:
                if not holder:
                    shutil.rmtree(lock.parent, ignore_errors=True)


def open_study(key: str, search: SearchParams) -> Any:
    """The study *key*, created if it is missing.

    Raises SettingsError when the database does not answer, or its driver is not installed.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(
        study_name=f"tidemill-{key}",
        storage=_open_storage(read_settings().search_storage, get_study_folder(key)),
        load_if_exists=True,
        directions=["minimize"] * len(search.objectives),
        pruner=optuna.pruners.MedianPruner(),
    )


def start_trial(study: Any, search: SearchParams, seed: int) -> Any:
    """The next trial: one that waits, or a new one.

    Its sampler is seeded by its place, the number of trials before it without killed ones, and
    that of a copy by the place of the killed one. So no two trials draw from one seed, and with
    one worker a search that was killed goes on as it would have without the kill.
    """
    import optuna

    trial = study.ask()
    place = _get_place(trial, _list_killed(study))
    trial_seed = int(np.random.SeedSequence([seed, place]).generate_state(1)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.sampler = optuna.samplers.TPESampler(
            n_startup_trials=N_RANDOM_TRIALS, seed=trial_seed, constant_liar=search.workers > 1
        )
    return trial


def register_drawn(trial: Any) -> None:
    """Record that *trial* is completely drawn: after a kill it will be run again."""
    trial.set_user_attr(_DRAWN, 1)


def list_finished(study: Any) -> list[Any]:
    """Trials that were judged, pruned or refused by the model, in order of their start."""
    killed = set(_list_killed(study))
    return [t for t in study.get_trials(deepcopy=False) if t.state.is_finished() and t.number not in killed]


def get_attribute(study: Any, name: str, make: Callable[[], Any]) -> Any:
    """The study's attribute *name*; *make* computes it the first time."""
    if name not in study.user_attrs:
        study.set_user_attr(name, make())
    return study.user_attrs[name]


def _add_waiting_copies(study: Any) -> None:
    """Enqueue a copy of each trial that a kill left running, then record that one as failed.

    After a kill between the two steps, the copy is found and no second one is made.
    """
    import optuna

    trials, killed = study.get_trials(deepcopy=False), _list_killed(study)
    copied = {t.user_attrs.get(_COPY_OF) for t in trials}
    for trial in trials:
        if trial.state == optuna.trial.TrialState.RUNNING:
            if trial.number not in copied:
                drawn = trial.params if _DRAWN in trial.user_attrs else {}
                attributes = {_COPY_OF: trial.number, _PLACE: _get_place(trial, killed)}
                study.enqueue_trial(trial.system_attrs.get("fixed_params") or drawn, user_attrs=attributes)
            study.set_user_attr(_KILLED, sorted({*_list_killed(study), trial.number}))
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)


def _get_place(trial: Any, killed: list[int]) -> int:
    place: int = trial.user_attrs.get(_PLACE, trial.number - sum(number < trial.number for number in killed))
    return place


def _list_killed(study: Any) -> list[int]:
    """Numbers of the trials that a kill ended."""
    numbers: list[int] = study.user_attrs.get(_KILLED, [])
    return numbers


@contextmanager
def _open_lock(lock: Path) -> Iterator[None]:
    """Hold *lock* and set its time of use."""
    with hold_lock(lock):
        os.utime(lock)
        yield


def _delete_journal_remains(journal: Path) -> None:
    """Remove what a kill left: the lock of the journal and half of a line.

    If the journal itself was removed, the storage that this process has cached goes too.
    """
    if not journal.exists():
        _open_storage.cache_clear()
    journal.with_name(f"{journal.name}.lock").unlink(missing_ok=True)
    if journal.exists() and not (content := journal.read_bytes()).endswith(b"\n"):
        with journal.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)


@cache
def _open_storage(url: str, folder: Path) -> Any:
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend

    if not url:
        return JournalStorage(JournalFileBackend(str(folder / "journal.log")))
    try:
        # two processes that create the tables at the same time would fail
        with _convert_errors(url), _open_database_lock(url, "tables"):
            return RDBStorage(url)
    except ImportError as error:
        raise SettingsError(
            f"TIDEMILL_SEARCH_STORAGE needs a driver that is not installed: {error}. For PostgreSQL write"
            " `postgresql+psycopg://...`; its driver is installed."
        ) from error


@contextmanager
def _open_database_lock(url: str, name: str) -> Iterator[None]:
    """Hold the lock *name* in the PostgreSQL database of *url*, across machines.

    The server releases it when the connection ends, immediately if the process is killed.
    """
    if not url.startswith("postgresql"):
        yield
        return
    # 0.3 s to import, so only where a database is used
    from sqlalchemy import NullPool, create_engine, text

    engine = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    number = int.from_bytes(hashlib.sha256(f"tidemill {name}".encode()).digest()[:8], signed=True)
    with engine.connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(:number)"), {"number": number})
        yield


@contextmanager
def _convert_errors(url: str) -> Iterator[None]:
    """Raise SettingsError for an error of the database of *url*."""
    if not url:
        yield
        return
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (StorageInternalError, SQLAlchemyError) as error:
        raise SettingsError(
            f"TIDEMILL_SEARCH_STORAGE does not answer: {type(error).__name__}:"
            f" {str(error.__cause__ or error).splitlines()[0]}. Start the database and run again, to go on"
            " from the finished trials; or unset the variable, and trials are stored in a file of"
            " TIDEMILL_HOME."
        ) from error
