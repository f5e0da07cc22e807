"""A thread outside the event loop for work that would block it, with a bounded queue.

Ordinary requests (stored series, a time that has been requested before) are answered on the loop,
where a model takes microseconds. Work that one request can make large or slow runs on a worker,
which refuses it when the queue is full.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
N_LARGE_WAITING = 7  # large requests: some 5 s


class WorkerBusyError(Exception):
    """The queue is full. n_pending: requests that are worked on or wait."""

    def __init__(self, n_pending: int) -> None:
        super().__init__(f"{n_pending} such requests are worked on or wait")
        self.n_pending = n_pending


class BoundedWorker:
    """One thread and its queue.

    There is one, since threads of Python code take turns, and two would halve each other's speed.
    n_waiting: length of the queue.
    """

    def __init__(self, name: str, n_waiting: int) -> None:
        self._capacity = n_waiting + 1
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._slots = threading.BoundedSemaphore(self._capacity)

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """What *function* returns or raises.

        Raises WorkerBusyError immediately when the queue is full. Work whose caller is gone uses a
        place in the queue only until it has run.
        """
        if not self._slots.acquire(blocking=False):
            raise WorkerBusyError(self._capacity)
        future: Future[T] = self._pool.submit(function, *arguments)
        future.add_done_callback(lambda _: self._slots.release())
        return await asyncio.wrap_future(future)
