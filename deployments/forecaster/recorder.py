"""The store of served forecasts, as the event loop uses it.

One thread writes all answers that wait in one transaction, and each wait has a timeout.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import NamedTuple

from deployments.forecaster.problems import ProblemError
from deployments.forecaster.source import ReleaseSource
from deployments.forecaster.worker import BoundedWorker, WorkerBusyError
from tasks.core.errors import TidemillError
from tasks.edges.served import StoredAnswer, check_served, write_answers
from tasks.edges.served_store import ServedStoreError

N_WAITING = 1_000  # all of them in one transaction
RECORD_TIMEOUT_S = 2.0  # waits for another process that holds the store; then the answer is refused
CHECK_TIMEOUT_S = 0.5  # the same for readiness


class _PendingAnswer(NamedTuple):
    """Answers to one request.

    deadline_s: on the monotonic clock. written: set when they are on disk.
    """

    answers: Sequence[StoredAnswer]
    deadline_s: float
    written: asyncio.Future[None]


def _write_batch(batch: Sequence[_PendingAnswer]) -> None:
    wait_s = max(min(pending.deadline_s for pending in batch) - time.monotonic(), 0.0)
    write_answers([answer for pending in batch for answer in pending.answers], wait_s=wait_s)


class ResponseRecorder:
    """Records answers, and checks whether it can. Used by one event loop."""

    def __init__(self, source: ReleaseSource) -> None:
        self._source = source
        self._worker = BoundedWorker("recorder", 2)
        self._check: asyncio.Task[None] | None = None
        self._pending: list[_PendingAnswer] = []
        self._writing: asyncio.Task[None] | None = None

    async def write_answers(self, answers: Sequence[StoredAnswer]) -> None:
        """Write the answers to one request to disk, of one dataset, in one transaction.

        Together with those that come while others are written. Each has its row of the audit.
        Raises ProblemError 503 when that fails, after RECORD_TIMEOUT_S at most.
        """
        thing, rule = "store of served forecasts", "Nothing is served that is not recorded."
        way_out = "Report it to the operator; then retry."
        if len(self._pending) >= N_WAITING:
            raise ProblemError(503, thing, f"{N_WAITING} answers wait for it", rule, way_out)
        written = asyncio.get_running_loop().create_future()
        self._pending.append(_PendingAnswer(answers, time.monotonic() + RECORD_TIMEOUT_S, written))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_pending())
        try:
            await written
        except (ServedStoreError, WorkerBusyError) as error:
            raise ProblemError(503, thing, str(error), rule, way_out) from error

    async def _write_pending(self) -> None:
        while self._pending:
            dataset = self._pending[0].answers[0].dataset
            batch = [pending for pending in self._pending if pending.answers[0].dataset == dataset]
            self._pending = [pending for pending in self._pending if pending.answers[0].dataset != dataset]
            try:
                await self._worker.run(_write_batch, batch)
            except Exception as error:  # noqa: BLE001  (each caller raises it)
                for pending in batch:
                    if not pending.written.done():
                        pending.written.set_exception(error)
            else:
                for pending in batch:
                    if not pending.written.done():
                        pending.written.set_result(None)

    async def find_fault(self) -> str | None:
        """Why an answer could not be recorded now; None when it could.

        It takes CHECK_TIMEOUT_S at most.
        """
        if self._check is None or self._check.done():  # one write for all requests meanwhile
            self._check = asyncio.create_task(self._worker.run(self._write))
            # Its error is read here, since all requests for it may have ended.
            self._check.add_done_callback(lambda check: check.cancelled() or check.exception())
        try:
            await asyncio.wait_for(asyncio.shield(self._check), CHECK_TIMEOUT_S)
        except TimeoutError:
            fact = "another process holds it, or its disk is slow"
            return f"The store of served forecasts did not accept a write within {CHECK_TIMEOUT_S} s: {fact}."
        except (TidemillError, WorkerBusyError) as error:
            return str(error)
        return None

    def _write(self) -> None:
        check_served(self._source.dataset, wait_s=CHECK_TIMEOUT_S)
