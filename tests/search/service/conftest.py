"""A service in this process: its app on a database of its own, with a launcher that starts nothing.

Requests go straight into the app as raw bytes, so that tests can send what no client would.
"""

import asyncio
import importlib.util
import json
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from samples import outcome, trial_job
from sqlalchemy import select, update
from sqlalchemy.orm import Session
from starlette.routing import BaseRoute

from search.service.access import request_guard as guards
from search.service.access.audit_log import AUDIT_FILE
from search.service.access.settings_policy import SettingsPolicy
from search.service.access.tokens import Role, Tokens, create
from search.service.api.app import create_app
from search.service.api.components import Components
from search.service.database.architectures import Architectures
from search.service.database.connection import open_database
from search.service.database.search_queue import SearchQueue
from search.service.database.searches import Searches
from search.service.database.tables import ArchitectureRow, IdempotencyKeyRow, SearchRow
from search.service.database.transactions import Database
from search.service.mlflow.connection import MlflowConnection
from search.service.problem_details import ProblemError
from search.service.queue.dispatcher import Dispatcher
from search.service.queue.launcher import Launcher, ProcessExit
from search.service.queue.result_rows import architecture_row
from search.service.runs_folder import RunsFolder
from search.service.torch_worker.worker import Refusal, TorchWorker
from search.storage.layout import EVENTS_FILE
from search.system import backoff
from search.tracking.search_state import SearchState
from search.trials.jobs import job_to_mapping


def _share(name: str) -> None:
    """Makes a file of this folder importable under its own name: the folder is not on the path."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


_share("refusals")
_share("other_studies")

LOOPBACK = ("127.0.0.1", "localhost", "::1")
FRAME = {
    "base": {"flops": 2000, "params": 200},
    "limits": {"flops": 1000.0},
    "lines": ["base network 2k FLOPs"],
}
SETTINGS = {"model": "digits-vgg", "budget": ["flops=50%"], "data": {"source": "digits"}}


# ---- for the parts of a service on their own: a file of tests says which `database`


@pytest.fixture
def searches(database: Database) -> Searches:
    return Searches(database)


@pytest.fixture
def queue(database: Database) -> SearchQueue:
    return SearchQueue(database)


@pytest.fixture
def architectures(database: Database) -> Architectures:
    return Architectures(database)


class Clock:
    """Stands in for the module `time`; called, it lets seconds pass."""

    passed = 0.0

    def monotonic(self) -> float:
        return 1000.0 + self.passed

    def __call__(self, seconds: float) -> None:
        self.passed += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Lets seconds pass for pauses, which otherwise never end."""
    clock = Clock()
    monkeypatch.setattr(backoff, "time", clock)
    return clock


class IdleLauncher(Launcher):
    """Starts nothing; what was asked to end has ended."""

    def __init__(self) -> None:
        self.launched: list[str] = []
        self._ended: set[str] = set()

    def launch(self, search_id: str, attempt: int) -> str:
        self.launched.append(search_id)
        return f"{search_id}/{attempt}"

    def poll(self, handle: str) -> ProcessExit | None:
        return ProcessExit("it was ended") if handle in self._ended else None

    def interrupt(self, handle: str) -> None:
        self._ended.add(handle)

    kill = interrupt


class WorkerHere(TorchWorker):
    """Does in this process what the real one does in its own, which takes seconds to start."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def run(self, task: Callable[..., Any], *arguments: Any, caller: str = "") -> Any:
        self.asked.append(task.__name__)
        result = await asyncio.to_thread(partial(task, *arguments))
        if isinstance(result, Refusal):
            raise ProblemError(422, result.detail, result.field)
        return result

    @property
    def num_waiting(self) -> int:
        return 0

    def close(self) -> None:
        """Nothing to end."""


@dataclass
class Answer:
    """What came back; num_read: bytes that the app took of the request's body."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    num_read: int = 0

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Service:
    """One that is running; `ask` sends it a request."""

    app: FastAPI
    components: Components
    launcher: IdleLauncher
    home: Path
    _loop: asyncio.AbstractEventLoop
    tokens: dict[Role, str]

    @property
    def runs(self) -> Path:
        return self.components.runs.path

    def ask(
        self,
        method: str,
        target: str,
        body: bytes | Iterable[bytes] = b"",
        *,
        headers: Mapping[str, str] | list[tuple[bytes, bytes]] | None = None,
        timeout: float = 20,
    ) -> Answer:
        """Send it as uvicorn hands it on: the path with its escapes resolved.

        headers: a mapping goes on top of a Host and, with a body, a content type; pairs are all.
        """
        if isinstance(headers, list):
            pairs = headers
        else:
            usual = {"host": "127.0.0.1:8000", "content-type": "application/json"}
            pairs = [
                (n.lower().encode(), v.encode()) for n, v in (usual | dict(headers or {})).items()
            ]
        path, _, query = target.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": unquote(path),
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": pairs,
            "client": ("127.0.0.1", 50000),
            "server": ("127.0.0.1", 8000),
        }
        parts = [body] if isinstance(body, bytes) else body
        return self.run(partial(self._exchange, scope, iter(parts))).result(timeout)

    def run(self, work: Callable[[], Any]) -> Future[Any]:
        """Begin a coroutine on the app's own loop."""
        return asyncio.run_coroutine_threadsafe(work(), self._loop)

    async def _exchange(self, scope: dict[str, Any], parts: Iterator[bytes]) -> Answer:
        answer, over = Answer(), asyncio.Event()
        messages = chain((_part(part) for part in parts if part), [_part(b"", is_last=True)])

        async def receive() -> dict[str, Any]:
            message = next(messages, None)
            if message is None:
                await over.wait()
                return {"type": "http.disconnect"}
            answer.num_read += len(message["body"])
            return message

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                assert not answer.status, "a second response was begun"
                answer.status = message["status"]
                pairs = message.get("headers", [])
                answer.headers = {name.decode(): value.decode("latin-1") for name, value in pairs}
            else:
                answer.body += message.get("body", b"")
                if not message.get("more_body"):
                    over.set()

        try:
            await self.app(scope, receive, send)
        except Exception:  # a server would log it and, too late, answer 500
            answer.status = 500
            raise
        return answer

    def put(self, search_id: str, **values: Any) -> None:
        """Set columns of a search, whatever state it is in."""
        with self.components.database.engine.begin() as connection:
            connection.execute(update(SearchRow).where(SearchRow.id == search_id).values(**values))
        self.components.database.count_change([search_id])

    def trace(self) -> tuple[object, ...]:
        """All that is stored or launched: unchanged by a request that is refused."""
        engine = self.components.database.engine
        with Session(engine) as session:
            tables = (SearchRow, ArchitectureRow, IdempotencyKeyRow)
            rows = [tuple(map(_values, session.scalars(select(table)))) for table in tables]
        aside = {"service.db", "service.db-wal", "service.db-shm", AUDIT_FILE}
        files = sorted(str(p) for p in self.home.rglob("*") if p.name not in aside)
        return (*rows, tuple(files), tuple(self.launcher.launched))

    def finish(self, name: str = "done", keys: Iterable[str] = ("a-1", "b-2")) -> SearchRow:
        """A finished search with its architectures, in the database and as small files."""
        outcomes = [
            outcome(key, flops=400 * number, validation_score=number / 10).to_mapping()
            for number, key in enumerate(keys, 1)
        ]
        row = SearchRow(
            id=name,
            name=name,
            state="finished",
            settings={**SETTINGS, "name": name, "runs": str(self.runs), "mlflow_url": ""},
            frame=FRAME,
            created_ms=1,
            started_ms=2,
            ended_ms=3,
            **dict.fromkeys(("reason", "wish", "owner", "handle"), ""),
            **dict.fromkeys(("launches", "losses", "epochs"), 0),
            progress=SearchState().progress(),
        )
        found = [architecture_row(name, content, on_front=True) for content in outcomes]
        self.components.searches.adopt(row, found)
        folder = self.runs / name
        (folder / "exports").mkdir(parents=True)
        for key in (found["key"] for found in outcomes):
            home = folder / "architectures" / key
            home.mkdir(parents=True)
            (home / "architecture.json").write_text(json.dumps(_ARCHITECTURE))
            (home / "weights.safetensors").write_bytes(b"weights")
            (folder / "exports" / f"{key}.onnx").write_bytes(b"onnx")
            (folder / "exports" / f"{key}.py").write_text("import torch\n")
        (folder / "report.html").write_text("<!doctype html><title>Report</title>")
        (folder / "front.png").write_bytes(b"PNG")
        results = {"verdict": "it won\nby far", "contests": [], "notes": [], "failures": {}}
        (folder / "results.json").write_text(
            json.dumps({**results, "front": outcomes, "everything": outcomes})
        )
        job = trial_job(0)
        events = [
            {"event": "launched", "time_ms": 1, **FRAME, "trials": 2, "pid": 1},
            {"event": "started", "time_ms": 1, "key": job.key, "job": job_to_mapping(job)},
        ]
        lines = [*events, {"event": "concluded", "time_ms": 2}]
        (folder / EVENTS_FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
        return row

    def routes(self) -> list[tuple[str, str]]:
        """Method and path of everything that the app answers to."""
        return sorted(_routes(self.app.routes))


def _part(body: bytes, *, is_last: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": not is_last}


_ARCHITECTURE = {"widths": {"1": 4}, "removed": {"branches": ["2"]}, "provenance": {}}


def _values(row: Any) -> tuple[object, ...]:
    return tuple(str(getattr(row, column.key)) for column in row.__table__.columns)


def _routes(routes: Iterable[BaseRoute]) -> Iterator[tuple[str, str]]:
    for route in routes:
        inner = getattr(route, "original_router", None)
        if inner is not None:
            yield from _routes(inner.routes)
        else:
            assert isinstance(route, APIRoute), f"a route of another kind: {route}"
            yield from ((method, route.path) for method in route.methods)


@contextmanager
def serving(
    home: Path,
    *,
    roles: Iterable[Role] = (),
    builders: tuple[str, ...] = (),
    mlflow_url: str = "",
) -> Iterator[Service]:
    """A service whose files lie below `home`, from its first request to its last.

    roles: of tokens that there are, each called like its role; none are asked for without any.
    """
    runs, data = home / "runs", home / "data"
    for folder in (runs, data):
        folder.mkdir()
    engine, launcher = open_database(f"sqlite:///{runs / 'service.db'}"), IdleLauncher()
    database, loop = Database(engine), asyncio.new_event_loop()
    secrets = {role: create(engine, role, role) for role in roles}
    components = Components(
        database,
        Dispatcher(database, launcher, runs, max_running=1),
        WorkerHere(),
        WorkerHere(),
        SettingsPolicy(data, builders),
        RunsFolder(runs),
        device="cpu",
        mlflow=MlflowConnection(mlflow_url) if mlflow_url else None,
        tokens=Tokens(engine) if secrets else None,
    )
    app = create_app(components, hosts=LOOPBACK)
    thread = threading.Thread(target=loop.run_forever)
    with ExitStack() as stack:
        stack.callback(engine.dispose)
        thread.start()
        stack.callback(loop.close)
        stack.callback(thread.join)
        stack.callback(loop.call_soon_threadsafe, loop.stop)
        service = Service(app, components, launcher, home, loop, secrets)
        life = app.router.lifespan_context(app)
        service.run(life.__aenter__).result(60)
        stack.callback(lambda: service.run(partial(life.__aexit__, None, None, None)).result(60))
        yield service


@pytest.fixture(scope="session")
def serve() -> Callable[..., Any]:
    """`serving`, for tests that need a service of their own."""
    return serving


@pytest.fixture(scope="module")
def patient() -> Iterator[None]:
    """No limit on the rate of requests: tests make thousands."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_READS", "_CHANGES"):
            patch.setattr(guards, name, type(guards._READS)(10**6))
        yield


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, patient: None) -> Iterator[Service]:
    """One for all tests of a file, with a finished search `done` of the networks a-1 and b-2."""
    with serving(tmp_path_factory.mktemp("service")) as running:
        running.finish()
        yield running
