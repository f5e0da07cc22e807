"""The BentoML service: packaging, process and port.

Every route is the FastAPI app's; the class has no API methods of its own. `bentoml serve
deployments.forecaster.service:ForecasterService` runs it from the checkout; the package stage
builds a Bento of it.
"""

from typing import Any

import bentoml

from deployments.forecaster.app import build_app, build_parts, build_sources
from deployments.forecaster.bento_server import adapt_server
from deployments.forecaster.routes.health import describe_readiness
from tasks.edges.settings import read_settings

read_settings()  # telemetry off before anything starts
all_parts = build_parts(build_sources())
app = build_app(all_parts)


# BentoML's own metrics are off: they keep a label for each requested path, in memory-mapped
# files.
OPTIONS = {"workers": 1, "metrics": {"enabled": False}}


NAME = "tidemill_forecaster"
adapt_server(NAME, app)


@bentoml.service(name=NAME, **OPTIONS)
@bentoml.asgi_app(app, path="/")
class ForecasterService:
    """Serves the app; BentoML's own probes give the same status as the app's, of all datasets."""

    async def __is_ready__(self) -> bool:
        described = [await describe_readiness(parts.source, parts.recorder) for parts in all_parts]
        return all(readiness["ready"] for readiness in described)


__all__: list[Any] = ["ForecasterService", "app"]
