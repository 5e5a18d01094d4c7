"""`GET /metrics` for Prometheus: what was asked of this service, and how long the answers took."""

from __future__ import annotations

import os
import time
from typing import Any

import falcon
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Histogram,
    generate_latest,
    multiprocess,
)

MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"
"""The library's own variable: a folder by which the workers of one server add up."""

LABELS = ("method", "route", "status")


class Metrics:
    """Counts requests: a falcon middleware, and the resource that shows the counts."""

    def __init__(self) -> None:
        """Count from nothing, in a registry of this application's own."""
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "tintype_http_requests",
            "Requests answered.",
            LABELS,
            registry=self._registry,
        )
        self._seconds = Histogram(
            "tintype_http_request_duration_seconds",
            "Seconds from a request to its answer.",
            LABELS[:2],
            registry=self._registry,
        )

    def process_request(self, request: falcon.Request, response: falcon.Response) -> None:
        """Look at the clock."""
        del response
        request.context.started = time.monotonic()

    def process_response(
        self, request: falcon.Request, response: falcon.Response, resource: Any, succeeded: bool
    ) -> None:
        """Count the answer, under its route's template: a path of each container would be many."""
        del resource, succeeded
        method = request.method if request.method in falcon.HTTP_METHODS else "OTHER"
        route = request.uri_template or "unknown"
        self._requests.labels(method, route, str(response.status_code)).inc()
        self._seconds.labels(method, route).observe(time.monotonic() - request.context.started)

    def on_get(self, _: falcon.Request, response: falcon.Response) -> None:
        """Answer in Prometheus' text format, for all workers if they share a folder."""
        registry = self._registry
        if MULTIPROCESS in os.environ:
            registry = CollectorRegistry()
            multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        response.content_type = CONTENT_TYPE_LATEST
        response.data = generate_latest(registry)
