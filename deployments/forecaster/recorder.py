"""The store of served forecasts, as the event loop sees it: one thread writes, each wait is
bounded.
"""

import asyncio
import time

from deployments.forecaster.problems import ProblemError
from deployments.forecaster.response import ForecastResponse
from deployments.forecaster.source import ReleaseSource
from deployments.forecaster.worker import BoundedWorker, WorkerBusyError
from tasks.core.errors import TidemillError
from tasks.edges.served import ServedStoreError, check_served, write_served

N_WAITING = 64  # a millisecond each
RECORD_S = 2.0  # for another process that holds the store; then the answer is refused
CHECK_S = 0.5  # the same for readiness


class ResponseRecorder:
    """Records answers and says whether it could. Lives in one event loop."""

    def __init__(self, source: ReleaseSource) -> None:
        self._source = source
        self._worker = BoundedWorker("recorder", N_WAITING)
        self._check: asyncio.Task[None] | None = None

    async def write_response(self, made: ForecastResponse) -> None:
        """Return once the answer is on disk; raise ProblemError 503 when it is not, RECORD_S
        later at most.
        """
        deadline = time.monotonic() + RECORD_S

        def append() -> None:
            wait_s = max(deadline - time.monotonic(), 0.0)
            write_served(
                made.body["dataset"],
                made.served,
                own_history=made.own_history,
                as_of=made.as_of,
                wait_s=wait_s,
            )

        try:
            await self._worker.run(append)
        except (ServedStoreError, WorkerBusyError) as error:
            thing, rule = "store of served forecasts", "Nothing is served that is not recorded."
            raise ProblemError(503, thing, str(error), rule, "Tell the operator; then ask again.") from error

    async def find_fault(self) -> str | None:
        """Why an answer could not be recorded now, known after CHECK_S at the latest; None when
        it could.
        """
        if self._check is None or self._check.done():  # one write for all who ask meanwhile
            self._check = asyncio.create_task(self._worker.run(self._write))
            # Its error is taken note of here, since all that asked may have left.
            self._check.add_done_callback(lambda check: check.cancelled() or check.exception())
        try:
            await asyncio.wait_for(asyncio.shield(self._check), CHECK_S)
        except TimeoutError:
            fact = "another process holds it, or its disk is slow"
            return f"The store of served forecasts did not take a write within {CHECK_S} s: {fact}."
        except (TidemillError, WorkerBusyError) as error:
            return str(error)
        return None

    def _write(self) -> None:
        check_served(self._source.dataset, wait_s=CHECK_S)
