"""The service's app: one FastAPI app, the same under uvicorn and mounted in BentoML.

Ordinary forecasts are made on the event loop: a model takes microseconds, and a thread pool costs
more and has ten times the tail latency. Work that a request can make slow runs on a worker
(worker.py): large bodies, own histories, times that were not requested before, and the fsync of
each answer.
"""

import gc
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from deployments.forecaster.access import AccessGate
from deployments.forecaster.metrics import RequestMeter, ServiceMetrics
from deployments.forecaster.problems import add_problem_handlers
from deployments.forecaster.recorder import ResponseRecorder
from deployments.forecaster.routes import (
    analyze,
    docs,
    fits,
    graphql,
    health,
    jobs,
    metrics,
    models,
    observations,
    predict,
    predictions,
    rollout,
)
from deployments.forecaster.routes.shared import ServiceParts
from deployments.forecaster.source import ReleaseSource
from deployments.forecaster.versions import VersionCache
from deployments.forecaster.worker import N_LARGE_WAITING, BoundedWorker
from tasks.edges.settings import read_settings

ROUTES = (
    predict,
    predictions,
    analyze,
    graphql,
    jobs,
    fits,
    observations,
    models,
    rollout,
    health,
    metrics,
    docs,
)  # in the order of the documentation
# For which a worker's Python code may block the loop, some ten times a request; by default 5 ms
SWITCH_INTERVAL_S = 0.001


def build_app(release_source: ReleaseSource, recorder: ResponseRecorder) -> FastAPI:
    """The app that serves the release of *release_source* and records each answer with *recorder*.

    The release is loaded when the app starts.
    """
    parts = ServiceParts(
        release_source, recorder, ServiceMetrics(), BoundedWorker("large", N_LARGE_WAITING), VersionCache()
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        release_source.load_initial()
        gc.collect()
        gc.freeze()  # what is loaded now stays; collections need not scan it
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        yield

    app = FastAPI(
        title="Tidemill forecaster",
        version="1",
        description="Forecasts with quantiles, by series or from a history of your own.",
        docs_url=None,  # FastAPI's pages load scripts from a CDN and stay blank offline
        redoc_url=None,
        lifespan=lifespan,
    )
    app.add_middleware(AccessGate, settings=read_settings(), get_dataset=lambda: _get_dataset(release_source))
    app.add_middleware(RequestMeter, metrics=parts.metrics)
    add_problem_handlers(app)
    for resource in ROUTES:
        resource.add_routes(app, parts)
    return app


def _get_dataset(source: ReleaseSource) -> str | None:
    return None if source.loaded is None else source.loaded.manifest.dataset


def create_app() -> FastAPI:
    """The app of this process's settings, without BentoML.

    `uvicorn --factory deployments.forecaster.app:create_app` runs it.
    """
    source = ReleaseSource()
    return build_app(source, ResponseRecorder(source))
