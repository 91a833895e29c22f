"""What Prometheus is told of a service."""

from __future__ import annotations

import time
from collections.abc import Iterator
from http import HTTPMethod

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from search.service.searches import Searches

_METHODS = frozenset(HTTPMethod)


class _BySearches(Collector):
    def __init__(self, searches: Searches) -> None:
        self._searches = searches

    def collect(self) -> Iterator[Metric]:
        gauge = GaugeMetricFamily("espalier_searches", "Searches by state", labels=["state"])
        for state, count in self._searches.counts().items():
            gauge.add_metric([state], count)
        yield gauge


class Measures:
    """Counts of one app."""

    def __init__(self, searches: Searches) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_BySearches(searches))
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
