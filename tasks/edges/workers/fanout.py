"""Mapping a function over independent jobs: here, in threads, in processes beside us, or on a Dask
cluster.

Results come in the order of the jobs. The function must give the same result wherever it runs; then
the number of workers changes no byte. What all jobs share is handed over once: to processes as
files that they map into memory (no copies), to a cluster by Dask. Which way is taken:

- `TIDEMILL_DASK_ADDRESS` is set: the cluster there decides how wide. A worker
  that is lost gives its jobs to the others.
- one worker, or one job: here, one after the other.
- *releases_gil*: threads, which cost nothing to start.
- else processes, but only when the first jobs, done here, show that they pay for their start.
"""

import contextlib
import mmap
import os
import pickle
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import (
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    as_completed,
)
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from tasks.core.errors import SettingsError
from tasks.edges.parent_watch import stop_with_parent
from tasks.edges.settings import read_settings

S = TypeVar("S")
J = TypeVar("J")
R = TypeVar("R")

# Until a fresh process can work: interpreter, numpy, polars, params; 1.5 to 3.5 s on two busy cores
START_S = 4.0
CONNECT_S = 20.0  # a scheduler that is there answers within a second
# Jobs done here before processes are considered; the first also pays for imports, the second tells
# what a job costs
_PROBED = 2

_alone = threading.Lock()


class MapOptions(NamedTuple):
    """How to map. workers: how many at most. releases_gil: the work may run in threads of one
    process side by side, and gains by it.
    """

    workers: int
    releases_gil: bool


def run_jobs(
    work: Callable[[S, J], R],
    shared: S,
    jobs: Sequence[J],
    how: MapOptions,
    done: Callable[[int, R], None] = lambda _i, _r: None,
    go_on: Callable[[], bool] = lambda: True,
) -> list[R]:
    """[work(shared, job) for job in jobs]; *work* is a function of a module, all three can be
    pickled for a worker elsewhere.

    done: told of each (index, result) here, as they come. go_on: asked before a job begins; once it
    says no, the jobs that have not begun are left out and the list ends before the first of them.
    An error of a job is raised as it is. Raises SettingsError when a process is killed or the
    cluster is not there.
    """
    results: dict[int, R] = {}

    def take(index: int, result: R) -> None:
        results[index] = result
        done(index, result)

    if read_settings().dask_address:
        _run_on_cluster(work, shared, jobs, take, go_on)
    elif how.workers > 1 and len(jobs) > 1 and how.releases_gil:
        with ThreadPoolExecutor(how.workers) as pool:
            _run_in_pool(pool, lambda job: work(shared, job), list(enumerate(jobs)), how.workers, take, go_on)
    else:
        _run_here_or_in_processes(work, shared, jobs, how.workers, take, go_on)
    in_order = []
    for index in range(len(jobs)):
        if index not in results:
            break
        in_order.append(results[index])
    return in_order


def _run_here_or_in_processes(
    work: Callable[[S, J], R],
    shared: S,
    jobs: Sequence[J],
    workers: int,
    take: Callable[[int, R], None],
    go_on: Callable[[], bool],
) -> None:
    seconds: list[float] = []
    for index, job in enumerate(jobs):
        if index == _PROBED and workers > 1 and is_pool_faster(seconds, len(jobs) - index, workers):
            with _start_pool(work, shared, min(workers, len(jobs) - index)) as pool:
                _run_in_pool(pool, _run_job, list(enumerate(jobs))[index:], workers, take, go_on)
            return
        if not go_on():
            return
        started = time.perf_counter()
        result = work(shared, job)
        seconds.append(time.perf_counter() - started)
        take(index, result)


def is_pool_faster(probed_s: Sequence[float], n_left: int, workers: int) -> bool:
    """Whether *workers* processes save more time on *n_left* jobs than twice what their start
    takes, the imports that the first job paid for included.
    """
    first, usual = probed_s[0], min(probed_s)
    saved = n_left * usual * (1 - 1 / workers)
    return saved > 2 * (START_S + first - usual)


def _run_in_pool(
    pool: Executor,
    work: Callable[[J], R],
    jobs: list[tuple[int, J]],
    workers: int,
    take: Callable[[int, R], None],
    go_on: Callable[[], bool],
) -> None:
    """Jobs are handed in one by one as workers become free, so that *go_on* is asked when a job
    really begins.
    """
    waiting, running = iter(jobs), {}

    def hand_in(n: int) -> None:
        for _ in range(n):
            if (following := next(waiting, None)) is not None and go_on():
                running[pool.submit(work, following[1])] = following[0]

    hand_in(workers)
    try:
        while running:
            finished: Future[R] = next(as_completed(running))
            index = running.pop(finished)
            take(index, finished.result())
            hand_in(1)
    except BrokenProcessPool as error:
        raise SettingsError(
            f"A worker process of ours was killed, most likely because memory ran out; {workers} worked side"
            " by side. What they had finished is kept. Set TIDEMILL_WORKERS lower, then run again."
        ) from error
    finally:
        for future in running:
            future.cancel()


@contextlib.contextmanager
def _start_pool(work: Callable[[S, J], R], shared: S, workers: int) -> Iterator[ProcessPoolExecutor]:
    """Fresh processes (a fork would copy threads of polars and OpenMP in the middle of
    something) that see *shared* through files in home.
    """
    read_settings().home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".fanout.{os.getpid()}.", dir=read_settings().home) as folder:
        _write_shared(Path(folder), (work, shared))
        with ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, (os.getpid(), folder)) as pool:
            yield pool


_held: Any = None


def _start_worker(parent: int, folder: str) -> None:
    """In a new worker."""
    global _held  # noqa: PLW0603  (a process of a pool has no other place for what its jobs share)
    stop_with_parent(parent)
    _held = _read_shared(Path(folder))


def _run_job(job: Any) -> Any:
    work, shared = _held
    return work(shared, job)


def _write_shared(folder: Path, content: Any) -> None:
    """Pickle *content*; its arrays go into files of their own."""
    n = 0

    def aside(buffer: pickle.PickleBuffer) -> None:
        nonlocal n
        (folder / f"{n}.array").write_bytes(buffer.raw())
        n += 1

    (folder / "content").write_bytes(pickle.dumps(content, protocol=5, buffer_callback=aside))


def _read_shared(folder: Path) -> Any:
    """What `_write` wrote, its arrays read only and shared by all who read them."""
    buffers = []
    for n in range(len(list(folder.glob("*.array")))):
        with (folder / f"{n}.array").open("rb") as handle:
            empty = handle.seek(0, os.SEEK_END) == 0
            buffers.append(b"" if empty else mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ))
    # Our own process wrote it a moment ago
    return pickle.loads((folder / "content").read_bytes(), buffers=buffers)  # noqa: S301


def _run_on_cluster(
    work: Callable[[S, J], R],
    shared: S,
    jobs: Sequence[J],
    take: Callable[[int, R], None],
    go_on: Callable[[], bool],
) -> None:
    from distributed import Client
    from distributed import as_completed as completed
    from distributed.client import FutureCancelledError
    from distributed.scheduler import KilledWorker

    address = read_settings().dask_address
    try:
        client = Client(address, timeout=CONNECT_S, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise SettingsError(
            f"No Dask scheduler answers at TIDEMILL_DASK_ADDRESS = {address!r}: {error}. Start one (`dask"
            " scheduler`), or unset the variable."
        ) from error
    with client:
        (everywhere,) = client.scatter([shared], broadcast=True, hash=False)
        asked = [
            client.submit(_run_locked, work, everywhere, pickle.dumps(job), pure=False, retries=2)
            for job in jobs
        ]
        index_of = {future: i for i, future in enumerate(asked)}
        try:
            for future in completed(list(index_of), loop=client.loop):
                take(index_of[future], future.result())
                if not go_on():
                    break
        except (KilledWorker, FutureCancelledError, CancelledError) as error:
            raise SettingsError(
                f"The Dask cluster at {address} lost its workers: {error}. What they had finished is kept;"
                " run again."
            ) from error


def _run_locked(work: Callable[[S, J], R], shared: S, job: bytes) -> R:
    """In a Dask worker, whose threads would let models meet that set threads and seeds for their
    whole process. job: pickled, or Dask would look into it.
    """
    with _alone:
        # Whoever may hand a cluster a function may hand it anything
        return work(shared, pickle.loads(job))  # noqa: S301
