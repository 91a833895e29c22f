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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self
from urllib.parse import quote

import httpx

from pruning.errors import ServiceError
from search.config.explicit_settings import explicit_settings, settings_json
from search.server_events import ServerEvent, server_events
from search.tracking.process_log import LogPart, log_parts
from search.tracking.search_state import Event

if TYPE_CHECKING:
    from search.config.search_config import SearchConfig
    from search.results.report import Results

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
_PAUSES = (0.2, 1.0, 2.0, 4.0)
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
        self, settings: Mapping[str, Any] | SearchConfig, key: str | None = None
    ) -> dict[str, Any]:
        """Queue a search and return it, as `search` does.

        settings: nested as in a TOML file, or a SearchConfig, of which only what differs from the
        defaults is sent.  key: the same settings with the same key begin no second search, see
        search.config.explicit_settings.settings_key; without one every call begins another.
        """
        content = settings if isinstance(settings, Mapping) else explicit_settings(settings)
        headers = {"Content-Type": "application/json"} | ({"Idempotency-Key": key} if key else {})
        answer = self._asked(
            "POST",
            "/v1/searches",
            content=settings_json(content).encode(),
            headers=headers,
            timeout=_SLOW,
        )
        return _mapping(answer)

    def searches(
        self, *, state: str | None = None, name: str | None = None
    ) -> list[dict[str, Any]]:
        """All searches, the newest first. state: only those in it.  name: a part of theirs."""
        given = {"state": state, "name": name}
        query: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
        # a search that arrives meanwhile shifts the pages
        found = {item["id"]: item for item in self._paged("/v1/searches", query)}
        return list(found.values())

    def search(self, search_id: str) -> dict[str, Any]:
        """How a search stands: `state`, `progress`, `settings`; times in ms since 1970."""
        return self._got(_search_path(search_id))

    def stop(self, search_id: str) -> dict[str, Any]:
        """Wish that it ends early; what was finished is kept. See `wait`."""
        return _mapping(self._asked("POST", _search_path(search_id, "stop")))

    def go_on(self, search_id: str) -> dict[str, Any]:
        """Take a `stop` back; ServiceError unless it runs and was asked to end."""
        return _mapping(self._asked("DELETE", _search_path(search_id, "stop")))

    def resume(self, search_id: str) -> dict[str, Any]:
        """Queue it again, where it was; ServiceError unless it was stopped or has failed."""
        path = _search_path(search_id, "resume")
        return _mapping(self._asked("POST", path, timeout=_SLOW))

    def set_priority(self, search_id: str, priority: int) -> dict[str, Any]:
        """Let it come before others of a lower one in the queue; this needs an admin's token."""
        path = _search_path(search_id, "priority")
        return _mapping(self._asked("PUT", path, json={"priority": priority}))

    def remove(self, search_id: str) -> None:
        """Remove it with its architectures; ServiceError while it runs."""
        self._asked("DELETE", _search_path(search_id))

    def wait(self, search_id: str, timeout_seconds: float | None = None) -> dict[str, Any]:
        """The search once it is over: `state` is finished, failed or stopped.

        timeout_seconds: ServiceError if it takes longer; forever by default.
        """
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while (found := self.search(search_id))["state"] not in OVER:
            if deadline is not None and time.monotonic() > deadline:
                raise ServiceError(
                    f"{search_id} is still {found['state']} after {timeout_seconds:g} s"
                )
            time.sleep(_POLL_SECONDS)
        return found

    def events(self, search_id: str) -> Iterator[Event]:
        """Everything that happens in a search, from its beginning until it is over.

        Events are those of tracking.search_state.Event, each once, and {"event": "state"} with the
        search as in `searches` whenever its state changes. A connection that breaks is made
        again; ServiceError if that does not succeed within the client's patience.
        """
        last, told, gone_since, failures = "", ("", False), None, 0
        while True:
            try:
                for event in self._streamed(search_id, last):
                    gone_since = None
                    if event.id:
                        last, failures = event.id, 0
                    content = _event(event)
                    if content["event"] == "state":
                        before, told = told, (content["state"], content["is_stopping"])
                        if told == before:
                            continue
                    yield content
                if told[0] in OVER:
                    return
            except (httpx.TransportError, _BusyError) as error:
                now = time.monotonic()
                gone_since = gone_since or now
                if now - gone_since > self._patience:
                    raise self._unreachable(error) from error
            time.sleep(_PAUSES[min(failures, len(_PAUSES) - 1)])
            failures += 1

    def log(self, search_id: str, *, follow: bool = False) -> Iterator[str]:
        """What its processes printed, in parts that are whole lines; nothing if there is no log.

        follow: also what they print from now on, until the search is over.
        """

        def read(offset: int) -> LogPart:
            query = {"offset": offset, "last": _LOG_BYTES}
            answer = self._asked("GET", _search_path(search_id, "log"), params=query)
            try:
                return LogPart(answer.text, int(answer.headers["Next-Offset"]))
            except (KeyError, ValueError):
                raise self._refusal(answer) from None

        return log_parts(read, lambda: self.search(search_id)["state"] in OVER, follow=follow)

    def _streamed(self, search_id: str, last: str) -> Iterator[ServerEvent]:
        headers = {"Last-Event-ID": last} if last else {}
        path = _search_path(search_id, "events")
        with self._http.stream("GET", path, headers=headers, timeout=_SILENCE) as answer:
            if answer.is_server_error or answer.status_code == httpx.codes.TOO_MANY_REQUESTS:
                raise _BusyError(f"it answers with status {answer.status_code}")
            if not answer.is_success:
                answer.read()
                raise self._refusal(answer)
            yield from server_events(answer.iter_bytes())

    # ---- what came of them

    def trials(self, search_id: str) -> list[dict[str, Any]]:
        """Every trial as it stands: `state`, `settings`, `reason`; in the order of beginning."""
        return list(self._paged(_search_path(search_id, "trials")))

    def trial(self, search_id: str, number: int, repeat: int = 0) -> dict[str, Any]:
        """One of them, with its epochs (`curve`). repeat: from 1 on with other seeds."""
        return self._got(_search_path(search_id, f"trials/{number}"), params={"repeat": repeat})

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
        sort: flops, params or validation_accuracy; with - before it falling.
        """
        given = {"flops_max": flops_max, "params_max": params_max, "sort": sort}
        query = {name: str(value) for name, value in given.items() if value is not None}
        found: list[dict[str, Any]] = self._got(_search_path(search_id, "front"), params=query)[
            "items"
        ]
        return found

    def architectures(self, search_id: str) -> list[dict[str, Any]]:
        """All that were found so far, on the front or not, by FLOPs."""
        path = _search_path(search_id, "architectures")
        # one that is found meanwhile shifts the pages
        return list({item["id"]: item for item in self._paged(path)}.values())

    def verdict(self, search_id: str) -> str:
        """Which kind of network won at which budget, a line each; once it is finished."""
        return "\n".join(self._got(_search_path(search_id, "verdict"))["lines"])

    def results(self, search_id: str) -> Results:
        """Everything a finished search knows, as `search.run` returns it."""
        from search.results.report import Results  # noqa: PLC0415 - imports torch

        content = self._got(_search_path(search_id, "results"))
        try:
            return Results.from_mapping(content)
        except (KeyError, TypeError, ValueError) as error:
            raise ServiceError(
                f"the results of {search_id} cannot be read: is {self.url} of another version?"
            ) from error

    def report(self, search_id: str) -> bytes:
        """The report of a finished search: one HTML page that opens offline."""
        return self._asked("GET", _search_path(search_id, "report")).content

    # ---- architectures, by ids such as those of `front`: SEARCH:NAME, or SEARCH/NAME

    def architecture(self, architecture_id: str) -> dict[str, Any]:
        """What an architecture costs, how good it is, its widths, and its architecture.json."""
        return self._got(_architecture_path(architecture_id))

    def download(self, architecture_id: str, folder: str | Path) -> Path:
        """Write an architecture as a folder that `copycat.load` opens, and return it.

        Raises ArchitectureError if `folder` is taken or cannot be written.
        """
        from copycat.export import written_whole  # noqa: PLC0415 - imports torch

        with tempfile.TemporaryFile() as archive:
            self._fetch(_architecture_path(architecture_id, "folder"), archive)
            with written_whole(folder) as temporary:
                temporary.mkdir()
                _unpack(archive, temporary)
        return Path(folder)

    def export(self, architecture_id: str, form: Export, file: str | Path) -> Path:
        """Write an architecture as one file, which the service makes, and return it.

        form: onnx, or python for a module that makes the network with torch alone.
        Raises ArchitectureError if `file` is taken or cannot be written.
        """
        from copycat.export import written_whole  # noqa: PLC0415 - imports torch

        with written_whole(file) as temporary, temporary.open("wb") as stream:
            self._fetch(_architecture_path(architecture_id, form), stream)
        return Path(file)

    def source_code(self, architecture_id: str) -> str:
        """A Python module that makes the network with torch alone; weights not included."""
        path = _architecture_path(architecture_id, "python")
        return self._asked("GET", path, timeout=_SLOW).content.decode()

    def health(self) -> dict[str, Any]:
        """Whether the service works: `status`, `version`, `parts`, and its `mlflow_url`."""
        return self._got("/healthz")

    # ---- requests

    def _got(self, path: str, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
        return _mapping(self._asked("GET", path, params=params))

    def _paged(self, path: str, query: Mapping[str, Any] | None = None) -> Iterator[dict[str, Any]]:
        """The items of all pages."""
        offset: int | None = 0
        while offset is not None:
            page = self._got(path, params={**(query or {}), "limit": 200, "offset": offset})
            yield from page["items"]
            offset = page["next_offset"]

    def _asked(self, method: str, path: str, **request: Any) -> httpx.Response:
        with self._reached():
            answer = self._http.request(method, path, **request)
        if not answer.is_success:
            raise self._refusal(answer)
        return answer

    def _fetch(self, path: str, stream: Any) -> None:
        """Write a body, which may be large, to an open file."""
        with self._reached(), self._http.stream("GET", path, timeout=_SLOW) as answer:
            if not answer.is_success:
                answer.read()
                raise self._refusal(answer)
            for part in answer.iter_bytes():
                stream.write(part)

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> ServiceError:
        cause = str(error) or type(error).__name__
        return ServiceError(f"the service at {self.url} cannot be reached: {cause}")

    def _refusal(self, answer: httpx.Response) -> ServiceError:
        """The sentence of the problem details, or that this is no such service."""
        try:
            content = answer.json()
            detail = content["detail"]
        except (ValueError, KeyError, TypeError):
            detail = None
        if not isinstance(detail, str):
            return ServiceError(
                f"{self.url} does not answer like a service of Espalier: status "
                f"{answer.status_code} at {answer.request.url.path}"
            )
        return ServiceError(" ".join(detail.split()))


class _BusyError(Exception):
    """The service answers, but not as it will in a while."""


def checked_url(url: str) -> str:
    """The address without a slash at its end; ServiceError if it is none."""
    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL:
        parts = httpx.URL("")
    if parts.scheme not in ("http", "https") or not parts.host or parts.query or parts.fragment:
        raise ServiceError(f"a server is given as http://HOST:PORT, got {url!r}")
    return url.rstrip("/")


def _mapping(answer: httpx.Response) -> dict[str, Any]:
    try:
        content = answer.json()
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise ServiceError(f"{answer.request.url} does not answer like a service of Espalier")
    return content


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
