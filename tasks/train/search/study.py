"""Where the trials of a search are kept: an Optuna study that a kill does not harm.

In TIDEMILL_HOME/search/<key> as a journal file, or in the database of TIDEMILL_SEARCH_STORAGE. One
search at a time works on a study, held apart by a lock that ends with its process: of a file, and
in PostgreSQL of the database too. Its workers end with it. So a trial that still runs when a search
begins is one that was killed: it is done again, once, with what it had drawn.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np

from tasks.core.errors import SettingsError
from tasks.edges.settings import read_settings
from tasks.train.search.params import SearchParams

RANDOM_TRIALS = 10  # drawn blindly before the sampler has something to learn from; Optuna's own number
_AGAIN, _STALE, _WHOLE, WHY = "again", "stale", "whole", "why"


def get_study_folder(key: str) -> Path:
    """Of the study *key*, made when it is not there."""
    folder = read_settings().home / "search" / key
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def open_locked_study(key: str, search: SearchParams) -> Iterator[Any]:
    """The study *key*, in which nobody else works, with what a kill left undone waiting to be done
    again; another search waits for its end.

    Raises SettingsError as `open_study`, and when the database goes away.
    """
    url, folder = read_settings().search_storage, get_study_folder(key)
    with _convert_errors(url):
        if url:
            _open_storage(url, folder)  # says first what is wrong with it
        with _open_database_lock(url, key), _open_lock(folder / "lock"):
            if not url:
                _delete_journal_remains(folder / "journal.log")
            study = open_study(key, search)
            _add_waiting_copies(study)
            yield study


def delete_old_studies() -> None:
    """Remove the folders of studies that were used longest ago, until the rest fits into the
    setting `keep_searches_mb`; none that is in use.

    What a database keeps stays.
    """
    left = read_settings().keep_searches_mb * 1_000_000
    locks = []
    for lock in (read_settings().home / "search").glob("*/lock"):
        with contextlib.suppress(FileNotFoundError):  # another search trims beside us
            locks.append(
                (lock.stat().st_mtime, sum(path.lstat().st_size for path in lock.parent.iterdir()), lock)
            )
    for _, size, lock in sorted(locks, reverse=True):
        left -= size
        if left < 0:
            with contextlib.suppress(FileNotFoundError, BlockingIOError), lock.open("r+") as handle:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock.parent, ignore_errors=True)


def open_study(key: str, search: SearchParams) -> Any:
    """The study *key*, begun now or earlier.

    Raises SettingsError when the database does not answer, or its driver is missing.
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

    Its sampler is seeded by how many trials came before, killed ones not counted: so with one
    worker a search that was killed goes on as it would have.
    """
    import optuna

    trial = study.ask()
    stale = sum(number < trial.number for number in _list_stale(study))
    own_seed = int(np.random.SeedSequence([seed, trial.number - stale]).generate_state(1)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.sampler = optuna.samplers.TPESampler(
            n_startup_trials=RANDOM_TRIALS, seed=own_seed, constant_liar=search.workers > 1
        )
    return trial


def register_drawn(trial: Any) -> None:
    """Everything of *trial* is drawn: from here on a kill means that it is done again."""
    trial.set_user_attr(_WHOLE, 1)


def list_finished(study: Any) -> list[Any]:
    """Trials that came to an end: judged, pruned, or refused by the model; in the order in which
    they began.
    """
    stale = set(_list_stale(study))
    return [t for t in study.get_trials(deepcopy=False) if t.state.is_finished() and t.number not in stale]


def get_attribute(study: Any, name: str, make: Callable[[], Any]) -> Any:
    """The study's attribute *name*, made once."""
    if name not in study.user_attrs:
        study.set_user_attr(name, make())
    return study.user_attrs[name]


def _add_waiting_copies(study: Any) -> None:
    """Of each trial that a kill left running: its copy waits, then it counts as failed.

    A kill in between finds the copy and makes no second.
    """
    import optuna

    there = study.get_trials(deepcopy=False)
    waiting = {t.user_attrs.get(_AGAIN) for t in there}
    for trial in there:
        if trial.state == optuna.trial.TrialState.RUNNING:
            params = trial.system_attrs.get("fixed_params") or (
                trial.params if _WHOLE in trial.user_attrs else None
            )
            if params is not None and trial.number not in waiting:
                study.enqueue_trial(params, user_attrs={_AGAIN: trial.number})
            study.set_user_attr(_STALE, sorted({*_list_stale(study), trial.number}))
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)


def _list_stale(study: Any) -> list[int]:
    """Numbers of the trials that a kill ended."""
    numbers: list[int] = study.user_attrs.get(_STALE, [])
    return numbers


@contextmanager
def _open_lock(lock: Path) -> Iterator[None]:
    """Nobody else holds *lock*, which was used now; one that went away while we waited for it,
    with its folder, is made anew.
    """
    while (handle := _open_lock_file(lock)) is None:
        pass
    with handle:
        yield


def _open_lock_file(lock: Path) -> IO[str] | None:
    lock.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        handle = lock.open("w")
        fcntl.flock(handle, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.fstat(handle.fileno()).st_ino == lock.stat().st_ino:
                os.utime(lock)
                return handle
        handle.close()
    return None


def _delete_journal_remains(journal: Path) -> None:
    """Whoever was killed may have left its lock, and half of a line; whoever trimmed, no journal
    at all, while we remember one.
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
        # Two who make them at once would trip over each other
        with _convert_errors(url), _open_database_lock(url, "tables"):
            return RDBStorage(url)
    except ImportError as error:
        raise SettingsError(
            f"TIDEMILL_SEARCH_STORAGE asks for a driver that is not installed: {error}. For PostgreSQL write"
            " `postgresql+psycopg://...`, whose driver is."
        ) from error


@contextmanager
def _open_database_lock(url: str, name: str) -> Iterator[None]:
    """Nobody else holds *name* in the database of *url*, whatever machine it is on; the server
    lets go of it when the connection ends, with a killed process at once.
    """
    if not url.startswith("postgresql"):
        yield
        return
    # .3 s: only who has a database pays it
    from sqlalchemy import NullPool, create_engine, text

    engine = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    number = int.from_bytes(hashlib.sha256(f"tidemill {name}".encode()).digest()[:8], signed=True)
    with engine.connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(:number)"), {"number": number})
        yield


@contextmanager
def _convert_errors(url: str) -> Iterator[None]:
    """What goes wrong with the database of *url* is said as that."""
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
            f" {str(error.__cause__ or error).splitlines()[0]}. Start the database and run again, which goes"
            " on from what has ended; or unset the variable: then trials are kept in a file of"
            " TIDEMILL_HOME."
        ) from error
