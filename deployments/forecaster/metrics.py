"""The service's Prometheus metrics.

They have a registry of their own, so that the counters of a test or of a second app in the process
start from zero.
"""

import time
from collections.abc import Callable, Iterable, Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.forecaster.loaded import LoadedRelease
from tasks.core.objectives import LevelName, ServiceTargets
from tasks.edges.settings import apply_in_memory_metrics

apply_in_memory_metrics()
from prometheus_client import (  # noqa: E402
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.registry import Collector  # noqa: E402

# From a cached answer (about 1 ms) to a cold one over a long replay.
BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
FORECAST_ROUTE, BATCH_ROUTE = "/api/v1/predict", "/api/v1/predict/batch"
UNIX_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# A second series for each counter, which no query uses
disable_created_metrics()  # type: ignore[no-untyped-call]


class ServiceMetrics:
    """Counters and gauges.

    Times as gauges are unix seconds of event time, so that an alert computes their age.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.requests = Counter(
            "tidemill_requests", "Requests by route and status.", ["route", "status"], registry=registry
        )
        self.latency = Histogram(
            "tidemill_request_seconds",
            "From the first byte in to the last byte out.",
            ["route"],
            buckets=BUCKETS_S,
            registry=registry,
        )
        self.served = Counter(
            "tidemill_forecasts_served",
            "Forecasts (one series at one cutoff) answered and recorded, from the newest rows.",
            ["digest"],
            registry=registry,
        )
        self.what_if = Counter(
            "tidemill_forecasts_what_if",
            "Forecasts as of a time that the request named, or from its own rows.",
            ["digest"],
            registry=registry,
        )
        self.swaps = Counter(
            "tidemill_release_swaps", "Releases that took over from another one.", registry=registry
        )
        self.fault = Gauge(
            "tidemill_release_fault",
            "1 while the newest choice of release or rows cannot be loaded and the old one stays in use.",
            registry=registry,
        )
        self.release = Gauge(
            "tidemill_release_info",
            "1 for the release that answers.",
            ["dataset", "model", "version", "digest", "chosen_by"],
            registry=registry,
        )
        self.rows_as_of = Gauge(
            "tidemill_rows_as_of_seconds",
            "Newest known_at of the rows that features use, unix time.",
            registry=registry,
        )
        self.seen_until = Gauge(
            "tidemill_release_seen_until_seconds",
            "End of the data that the release was fitted on, unix time.",
            registry=registry,
        )
        self.age = Gauge(
            "tidemill_release_age_event_seconds",
            "Newest known_at minus seen_until: the model's age in event time.",
            registry=registry,
        )
        self.levels = LevelMetrics(registry)
        self._labelled: tuple[str, str] | None = None
        self._n_swaps = 0

    def observe(self, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        self.requests.labels(route, str(status)).inc()
        self.latency.labels(route).observe(seconds)
        if route in {FORECAST_ROUTE, BATCH_ROUTE}:
            self.levels.count_answer(status, seconds if route == FORECAST_ROUTE else None)

    def update(
        self, loaded: LoadedRelease | None, n_swaps: int, targets: ServiceTargets, *, faulty: bool
    ) -> None:
        """Set the gauges to the loaded release, and count swaps."""
        self.levels.update(loaded, targets)
        self.fault.set(faulty)
        self.swaps.inc(n_swaps - self._n_swaps)
        self._n_swaps = n_swaps
        if loaded is None:
            return
        manifest, choice = loaded.manifest, loaded.choice
        if self._labelled != (manifest.digest, choice.version):
            self.release.clear()
            self.release.labels(
                manifest.dataset, manifest.model, choice.version, manifest.digest, choice.chosen_by
            ).set(1)
            self._labelled = (manifest.digest, choice.version)
        self.rows_as_of.set(loaded.newest_known.timestamp())
        self.seen_until.set(manifest.seen_until.timestamp())
        self.age.set((loaded.newest_known - manifest.seen_until).total_seconds())

    def render(self) -> bytes:
        """The metrics in the exposition format."""
        return generate_latest(self.registry)


class _LabelledMetrics(Collector):
    """The metrics of several datasets, each with the label `dataset`."""

    def __init__(self, by_dataset: Mapping[str, ServiceMetrics]) -> None:
        self._by_dataset = by_dataset

    def collect(self) -> Iterable[Metric]:
        """Each metric once, with the samples of all datasets."""
        merged: dict[str, Metric] = {}
        for dataset, metrics in self._by_dataset.items():
            for one in metrics.registry.collect():
                found = merged.setdefault(one.name, Metric(one.name, one.documentation, one.type))
                found.samples += [s._replace(labels={"dataset": dataset, **s.labels}) for s in one.samples]
        return merged.values()


def render_by_dataset(by_dataset: Mapping[str, ServiceMetrics]) -> bytes:
    """The metrics of several datasets in the exposition format."""
    registry = CollectorRegistry()
    registry.register(_LabelledMetrics(by_dataset))
    return generate_latest(registry)


class LevelMetrics:
    """Events and bad events of each service level, with target and budget (`ServiceTargets`).

    Of freshness and age they are seconds, by the state at each scrape.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ["dataset", "level"]
        self.target = Gauge(
            "tidemill_service_level_target", "Seconds, or a share for errors.", labels, registry=registry
        )
        self.budget = Gauge(
            "tidemill_service_level_budget",
            "Share of events that may be beyond the target.",
            labels,
            registry=registry,
        )
        self.events = Counter(
            "tidemill_service_level_events",
            "Forecasts answered; seconds for freshness and model_age.",
            labels,
            registry=registry,
        )
        self.bad = Counter(
            "tidemill_service_level_bad", "Those beyond the target.", labels, registry=registry
        )
        self._dataset, self._targets = "", ServiceTargets()
        self._limits = self._targets.list_targets()
        self._updated_at = time.monotonic()

    def update(self, loaded: LoadedRelease | None, targets: ServiceTargets) -> None:
        """Set targets, and count the time since the last call as fresh or old."""
        if loaded is None:
            return
        passed_s, self._updated_at = time.monotonic() - self._updated_at, time.monotonic()
        if (loaded.manifest.dataset, targets) != (self._dataset, self._targets):
            self._dataset, self._targets = loaded.manifest.dataset, targets
            self._limits = targets.list_targets()
            self.target.clear()
            self.budget.clear()
            for level, (target, budget) in self._limits.items():
                self.target.labels(self._dataset, level).set(target)
                self.budget.labels(self._dataset, level).set(budget)
        age_s = (loaded.newest_known - loaded.manifest.seen_until).total_seconds()
        old_s: dict[LevelName, float] = {
            "freshness": time.time() - loaded.newest_known.timestamp(),
            "model_age": age_s,
        }
        for level, value in old_s.items():
            self._count(level, passed_s, value)

    def count_answer(self, status: int, seconds: float | None) -> None:
        """Count an answer; errors of the caller are answers, too.

        seconds: None for a batch, which takes as long as it is large.
        """
        is_error = status >= 500
        self._count("errors", 1, 1.0 if is_error else 0.0)
        if not is_error and seconds is not None:
            self._count("latency_p95", 1, seconds)
            self._count("latency_p99", 1, seconds)

    def _count(self, level: LevelName, amount: float, value: float) -> None:
        if self._dataset and (found := self._limits.get(level)) is not None:
            self.events.labels(self._dataset, level).inc(amount)
            self.bad.labels(self._dataset, level).inc(amount if value > found.target else 0)


class RequestMeter:
    """Counts requests and their time by route.

    Plain ASGI: FastAPI's own middleware class halves the throughput.
    """

    def __init__(self, app: ASGIApp, find_metrics: Callable[[Scope], ServiceMetrics]) -> None:
        self.app, self._find_metrics = app, find_metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and count it when it has ended."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def send_and_record_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, send_and_record_status)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            self._find_metrics(scope).observe(route, status, time.perf_counter() - started)
