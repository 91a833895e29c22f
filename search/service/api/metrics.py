"""Metrics of a service for Prometheus."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from http import HTTPMethod

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from search.service.api.components import Components

_METHODS = frozenset(HTTPMethod)


class _ServiceCollector(Collector):
    """Searches, queue, workers and disk at the time of a request for metrics."""

    def __init__(self, components: Components) -> None:
        self._components = components

    def collect(self) -> Iterator[Metric]:
        components = self._components
        by_state = GaugeMetricFamily("espalier_searches", "Searches by state", labels=["state"])
        for state, count in components.queue.counts().items():
            by_state.add_metric([state], count)
        yield by_state
        for name, text, value in (
            (
                "queue_alive",
                "1 while searches are taken from the queue",
                components.dispatcher.is_alive,
            ),
            (
                "queue_oldest_seconds",
                "For how long the next search has waited",
                components.queue.oldest_wait_seconds(),
            ),
            (
                "preflights_waiting",
                "Preflights under way or waiting",
                components.worker.num_waiting,
            ),
            ("exports_waiting", "Exports under way or waiting", components.exporter.num_waiting),
            ("streams", "Streams of events that are open", components.streams.total()),
            (
                "disk_free_bytes",
                "Of the folder of searches",
                shutil.disk_usage(components.runs.path).free,
            ),
        ):
            yield GaugeMetricFamily(f"espalier_{name}", text, value=value)


class Metrics:
    """The metrics of one app."""

    def __init__(self, components: Components) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_ServiceCollector(components))
        self.requests = Counter(
            "espalier_requests", "Requests served", ["method", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "espalier_request_seconds", "Time to the first byte", registry=self.registry
        )


class MetricsMiddleware:
    """Counts every request of the app inside."""

    def __init__(self, app: ASGIApp, measures: Metrics) -> None:
        self._app, self._measures = app, measures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun_at = time.perf_counter()
        # whatever clients make up: a label for each would fill the memory
        method = scope["method"] if scope["method"] in _METHODS else "other"

        async def send_counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._measures.requests.labels(method, message["status"]).inc()
                self._measures.seconds.observe(time.perf_counter() - begun_at)
            await send(message)

        await self._app(scope, receive, send_counted)
