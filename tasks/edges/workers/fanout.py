"""Mapping a function over independent jobs: here, in threads, in processes, or on a Dask cluster.

Results come in the order of the jobs. The function must give the same result wherever it runs; then
the number of workers changes no byte. What all jobs share is transferred once: to processes as
files that they map into memory (no copies), to a cluster by Dask. Where jobs run:

- `TIDEMILL_DASK_ADDRESS` is set: on that cluster, which decides how many at a time. The jobs of a
  worker that is lost go to the others.
- one worker, or one job: here, one after the other.
- *releases_gil*: in threads, which cost nothing to start.
- else in processes, but only when the first jobs, done here, take long enough to pay their start.
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

# Until a new process can work: interpreter, numpy, polars, params; 1.5 to 3.5 s on two busy cores
START_S = 4.0
CONNECT_S = 20.0  # a scheduler that runs answers within a second
# Jobs done here before processes are considered; the first also pays for imports, the second shows
# what a job costs
_N_PROBED = 2

_alone = threading.Lock()


class MapOptions(NamedTuple):
    """How to map.

    workers: how many at most.
    releases_gil: the work may run in several threads of one process, and gains by it.
    """

    workers: int
    releases_gil: bool


def run_jobs(
    work: Callable[[S, J], R],
    shared: S,
    jobs: Sequence[J],
    options: MapOptions,
    on_result: Callable[[int, R], None] = lambda _i, _r: None,
    should_start: Callable[[], bool] = lambda: True,
) -> list[R]:
    """[work(shared, job) for job in jobs].

    work: a function of a module, so that it can be pickled for another process, as the rest.
    on_result: called in this process with each (index, result), as they come.
    should_start: asked before a job begins. Once it is False, the jobs that have not begun are left
    out, and the list ends before the first of them.
    An error of a job is raised as it is. Raises SettingsError when a process is killed, or the
    cluster does not answer.
    """
    results: dict[int, R] = {}

    def take(index: int, result: R) -> None:
        results[index] = result
        on_result(index, result)

    if read_settings().dask_address:
        _run_on_cluster(work, shared, jobs, take, should_start)
    elif options.workers > 1 and len(jobs) > 1 and options.releases_gil:
        with ThreadPoolExecutor(options.workers) as pool:
            _run_in_pool(
                pool,
                lambda job: work(shared, job),
                list(enumerate(jobs)),
                options.workers,
                take,
                should_start,
            )
    else:
        _run_here_or_in_processes(work, shared, jobs, options.workers, take, should_start)
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
    should_start: Callable[[], bool],
) -> None:
    seconds: list[float] = []
    for index, job in enumerate(jobs):
        if index == _N_PROBED and workers > 1 and is_pool_faster(seconds, len(jobs) - index, workers):
            with _start_pool(work, shared, min(workers, len(jobs) - index)) as pool:
                _run_in_pool(pool, _run_job, list(enumerate(jobs))[index:], workers, take, should_start)
            return
        if not should_start():
            return
        started = time.perf_counter()
        result = work(shared, job)
        seconds.append(time.perf_counter() - started)
        take(index, result)


def is_pool_faster(probed_s: Sequence[float], n_left: int, workers: int) -> bool:
    """Whether *workers* processes save more on *n_left* jobs than twice the time of their start.

    probed_s: seconds of the first jobs; the first of them includes imports.
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
    should_start: Callable[[], bool],
) -> None:
    """Submit jobs one by one as workers become free, so that *should_start* is asked in time."""
    waiting, running = iter(jobs), {}

    def submit(n: int) -> None:
        for _ in range(n):
            if (following := next(waiting, None)) is not None and should_start():
                index, job = following
                running[pool.submit(work, job)] = index

    submit(workers)
    try:
        while running:
            finished: Future[R] = next(as_completed(running))
            index = running.pop(finished)
            take(index, finished.result())
            submit(1)
    except BrokenProcessPool as error:
        raise SettingsError(
            f"A worker process was killed, most likely because memory ran out; {workers} ran at the same"
            " time. What they had finished is kept. Set TIDEMILL_WORKERS lower, then run again."
        ) from error
    finally:
        for future in running:
            future.cancel()


@contextlib.contextmanager
def _start_pool(work: Callable[[S, J], R], shared: S, workers: int) -> Iterator[ProcessPoolExecutor]:
    """New processes that read *shared* from files in home.

    A fork would copy threads of polars and OpenMP in the middle of their work.
    """
    read_settings().home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".fanout.{os.getpid()}.", dir=read_settings().home) as folder:
        _write_shared(Path(folder), (work, shared))
        with ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, (os.getpid(), folder)) as pool:
            yield pool


_held: Any = None


def _start_worker(parent: int, folder: str) -> None:
    """Prepare a new worker."""
    global _held  # noqa: PLW0603  (a process of a pool has nothing else to keep what its jobs share)
    stop_with_parent(parent)
    _held = _read_shared(Path(folder))


def _run_job(job: Any) -> Any:
    work, shared = _held
    return work(shared, job)


def _write_shared(folder: Path, content: Any) -> None:
    """Pickle *content*; its arrays go into files of their own."""
    n = 0

    def write_array(buffer: pickle.PickleBuffer) -> None:
        nonlocal n
        (folder / f"{n}.array").write_bytes(buffer.raw())
        n += 1

    (folder / "content").write_bytes(pickle.dumps(content, protocol=5, buffer_callback=write_array))


def _read_shared(folder: Path) -> Any:
    """What `_write_shared` wrote; its arrays are read only and shared by all processes."""
    buffers = []
    for n in range(len(list(folder.glob("*.array")))):
        with (folder / f"{n}.array").open("rb") as handle:
            is_empty = handle.seek(0, os.SEEK_END) == 0
            buffers.append(b"" if is_empty else mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ))
    # The process that started this one wrote it
    return pickle.loads((folder / "content").read_bytes(), buffers=buffers)  # noqa: S301


def _run_on_cluster(
    work: Callable[[S, J], R],
    shared: S,
    jobs: Sequence[J],
    take: Callable[[int, R], None],
    should_start: Callable[[], bool],
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
        (scattered,) = client.scatter([shared], broadcast=True, hash=False)
        futures = [
            client.submit(_run_locked, work, scattered, pickle.dumps(job), pure=False, retries=2)
            for job in jobs
        ]
        index_of = {future: index for index, future in enumerate(futures)}
        try:
            for future in completed(list(index_of), loop=client.loop):
                take(index_of[future], future.result())
                if not should_start():
                    break
        except (KilledWorker, FutureCancelledError, CancelledError) as error:
            raise SettingsError(
                f"The Dask cluster at {address} lost its workers: {error}. What they had finished is kept;"
                " run again."
            ) from error


def _run_locked(work: Callable[[S, J], R], shared: S, job: bytes) -> R:
    """Run a job in a Dask worker, one at a time: models set threads and seeds of the whole process.

    job: pickled, or Dask would look into it.
    """
    with _alone:
        # A client that may submit a function may run any code here
        return work(shared, pickle.loads(job))  # noqa: S301
