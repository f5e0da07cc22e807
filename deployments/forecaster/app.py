"""The service's app: one FastAPI app, the same under uvicorn and mounted in BentoML.

Ordinary forecasts are made on the event loop: a model takes microseconds, and a thread pool costs
more and has ten times the tail latency. Work that a request can make slow runs on a worker
(worker.py): large bodies, own histories, times that were not requested before, and the fsync of
each answer.

Of several datasets (TIDEMILL_DATASETS) each has an app with the same routes, which has nothing but
that worker in common with the others; the first one's gate passes a request to its dataset's app.
"""

import gc
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.dependencies.utils import get_flat_params
from fastapi.routing import APIRoute
from starlette.types import Scope

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
from tasks.core.errors import SettingsError
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


class DirectRoute(APIRoute):
    """Calls a function that takes the request alone, without FastAPI's search for its arguments."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """See APIRoute."""
        dependant, endpoint, name = self.dependant, self.endpoint, self.dependant.request_param_name
        further = (*get_flat_params(dependant), *dependant.body_params, *dependant.dependencies)
        if name is None or further:
            return super().get_route_handler()

        async def handle(request: Request) -> Response:
            response: Response = await endpoint(**{name: request})
            return response

        return handle


def build_sources() -> list[ReleaseSource]:
    """One for each dataset that the settings name; without names that of the release or checkout.

    Raises SettingsError when they name a release, too.
    """
    settings = read_settings()
    if settings.served_datasets and settings.release is not None:
        raise SettingsError(
            f"TIDEMILL_DATASETS is {settings.datasets!r} and TIDEMILL_RELEASE is {settings.release}, and a"
            " release is of one dataset. Unset one of them."
        )
    return [ReleaseSource(dataset=name) for name in settings.served_datasets] or [ReleaseSource()]


def build_parts(sources: Sequence[ReleaseSource]) -> list[ServiceParts]:
    """The parts of each source's dataset."""
    large, by_dataset = BoundedWorker("large", N_LARGE_WAITING), dict[str, ServiceParts]()
    listed = [
        ServiceParts(source, ResponseRecorder(source), ServiceMetrics(), large, VersionCache(), by_dataset)
        for source in sources
    ]
    if len(sources) > 1:
        by_dataset.update({source.dataset: parts for source, parts in zip(sources, listed, strict=True)})
    return listed


def build_app(listed: Sequence[ServiceParts]) -> FastAPI:
    """The app that serves the datasets of *listed*.

    Their releases are loaded when the app starts.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        for parts in listed:
            parts.source.load_initial()
        gc.collect()
        gc.freeze()  # what is loaded now stays; collections need not scan it
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        yield

    first, *others = listed
    app = _build_routes(first)
    app.router.lifespan_context = lifespan
    apps = {parts.source.dataset: _build_routes(parts) for parts in others}

    def list_datasets() -> list[str]:
        loaded = first.source.loaded
        return list(first.by_dataset) or ([] if loaded is None else [loaded.manifest.dataset])

    def find_metrics(scope: Scope) -> ServiceMetrics:
        return first.by_dataset.get(scope.get("state", {}).get("dataset"), first).metrics

    app.add_middleware(AccessGate, settings=read_settings(), list_datasets=list_datasets, apps=apps)
    app.add_middleware(RequestMeter, find_metrics=find_metrics)
    return app


def _build_routes(parts: ServiceParts) -> FastAPI:
    app = FastAPI(
        title="Tidemill forecaster",
        version="1",
        description="Forecasts with quantiles, by series or from a history of your own.",
        docs_url=None,  # FastAPI's pages load scripts from a CDN and stay blank offline
        redoc_url=None,
    )
    app.router.route_class = DirectRoute
    add_problem_handlers(app)
    for resource in ROUTES:
        resource.add_routes(app, parts)
    return app


def create_app() -> FastAPI:
    """The app of this process's settings, without BentoML.

    `uvicorn --factory deployments.forecaster.app:create_app` runs it.
    """
    return build_app(build_parts(build_sources()))
