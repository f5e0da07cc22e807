"""A thread outside the event loop for what would block it, with a bounded queue.

Ordinary requests (stored series, a time that has been asked before) stay on the loop, where a model
takes microseconds. What one request can make large or slow goes to a worker, and one whose queue is
full refuses.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class WorkerBusyError(Exception):
    """The queue is full. n_inside: requests that are worked on or wait."""

    def __init__(self, n_inside: int) -> None:
        super().__init__(f"{n_inside} such requests are worked on or wait")
        self.n_inside = n_inside


class BoundedWorker:
    """One thread and its queue; threads of Python code take turns, and two would halve each other's
    speed.

    n_waiting: length of the queue.
    """

    def __init__(self, name: str, n_waiting: int) -> None:
        self._n_room = n_waiting + 1
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._free = threading.BoundedSemaphore(self._n_room)

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """What *function* returns or raises.

        Raises WorkerBusyError immediately when the queue is full. A caller that is gone keeps its
        place only while its work runs.
        """
        if not self._free.acquire(blocking=False):
            raise WorkerBusyError(self._n_room)
        future: Future[T] = self._pool.submit(function, *arguments)
        future.add_done_callback(lambda _: self._free.release())
        return await asyncio.wrap_future(future)
