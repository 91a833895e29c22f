"""MLflow's server as a child of the service, started again when it dies."""

from __future__ import annotations

import json
import logging
import threading
from contextlib import suppress
from pathlib import Path

import httpx
import psutil

from mlflow_server.errors import MlflowServerError
from mlflow_server.serve import Server, free_port, running_server
from pruning.errors import ServiceError
from search.durable import write_durably
from search.service.mlflow_login import Login

_TRACE_FILE = "mlflow-server.json"
_PAUSE_SECONDS = 1.0
_ANSWER_SECONDS = 2.0

_log = logging.getLogger(__name__)


class MlflowChild:
    """Serves the store of `runs` at `host` and `port`, from `start` to `close`; 0 for a free one.

    A service that was killed leaves its child behind: its number is kept in a file, and the next
    service ends it.
    """

    def __init__(self, runs: Path, host: str, port: int) -> None:
        self._runs, self._host = runs, host
        self._port = port or free_port(host, port)
        self._server: Server | None = None
        self._has_auth = False
        self._is_closing, self._is_up = threading.Event(), threading.Event()
        self._error: MlflowServerError | None = None
        self._thread = threading.Thread(target=self._supervise, name="mlflow", daemon=True)

    @property
    def url(self) -> str:
        """Where it answers, or will again."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    def start(self, login: Login | None = None) -> None:
        """Wait until it answers; ServiceError or ServeError if it does not come up.

        login: whom alone it lets in; None for everybody on this machine.
        """
        if login is not None:
            login.admit()
            self._has_auth = True
        self._end_leftover()
        self._thread.start()
        self._is_up.wait()
        if self._error is not None:
            raise self._error

    async def answers(self) -> bool:
        """Whether it does right now."""
        with suppress(httpx.HTTPError):
            async with httpx.AsyncClient(timeout=_ANSWER_SECONDS) as client:
                return (await client.get(f"{self.url}/health")).is_success
        return False

    def close(self) -> None:
        """End it."""
        self._is_closing.set()
        if self._server is not None:
            self._server.process.terminate()
        if self._thread.is_alive():
            self._thread.join()

    def _supervise(self) -> None:
        while not self._is_closing.is_set():
            try:
                with running_server(
                    self._runs, self._host, self._port, may_be_new=True, has_auth=self._has_auth
                ) as self._server:
                    self._remember(self._server.process.pid)
                    self._is_up.set()
                    status = self._server.process.wait()
            except MlflowServerError as error:
                if not self._is_up.is_set():
                    self._error = error
                    self._is_up.set()
                    return
                _log.warning("MLflow: %s", error)
            else:
                if not self._is_closing.is_set():
                    _log.warning("MLflow is started again: it ended with %s", status)
            self._is_closing.wait(_PAUSE_SECONDS)

    def _remember(self, pid: int) -> None:
        with suppress(psutil.Error):
            trace = {"pid": pid, "began": psutil.Process(pid).create_time()}
            write_durably(self._runs / _TRACE_FILE, json.dumps(trace).encode())

    def _end_leftover(self) -> None:
        try:
            trace = json.loads((self._runs / _TRACE_FILE).read_text(encoding="utf-8"))
            process = psutil.Process(int(trace["pid"]))
            if process.create_time() != trace["began"]:
                return
            family = [process, *process.children(recursive=True)]
            for member in family:
                with suppress(psutil.Error):
                    member.kill()
            psutil.wait_procs(family, timeout=10)
        except (OSError, ValueError, KeyError, TypeError, psutil.Error):
            return


def require_mlflow(url: str) -> None:
    """ServiceError unless an MLflow server answers there."""
    try:
        httpx.get(f"{url.rstrip('/')}/health", timeout=5).raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ServiceError(f"no MLflow server answers at {url}: {error}") from error
