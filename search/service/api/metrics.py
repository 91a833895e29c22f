"""What Prometheus is told of a service."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from http import HTTPMethod

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from search.service.api.components import Parts

_METHODS = frozenset(HTTPMethod)


class _Standing(Collector):
    """How searches, queue, workers and disk stand when it is asked."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def collect(self) -> Iterator[Metric]:
        parts = self._parts
        by_state = GaugeMetricFamily("espalier_searches", "Searches by state", labels=["state"])
        for state, count in parts.searches.counts().items():
            by_state.add_metric([state], count)
        yield by_state
        for name, text, value in (
            ("queue_alive", "1 while searches are taken from the queue", parts.dispatcher.is_alive),
            (
                "queue_oldest_seconds",
                "For how long the next search has waited",
                parts.searches.oldest_wait_seconds(),
            ),
            ("preflights_waiting", "Preflights under way or waiting", parts.worker.num_waiting),
            ("exports_waiting", "Exports under way or waiting", parts.exporter.num_waiting),
            ("streams", "Streams of events that are open", parts.streams.total()),
            ("disk_free_bytes", "Of the folder of searches", shutil.disk_usage(parts.runs).free),
        ):
            yield GaugeMetricFamily(f"espalier_{name}", text, value=value)


class Measures:
    """Counts of one app."""

    def __init__(self, parts: Parts) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_Standing(parts))
        self.requests = Counter(
            "espalier_requests", "Requests served", ["method", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "espalier_request_seconds", "Time to the first byte", registry=self.registry
        )


class Measured:
    """Counts every request of the app inside."""

    def __init__(self, app: ASGIApp, measures: Measures) -> None:
        self._app, self._measures = app, measures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = time.perf_counter()
        # whatever clients make up: a label for each would fill the memory
        method = scope["method"] if scope["method"] in _METHODS else "other"

        async def send_counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._measures.requests.labels(method, message["status"]).inc()
                self._measures.seconds.observe(time.perf_counter() - begun)
            await send(message)

        await self._app(scope, receive, send_counted)
