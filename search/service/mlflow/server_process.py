"""MLflow's server as a child of the service, started again when it dies."""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from pathlib import Path

import httpx
import psutil

from mlflow_server.errors import MlflowServerError
from mlflow_server.serve import Server, free_port, running_server
from pruning.errors import ServiceError, first_line
from search.service.mlflow.credentials import MlflowCredentials

_FOLDER_VARIABLE = "ESPALIER_MLFLOW_OF"
"""In the environment of a server and its children: the folder for which a service began it."""

_PAUSE_SECONDS = 1.0
_ANSWER_SECONDS = 2.0
_UP_SECONDS, _DOWN_SECONDS = 180.0, 6.0

_log = logging.getLogger(__name__)


class MlflowProcess:
    """Serves the store of `runs` at `host` and `port`, from `start` to `close`; 0 for a free one.

    A service that was killed leaves its child behind: the next service of the folder ends it.
    """

    def __init__(self, runs: Path, host: str, port: int) -> None:
        self._runs, self._host = runs, host
        self._port = port or free_port(host, port)
        self._server: Server | None = None
        self._has_auth = False
        self._is_closing, self._is_up = threading.Event(), threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._supervise, name="mlflow", daemon=True)

    @property
    def url(self) -> str:
        """Where it answers, or will again."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    def start(self, credentials: MlflowCredentials | None = None) -> None:
        """Wait until it answers; ServiceError or ServeError if it does not come up.

        credentials: of the only user that it lets in; None for everybody on this machine.
        """
        if credentials is not None:
            credentials.set_admin_password()
            self._has_auth = True
        self._thread.start()
        if not self._is_up.wait(_UP_SECONDS):
            raise ServiceError(f"MLflow's server did not come up within {_UP_SECONDS:g} s")
        if isinstance(self._error, MlflowServerError):
            raise self._error
        if self._error is not None:
            raise ServiceError(f"MLflow's server cannot be started: {first_line(self._error)}")

    async def answers(self) -> bool:
        """Whether it does right now."""
        with suppress(httpx.HTTPError):
            # its own server speaks plain HTTP: to read certificates would take 30 ms each time
            async with httpx.AsyncClient(timeout=_ANSWER_SECONDS, verify=False) as client:
                return (await client.get(f"{self.url}/health")).is_success
        return False

    def close(self) -> None:
        """End it, also while it starts: gently, and by force where that takes too long."""
        self._is_closing.set()
        if self._server is not None:
            self._server.process.terminate()
        if self._thread.is_alive():
            self._thread.join(_DOWN_SECONDS)
        if self._thread.is_alive():
            _log.warning("MLflow does not end within %g s: it is killed", _DOWN_SECONDS)
            self.kill()

    def kill(self) -> None:
        """End it by force, and for good."""
        self._is_closing.set()
        self._end_leftovers()

    def _supervise(self) -> None:
        while not self._is_closing.is_set():
            try:
                self._end_leftovers()
                with running_server(
                    self._runs,
                    self._host,
                    self._port,
                    may_be_new=True,
                    has_auth=self._has_auth,
                    marks={_FOLDER_VARIABLE: str(self._runs)},
                    is_given_up=self._is_closing.is_set,
                ) as self._server:
                    self._is_up.set()
                    status = self._server.process.wait()
            except Exception as error:  # whatever it is, the next attempt may succeed
                if not self._is_up.is_set():
                    self._error = error
                    self._is_up.set()
                    return
                if not self._is_closing.is_set():
                    _log.warning("MLflow: %s", first_line(error))
            else:
                if not self._is_closing.is_set():
                    _log.warning("MLflow is started again: it ended with %s", status)
            self._is_closing.wait(_PAUSE_SECONDS)

    def _end_leftovers(self) -> None:
        """End servers of this folder that a killed service, or an earlier attempt, has left."""
        leftovers = [
            process
            for process in psutil.process_iter(["environ"])
            if (process.info["environ"] or {}).get(_FOLDER_VARIABLE) == str(self._runs)
        ]
        for process in leftovers:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(leftovers, timeout=10)


def require_mlflow(url: str) -> None:
    """ServiceError unless an MLflow server answers there."""
    try:
        httpx.get(f"{url.rstrip('/')}/health", timeout=5).raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ServiceError(f"no MLflow server answers at {url}: {error}") from error
