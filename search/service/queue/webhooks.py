"""Telling other programs that a search is over: one POST to each address, at least once."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx
from sqlalchemy.exc import SQLAlchemyError

from pruning.errors import first_line
from search.service.database.searches import Searches, now_ms
from search.service.database.tables import SearchRow
from search.service.schemas import SearchSummary
from search.service.throttled_log import Announcements

SIGNATURE_HEADER = "Espalier-Signature"
"""sha256= and the HMAC of the body with the secret, in hexadecimal."""

_INTERVAL_SECONDS = 1.0
_TIMEOUT_SECONDS = 10.0
_PAUSE_SECONDS, _MOST_PAUSE_SECONDS = 2.0, 900.0
_PATIENCE_MS = 86_400_000
_CLOSING_SECONDS = 1.0
_MOST_NAMES = 5

_log = logging.getLogger(__name__)


@dataclass
class _Telling:
    """An end of a search, as far as it was told.

    left: addresses that do not know of it.  not_before: when they are tried again.
    """

    left: list[str]
    pause: float = _PAUSE_SECONDS / 2
    not_before: float = 0.0


class Webhooks:
    """Posts {"event": "finished" | "failed" | "stopped", "search": …} when a search is over.

    secret: what the body is signed with; empty for no signature.  transport: in place of the
    network, for tests.

    What is not answered with a status of success is tried again, after longer and longer pauses,
    for a day. The database remembers what was told; whoever kills the service in between lets
    some be told twice.
    """

    def __init__(
        self,
        searches: Searches,
        urls: Sequence[str],
        secret: str = "",
        *,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._searches, self._urls, self._secret = searches, tuple(urls), secret.encode()
        self._http = httpx.Client(timeout=_TIMEOUT_SECONDS, transport=transport)
        self._tellings: dict[tuple[str, int | None], _Telling] = {}
        self._version = -1
        self._announcements = Announcements(_log)
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="webhooks", daemon=True)

    def start(self) -> None:
        """Work in a thread of its own."""
        self._thread.start()

    def close(self) -> None:
        """End; what was not told is told when a service is started again."""
        self._is_over.set()
        if self._thread.is_alive():
            self._thread.join(_CLOSING_SECONDS)
        if not self._thread.is_alive():  # otherwise it waits for an answer, and ends with it
            self._http.close()

    def _run(self) -> None:
        while not self._is_over.wait(_INTERVAL_SECONDS):
            try:
                self.step()
            except SQLAlchemyError as error:
                self._announcements.say("webhooks", f"wait: {first_line(error)}")
            except Exception as error:  # whatever it is, the next look may succeed
                self._announcements.say("webhooks", first_line(error), bug=error)

    def step(self) -> None:
        """Tell of every end that was not told, but for those whose pause lasts."""
        version = self._searches.version()
        if version == self._version and not self._tellings:
            return
        oldest, rows = now_ms() - _PATIENCE_MS, self._searches.untold()
        self._give_up([row for row in rows if (row.ended_ms or 0) < oldest])
        recent = [row for row in rows if (row.ended_ms or 0) >= oldest]
        known = self._tellings
        self._tellings = {
            _key(row): known.get(_key(row), _Telling(list(self._urls))) for row in recent
        }
        for row in recent:
            if not self._is_over.is_set():
                self._tell(row, self._tellings[_key(row)])
        self._version = version

    def _tell(self, row: SearchRow, telling: _Telling) -> None:
        if time.monotonic() < telling.not_before:
            return
        body = json.dumps({"event": row.state, "search": SearchSummary.of(row)}).encode()
        telling.left = [url for url in telling.left if not self._takes(url, body)]
        if telling.left:
            telling.pause = min(2 * telling.pause, _MOST_PAUSE_SECONDS)
            telling.not_before = time.monotonic() + telling.pause
        else:
            self._searches.note_told([row])
            del self._tellings[_key(row)]

    def _takes(self, url: str, body: bytes) -> bool:
        host = urlsplit(url).hostname or ""  # the rest of an address may be a secret
        headers = {"Content-Type": "application/json"}
        if self._secret:
            digest = hmac.new(self._secret, body, hashlib.sha256).hexdigest()
            headers[SIGNATURE_HEADER] = f"sha256={digest}"
        try:
            answer = self._http.post(url, content=body, headers=headers)
        except httpx.HTTPError as error:
            self._announcements.say(host, f"is not told: {type(error).__name__}")
            return False
        if not answer.is_success:
            self._announcements.say(host, f"is not told: it answers {answer.status_code}")
            return False
        self._announcements.over(host)
        return True

    def _give_up(self, rows: Sequence[SearchRow]) -> None:
        if not rows:
            return
        self._searches.note_told(rows)
        _log.warning("webhooks were not told within a day of the end of %s", _names(rows))


def _key(row: SearchRow) -> tuple[str, int | None]:
    return row.id, row.ended_ms


def _names(rows: Iterable[SearchRow]) -> str:
    names = [row.id for row in rows]
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
