"""`search.Client`: a service of Espalier from Python; the command line's `--server` uses it too.

Importing it costs neither torch nor Ray: whoever only asks need not wait for them.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar
from urllib.parse import quote

import httpx

from pruning.errors import ServiceError
from pruning.lazy_imports import lazy_modules
from search.config.explicit_settings import explicit_settings, settings_json
from search.server_events import ServerEvent, server_events
from search.storage.layout import StudyKind
from search.system.backoff import Backoff
from search.tracking.event_file import Event
from search.tracking.process_log import LogPart, log_parts

if TYPE_CHECKING:
    from search.config.correlation_config import CorrelationConfig
    from search.config.family_config import FamilyConfig
    from search.config.search_config import SearchConfig
    from search.results.correlation_report import CorrelationResults
    from search.results.family_results import FamilyStudy
    from search.results.report import Results

    Settings = Mapping[str, Any] | SearchConfig | FamilyConfig | CorrelationConfig

export, report, family_results, correlation_report, study_settings = lazy_modules(
    *("copycat.export", "search.results.report", "search.results.family_results"),
    *("search.results.correlation_report", "search.config.study_settings"),
)

Result = TypeVar("Result")

TOKEN_VARIABLE = "ESPALIER_TOKEN"
OVER = ("finished", "failed", "stopped")
"""States of a search that nobody works on any more."""

Export = Literal["onnx", "python"]

_TIMEOUT = httpx.Timeout(30.0, connect=5.0)
_SLOW = httpx.Timeout(150.0, connect=5.0)
"""Preflights and exports: the service itself gives up after 120 s."""

_SILENCE = httpx.Timeout(75.0, connect=5.0)
"""The service says something at least every 30 s; after so long the connection is dead."""

_PATIENCE_SECONDS = 60.0
_PAUSES = (0.2, 4.0)
"""The first and the longest before a stream is opened again."""

_POLL_SECONDS = 0.5
_LOG_BYTES = 2**20
_MEMBERS = ("architecture.json", "weights.safetensors")


class Client:
    """Everything that a service of Espalier offers; a context manager, which closes connections.

    url: of the service, such as http://127.0.0.1:8000.  token: by default the environment's
    ESPALIER_TOKEN; a service for one's own machine needs none.
    patience_seconds: for how long `events` tries to reach a service again that is gone.
    transport: in place of the network, for tests.

    Every method raises ServiceError with a sentence for people: the service's own where it
    refuses, or that it cannot be reached, within seconds.
    """

    def __init__(
        self,
        url: str,
        token: str = "",
        *,
        patience_seconds: float = _PATIENCE_SECONDS,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.url, self._patience = checked_url(url), patience_seconds
        token = token or os.environ.get(TOKEN_VARIABLE, "")
        if not token.isascii() or not token.isprintable():
            raise ServiceError("a token is a line of ASCII characters: this one is not")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.Client(
            base_url=self.url, headers=headers, timeout=_TIMEOUT, transport=transport
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    # ---- searches

    def launch(
        self, settings: Settings, key: str | None = None, *, kind: StudyKind = "search"
    ) -> dict[str, Any]:
        """Queue a search, or another study, and return it, as `search` does.

        settings: nested as in a TOML file, or a SearchConfig, FamilyConfig or CorrelationConfig, of
        which only what differs from the defaults is sent.  key: the same settings with the same key
        begin no second search, see search.config.explicit_settings.settings_key; without one every
        call begins another.  kind: of study, whose settings are nested; a class says its own.
        """
        headers = {"Idempotency-Key": key} if key else {}
        return self._send_settings("/v1/searches", settings, kind, headers)

    def preflight(self, settings: Settings, *, kind: StudyKind = "search") -> dict[str, Any]:
        """What such a study would begin with, in `lines`; nothing is kept. See `launch`."""
        return self._send_settings("/v1/preflight", settings, kind, {})

    def _send_settings(
        self, path: str, settings: Settings, kind: StudyKind, headers: Mapping[str, str]
    ) -> dict[str, Any]:
        if isinstance(settings, Mapping):
            content = settings
        else:
            content, kind = explicit_settings(settings), study_settings.kind_of(settings)
        return self._json(
            "POST",
            path,
            params={"kind": kind},
            content=settings_json(content).encode(),
            headers={"Content-Type": "application/json", **headers},
            timeout=_SLOW,
        )

    def searches(
        self, *, state: str | None = None, name: str | None = None, kind: StudyKind | None = None
    ) -> list[dict[str, Any]]:
        """All searches and other studies, the newest first.

        state, kind: only those in it, or of it.  name: a part of theirs.
        """
        return self._pages("/v1/searches", state=state, name=name, kind=kind)

    def search(self, search_id: str) -> dict[str, Any]:
        """How a search stands: `state`, `progress`, `settings`; times in ms since 1970."""
        return self._json("GET", _search_path(search_id))

    def stop(self, search_id: str) -> dict[str, Any]:
        """Wish that it ends early; what was finished is kept. See `wait`."""
        return self._json("POST", _search_path(search_id, "stop"))

    def go_on(self, search_id: str) -> dict[str, Any]:
        """Take a `stop` back; ServiceError unless it runs and was asked to end."""
        return self._json("DELETE", _search_path(search_id, "stop"))

    def resume(self, search_id: str) -> dict[str, Any]:
        """Queue it again, where it was; ServiceError unless it was stopped or has failed."""
        return self._json("POST", _search_path(search_id, "resume"), timeout=_SLOW)

    def set_priority(self, search_id: str, priority: int) -> dict[str, Any]:
        """Let it come before others of a lower one in the queue; this needs an admin's token."""
        path = _search_path(search_id, "priority")
        return self._json("PUT", path, json={"priority": priority})

    def remove(self, search_id: str) -> None:
        """Remove it with its architectures; ServiceError while it runs."""
        self._request("DELETE", _search_path(search_id))

    def wait(self, search_id: str, timeout_seconds: float | None = None) -> dict[str, Any]:
        """The search once it is over: `state` is finished, failed or stopped.

        timeout_seconds: ServiceError if it takes longer; forever by default.
        """
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while (search := self.search(search_id))["state"] not in OVER:
            if deadline is not None and time.monotonic() > deadline:
                raise ServiceError(
                    f"{search_id} is still {search['state']} after {timeout_seconds:g} s"
                )
            time.sleep(_POLL_SECONDS)
        return search

    def events(self, search_id: str) -> Iterator[Event]:
        """Everything that happens in a search, from its beginning until it is over.

        Events are those of tracking.event_file.Event, each once, and {"event": "state"} with the
        search as in `searches` whenever its state changes. A connection that breaks is made
        again; ServiceError if that does not succeed within the client's patience.
        """
        last_id, state, lost_at, pauses = "", ("", False), None, Backoff(*_PAUSES)
        while True:
            try:
                for event in self._stream_events(search_id, last_id):
                    lost_at = None
                    if event.id:
                        last_id = event.id
                        pauses.reset()
                    content = _event(event)
                    if content["event"] == "state":
                        known, state = state, (content["state"], content["is_stopping"])
                        if state == known:
                            continue
                    yield content
                if state[0] in OVER:
                    return
            except (httpx.TransportError, _BusyError) as error:
                now = time.monotonic()
                lost_at = lost_at or now
                if now - lost_at > self._patience:
                    raise self._unreachable(error) from error
            time.sleep(pauses.fail())

    def log(self, search_id: str, *, follow: bool = False) -> Iterator[str]:
        """What its processes printed, in parts that are whole lines; nothing if there is no log.

        follow: also what they print from now on, until the search is over.
        """

        def read(offset: int) -> LogPart:
            query = {"offset": offset, "last": _LOG_BYTES}
            response = self._request("GET", _search_path(search_id, "log"), params=query)
            try:
                return LogPart(response.text, int(response.headers["Next-Offset"]))
            except (KeyError, ValueError):
                raise self._refusal(response) from None

        return log_parts(read, lambda: self.search(search_id)["state"] in OVER, follow=follow)

    def _stream_events(self, search_id: str, last_id: str) -> Iterator[ServerEvent]:
        headers = {"Last-Event-ID": last_id} if last_id else {}
        path = _search_path(search_id, "events")
        with self._http.stream("GET", path, headers=headers, timeout=_SILENCE) as response:
            if response.is_server_error or response.status_code == httpx.codes.TOO_MANY_REQUESTS:
                raise _BusyError(f"it answers with status {response.status_code}")
            self._require_success(response)
            yield from server_events(response.iter_bytes())

    # ---- what came of them

    def trials(self, search_id: str) -> list[dict[str, Any]]:
        """Every trial as it stands: `state`, `settings`, `reason`; in the order of beginning."""
        return self._pages(_search_path(search_id, "trials"))

    def trial(self, search_id: str, number: int, repeat: int = 0) -> dict[str, Any]:
        """One of them, with its epochs (`curve`). repeat: from 1 on with other seeds."""
        path = _search_path(search_id, f"trials/{number}")
        return self._json("GET", path, params={"repeat": repeat})

    def front(
        self,
        search_id: str,
        *,
        flops_max: str | int | None = None,
        params_max: str | int | None = None,
        sort: str = "flops",
    ) -> list[dict[str, Any]]:
        """The architectures that no other one beats; of a running search, those found so far.

        flops_max, params_max: such as 30M, "25%" of the base network, or a count.
        sort: flops, params or validation_score; with - before it falling.
        """
        query = _without_none(flops_max=flops_max, params_max=params_max, sort=sort)
        front = self._json("GET", _search_path(search_id, "front"), params=query)
        items: list[dict[str, Any]] = front["items"]
        return items

    def architectures(self, search_id: str) -> list[dict[str, Any]]:
        """All that were found so far, on the front or not, by FLOPs."""
        return self._pages(_search_path(search_id, "architectures"))

    def verdict(self, search_id: str) -> str:
        """Which kind of network won at which budget, a line each; once it is finished."""
        return "\n".join(self._json("GET", _search_path(search_id, "verdict"))["lines"])

    def results(self, search_id: str) -> Results:
        """Everything a finished search knows, as `search.run` returns it."""
        results: Results = self._results(search_id, report.Results.from_mapping)
        return results

    def family(self, search_id: str) -> FamilyStudy:
        """What came of a finished family study: every run, and the mean of each network's."""
        study: FamilyStudy = self._results(search_id, family_results.FamilyStudy.from_mapping)
        return study

    def correlation(self, search_id: str) -> CorrelationResults:
        """What came of a finished correlation study: how far each criterion agrees."""
        study: CorrelationResults = self._results(search_id, correlation_report.results_of)
        return study

    def _results(self, search_id: str, read: Callable[[dict[str, Any]], Result]) -> Result:
        content = self._json("GET", _search_path(search_id, "results"))
        try:
            return read(content)
        except (KeyError, TypeError, ValueError) as error:
            raise ServiceError(
                f"the results of {search_id} cannot be read: is {self.url} of another version?"
            ) from error

    def figure(self, search_id: str) -> bytes:
        """The figure of a finished search, or another study, as PNG."""
        return self._request("GET", _search_path(search_id, "figure")).content

    def report(self, search_id: str) -> bytes:
        """The report of a finished search: one HTML page that opens offline."""
        return self._request("GET", _search_path(search_id, "report")).content

    # ---- architectures, by ids such as those of `front`: SEARCH:NAME, or SEARCH/NAME

    def architecture(self, architecture_id: str) -> dict[str, Any]:
        """What an architecture costs, how good it is, its widths, and its architecture.json."""
        return self._json("GET", _architecture_path(architecture_id))

    def download(self, architecture_id: str, folder: str | Path) -> Path:
        """Write an architecture as a folder that `copycat.load` opens, and return it.

        Raises ArchitectureError if `folder` is taken or cannot be written.
        """
        with tempfile.TemporaryFile() as archive:
            self._download(_architecture_path(architecture_id, "folder"), archive)
            with export.written_whole(folder) as temporary:
                temporary.mkdir()
                _unpack(archive, temporary)
        return Path(folder)

    def export(self, architecture_id: str, form: Export, file: str | Path) -> Path:
        """Write an architecture as one file, which the service makes, and return it.

        form: onnx, or python for a module that makes the network with torch alone.
        Raises ArchitectureError if `file` is taken or cannot be written.
        """
        with export.written_whole(file) as temporary, temporary.open("wb") as stream:
            self._download(_architecture_path(architecture_id, form), stream)
        return Path(file)

    def source_code(self, architecture_id: str) -> str:
        """A Python module that makes the network with torch alone; weights not included."""
        path = _architecture_path(architecture_id, "python")
        return self._request("GET", path, timeout=_SLOW).content.decode()

    def health(self) -> dict[str, Any]:
        """Whether the service works: `status`, `version`, `parts`, and its `mlflow_url`."""
        return self._json("GET", "/healthz")

    # ---- requests

    def _json(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        """The JSON object in the response."""
        response = self._request(method, path, **request)
        try:
            content = response.json()
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise ServiceError(f"{response.request.url} does not answer like a service of Espalier")
        return content

    def _pages(self, path: str, **query: str | None) -> list[dict[str, Any]]:
        """The items of all pages, each once: what is added meanwhile shifts the pages."""
        items: dict[object, dict[str, Any]] = {}
        offset: int | None = 0
        while offset is not None:
            params = {**_without_none(**query), "limit": 200, "offset": offset}
            page = self._json("GET", path, params=params)
            for item in page["items"]:
                items[item.get("id", len(items))] = item
            offset = page["next_offset"]
        return list(items.values())

    def _request(self, method: str, path: str, **request: Any) -> httpx.Response:
        with self._reached():
            response = self._http.request(method, path, **request)
        self._require_success(response)
        return response

    def _download(self, path: str, stream: Any) -> None:
        """Write a body, which may be large, to an open file."""
        with self._reached(), self._http.stream("GET", path, timeout=_SLOW) as response:
            self._require_success(response)
            for part in response.iter_bytes():
                stream.write(part)

    def _require_success(self, response: httpx.Response) -> None:
        if not response.is_success:
            response.read()
            raise self._refusal(response)

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> ServiceError:
        cause = str(error) or type(error).__name__
        return ServiceError(f"the service at {self.url} cannot be reached: {cause}")

    def _refusal(self, response: httpx.Response) -> ServiceError:
        """The sentence of the problem details, or that this is no such service."""
        try:
            detail = response.json()["detail"]
        except (ValueError, KeyError, TypeError):
            detail = None
        if not isinstance(detail, str):
            return ServiceError(
                f"{self.url} does not answer like a service of Espalier: status "
                f"{response.status_code} at {response.request.url.path}"
            )
        return ServiceError(" ".join(detail.split()))


class _BusyError(Exception):
    """The service answers that it cannot serve the stream for now."""


def checked_url(url: str) -> str:
    """The address without a slash at its end; ServiceError if it is none."""
    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL:
        parts = httpx.URL("")
    if parts.scheme not in ("http", "https") or not parts.host or parts.query or parts.fragment:
        raise ServiceError(f"a server is given as http://HOST:PORT, got {url!r}")
    return url.rstrip("/")


def _without_none(**query: str | int | None) -> dict[str, str]:
    return {name: str(value) for name, value in query.items() if value is not None}


def _event(event: ServerEvent) -> Event:
    try:
        content = json.loads(event.data)
    except ValueError as error:
        raise ServiceError(f"the service sent an event that is damaged: {error}") from error
    return {**content, "event": event.name}


def _search_path(search_id: str, part: str = "") -> str:
    if not search_id or "/" in search_id:
        raise ServiceError(f"a search on a server is given by its name, got {search_id!r}")
    return f"/v1/searches/{quote(search_id, safe='')}{part and f'/{part}'}"


def _architecture_path(architecture_id: str, part: str = "") -> str:
    identity = architecture_id.replace("/", ":")
    search_id, _, key = identity.partition(":")
    if not search_id or not key or ":" in key:
        raise ServiceError(f"an architecture on a server is SEARCH/NAME, got {architecture_id!r}")
    return f"/v1/architectures/{quote(identity, safe=':')}{part and f'/{part}'}"


def _unpack(archive: Any, folder: Path) -> None:
    """Only the two files that an architecture consists of, whatever else a server packs."""
    try:
        with zipfile.ZipFile(archive) as packed:
            names = {Path(name).name: name for name in packed.namelist()}
            for member in _MEMBERS:
                with packed.open(names[member]) as source, (folder / member).open("wb") as target:
                    shutil.copyfileobj(source, target)
    except (zipfile.BadZipFile, KeyError) as error:
        raise ServiceError(f"the service sent an architecture that is damaged: {error}") from error
