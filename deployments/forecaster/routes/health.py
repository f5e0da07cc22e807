"""/api/v1/health: whether the process runs, and whether it can answer."""

from datetime import UTC, datetime

from fastapi import FastAPI, Response

from deployments.forecaster import shapes
from deployments.forecaster.loaded import format_iso
from deployments.forecaster.recorder import ResponseRecorder
from deployments.forecaster.routes.shared import ServiceParts, build_json_response
from deployments.forecaster.source import ReleaseSource, describe_source


def add_routes(app: FastAPI, parts: ServiceParts) -> None:
    """Add the routes to *app*."""

    @app.get("/api/v1/health/live", responses={200: {"model": shapes.Live}})
    async def live() -> Response:
        """The process answers."""
        return build_json_response({"live": True})

    @app.get(
        "/api/v1/health/ready",
        responses={
            200: {"model": shapes.Ready},
            503: {"model": shapes.Ready, "description": "Not ready; the faults give the reasons."},
        },
    )
    async def ready() -> Response:
        """A verified release is loaded and answers can be recorded."""
        readiness = await describe_readiness(parts.source, parts.recorder)
        return build_json_response(readiness, 200 if readiness["ready"] else 503)

    @app.get("/api/v1/health", responses={200: {"model": shapes.Health}})
    async def health() -> Response:
        """Whether the service can answer, and how old the newest row is.

        The status is 200 in any case; a probe asks /api/v1/health/ready.
        """
        return build_json_response(await _describe_health(parts))


async def _describe_health(parts: ServiceParts) -> shapes.Health:
    readiness, now = await describe_readiness(parts.source, parts.recorder), datetime.now(UTC)
    loaded, rules = parts.source.loaded, parts.source.rules
    newest = None if loaded is None or loaded.release.about.integer_time else loaded.newest_known
    return {
        "live": True,
        "ready": readiness["ready"],
        "dataset": readiness["dataset"],
        "as_of": readiness["as_of"],
        "age_s": None if newest is None else round((now - newest).total_seconds(), 3),
        "freshness": None if newest is None else rules.get_freshness(newest, now),
        "stale_after": rules.stale_after,
        "expire_after": rules.expire_after,
        "faults": readiness["faults"],
    }


async def describe_readiness(source: ReleaseSource, recorder: ResponseRecorder) -> shapes.Ready:
    """Which release is loaded, and whether answers can be made of its rows and recorded."""
    await source.refresh()
    ready = describe_source(source)
    faults = [fault for fault in (_find_expiry(source), await recorder.find_fault()) if fault is not None]
    return {**ready, "ready": ready["ready"] and not faults, "faults": [*ready["faults"], *faults]}


def _find_expiry(source: ReleaseSource) -> str | None:
    loaded, rules = source.loaded, source.rules
    if loaded is None or loaded.release.about.integer_time:
        return None
    if rules.get_freshness(loaded.newest_known, datetime.now(UTC)) != "expired":
        return None
    return (
        f"The newest row was known at {format_iso(loaded.newest_known)}, more than {rules.expire_after} ago"
        " (`service.expire_after`). Forecasts begin again with newer rows: see `tidemill status`."
    )
