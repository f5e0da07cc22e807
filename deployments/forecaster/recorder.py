"""The store of served forecasts, as the event loop uses it.

One thread writes, and each wait has a timeout.
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
RECORD_TIMEOUT_S = 2.0  # waits for another process that holds the store; then the answer is refused
CHECK_TIMEOUT_S = 0.5  # the same for readiness


class ResponseRecorder:
    """Records answers, and checks whether it can. Used by one event loop."""

    def __init__(self, source: ReleaseSource) -> None:
        self._source = source
        self._worker = BoundedWorker("recorder", N_WAITING)
        self._check: asyncio.Task[None] | None = None

    async def write_response(self, response: ForecastResponse) -> None:
        """Write the answer to disk.

        Raises ProblemError 503 when that fails, after RECORD_TIMEOUT_S at most.
        """
        deadline = time.monotonic() + RECORD_TIMEOUT_S

        def append() -> None:
            wait_s = max(deadline - time.monotonic(), 0.0)
            write_served(
                response.body["dataset"],
                response.served,
                own_history=response.own_history,
                as_of=response.as_of,
                wait_s=wait_s,
            )

        try:
            await self._worker.run(append)
        except (ServedStoreError, WorkerBusyError) as error:
            thing, rule = "store of served forecasts", "Nothing is served that is not recorded."
            raise ProblemError(
                503, thing, str(error), rule, "Report it to the operator; then retry."
            ) from error

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
