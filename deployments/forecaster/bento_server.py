"""What `bentoml serve` does differently for our service; of the pinned version.

tests/service/test_bento.py holds each of the three to the installed BentoML.

- All but PROBES is answered by the app before BentoML's six layers, which cost three times what
  the app does, keep a timer for each request until its timeout, and have pages of their own.
- Its process manager is controlled through sockets in a folder of this user alone. BentoML opens
  two ports on loopback, on which any user of the machine may stop or start programs.
- Connections are `BoundedConnection`.
"""

import atexit
import shutil
import tempfile
from typing import Any

import uvicorn.config
from _bentoml_impl.server.app import ServiceAppFactory
from bentoml._internal.utils import circus
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.forecaster.connections import raise_file_limit

PROBES = {"/livez", "/readyz", "/healthz"}  # a status and no content


class FastLane:
    """Passes PROBES on, and every other request to *lane*."""

    def __init__(self, app: ASGIApp, lane: ASGIApp) -> None:
        self.app, self.lane = app, lane

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Route one request."""
        is_ours = scope["type"] == "http" and scope["path"] not in PROBES
        await (self.lane if is_ours else self.app)(scope, receive, send)


def adapt_server(name: str, app: ASGIApp) -> None:
    """Adapt the server of the service *name*, whose routes are those of *app*.

    Call it when the service's module is loaded: the process manager and each worker do that before
    they make anything of it.
    """
    _add_lane(name, app)
    _hide_control()
    uvicorn.config.HTTP_PROTOCOLS["auto"] = "deployments.forecaster.connections:BoundedConnection"
    raise_file_limit()


def _add_lane(name: str, app: ASGIApp) -> None:
    get_middlewares = ServiceAppFactory.middlewares.fget
    assert get_middlewares is not None

    def list_middlewares(factory: ServiceAppFactory) -> list[Middleware]:
        of_bentoml = get_middlewares(factory)
        return [Middleware(FastLane, lane=app), *of_bentoml] if factory.service.name == name else of_bentoml

    ServiceAppFactory.middlewares = property(list_middlewares)


def _hide_control() -> None:
    create = circus.Arbiter.__init__

    def create_hidden(arbiter: circus.Arbiter, *args: Any, **options: Any) -> None:
        folder = tempfile.mkdtemp(prefix="tidemill-control-")  # mode 0700
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        hidden = {"endpoint": f"ipc://{folder}/control", "pubsub_endpoint": f"ipc://{folder}/events"}
        create(arbiter, *args, **options | hidden)

    circus.Arbiter.__init__ = create_hidden
