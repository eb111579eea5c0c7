"""What the service counts, for Prometheus."""

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """Counters of one service.

    Example:
        >>> metrics = Metrics()
        >>> metrics.refused.labels("host").inc()
        >>> b'jaxhash_refused_total{reason="host"} 1.0' in metrics.text()
        True
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        where: Any = {"registry": self.registry}
        self.requests = Counter(
            "jaxhash_requests", "Requests that were answered", ("route", "status"), **where
        )
        self.seconds = Histogram(
            "jaxhash_request_seconds",
            "From the headers of a request to the end of its answer",
            ("route",),
            buckets=SECONDS,
            **where,
        )
        self.batch = Histogram(
            "jaxhash_batch_queries",
            "Queries that were encoded, or searched, at once",
            ("stage",),
            buckets=SIZES,
            **where,
        )
        self.refused = Counter(
            "jaxhash_refused", "Requests refused before they were looked at", ("reason",), **where
        )
        self.waiting = Gauge("jaxhash_waiting", "Queries that wait", ("stage",), **where)
        self.items = Gauge("jaxhash_items", "Items of the index", **where)
        self.reloads = Counter(
            "jaxhash_reloads", "Changed index files that were found", ("taken",), **where
        )

    def text(self) -> bytes:
        """All of them in Prometheus's text format."""
        return generate_latest(self.registry)
