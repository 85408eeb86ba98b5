"""What the server has done, for Prometheus."""

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from starlette.types import Scope

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters of one server."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self._requests = Counter(
            "vggnet_requests",
            "Requests by route and status.",
            ["route", "status"],
            registry=registry,
        )
        self._seconds = Histogram(
            "vggnet_request_seconds",
            "From a request's headers to the end of its response.",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._sizes = Histogram(
            "vggnet_batch_pictures",
            "Pictures computed together.",
            buckets=_SIZES,
            registry=registry,
        )
        self._compute = Histogram(
            "vggnet_batch_seconds", "Time to compute a batch.", buckets=_SECONDS, registry=registry
        )
        self._taken = Gauge(
            "vggnet_pictures_taken", "Pictures taken in and not yet answered.", registry=registry
        )

    def watch(self, taken: Callable[[], int]) -> None:
        """Says how many pictures are taken in and not yet answered."""
        self._taken.set_function(taken)

    def request(self, scope: Scope, status: int, seconds: float) -> None:
        # The route's own path: a path that somebody thinks up makes no new series.
        route = getattr(scope.get("route"), "path", "other")
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def batch(self, size: int, seconds: float) -> None:
        self._sizes.observe(size)
        self._compute.observe(seconds)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)
