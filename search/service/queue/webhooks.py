"""Tells other programs that a search is over: one POST to each address, at least once."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx

from search.service.database.search_queue import SearchQueue
from search.service.database.tables import SearchRow
from search.service.database.transactions import Database, now_ms
from search.service.queue.periodic_thread import PeriodicThread
from search.service.schemas import SearchSummary
from search.service.throttled_log import ThrottledLog
from search.system.backoff import Backoff

SIGNATURE_HEADER = "Espalier-Signature"
"""sha256= and the HMAC of the body with the secret, in hexadecimal."""

_INTERVAL_SECONDS = 1.0
_TIMEOUT_SECONDS = 10.0
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 2.0, 900.0
_PATIENCE_MS = 86_400_000
_CLOSING_SECONDS = 1.0
_MAX_NAMES = 5

_log = logging.getLogger(__name__)


def _pauses() -> Backoff:
    return Backoff(_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)


@dataclass
class _Delivery:
    """The end of a search, as far as it was delivered. urls: that do not know of it yet."""

    urls: list[str]
    retries: Backoff = field(default_factory=_pauses)


class Webhooks(PeriodicThread):
    """Posts {"event": "finished" | "failed" | "stopped", "search": …} when a search is over.

    secret: what the body is signed with; empty for no signature.  transport: in place of the
    network, for tests.

    What is not answered with a status of success is sent again, after longer and longer pauses,
    for a day. The database remembers what was delivered; whoever kills the service in between
    lets some be delivered twice.
    """

    def __init__(
        self,
        database: Database,
        urls: Sequence[str],
        secret: str = "",
        *,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        super().__init__("webhooks", _INTERVAL_SECONDS, ThrottledLog(_log))
        self._database, self._queue = database, SearchQueue(database)
        self._urls, self._secret = tuple(urls), secret.encode()
        self._http = httpx.Client(timeout=_TIMEOUT_SECONDS, transport=transport)
        self._deliveries: dict[tuple[str, int | None], _Delivery] = {}
        self._version = -1

    def close(self, timeout_seconds: float = _CLOSING_SECONDS) -> None:
        """End; what was not delivered is delivered when a service is started again."""
        super().close(timeout_seconds)
        if not self._thread.is_alive():  # otherwise it waits for an answer, and ends with it
            self._http.close()

    def step(self) -> None:
        """Deliver every end that was not delivered yet, but for those whose pause lasts."""
        version = self._database.version()
        if version == self._version and not self._deliveries:
            return
        oldest_ms, rows = now_ms() - _PATIENCE_MS, self._queue.unannounced()
        self._give_up([row for row in rows if (row.ended_ms or 0) < oldest_ms])
        recent = [row for row in rows if (row.ended_ms or 0) >= oldest_ms]
        earlier = self._deliveries
        self._deliveries = {
            _key(row): earlier.get(_key(row), _Delivery(list(self._urls))) for row in recent
        }
        for row in recent:
            if not self._is_closing.is_set():
                self._deliver(row, self._deliveries[_key(row)])
        self._version = version

    def _deliver(self, row: SearchRow, delivery: _Delivery) -> None:
        if delivery.retries.is_pausing:
            return
        body = json.dumps({"event": row.state, "search": SearchSummary.of(row)}).encode()
        delivery.urls = [url for url in delivery.urls if not self._is_accepted(url, body)]
        if delivery.urls:
            delivery.retries.fail()
        else:
            self._queue.mark_announced([row])
            del self._deliveries[_key(row)]

    def _is_accepted(self, url: str, body: bytes) -> bool:
        host = urlsplit(url).hostname or ""  # the rest of an address may be a secret
        headers = {"Content-Type": "application/json"}
        if self._secret:
            digest = hmac.new(self._secret, body, hashlib.sha256).hexdigest()
            headers[SIGNATURE_HEADER] = f"sha256={digest}"
        try:
            response = self._http.post(url, content=body, headers=headers)
        except httpx.HTTPError as error:
            self._log.warn(host, f"is not told: {type(error).__name__}")
            return False
        if not response.is_success:
            self._log.warn(host, f"is not told: it answers {response.status_code}")
            return False
        self._log.clear(host)
        return True

    def _give_up(self, rows: Sequence[SearchRow]) -> None:
        if not rows:
            return
        self._queue.mark_announced(rows)
        _log.warning("webhooks were not told within a day of the end of %s", _names(rows))


def _key(row: SearchRow) -> tuple[str, int | None]:
    return row.id, row.ended_ms


def _names(rows: Iterable[SearchRow]) -> str:
    names = [row.id for row in rows]
    num_more = len(names) - _MAX_NAMES
    return ", ".join(names[:_MAX_NAMES]) + (f" and {num_more} more" if num_more > 0 else "")
