"""MLflow's server beside the service: it comes up, comes again, and never holds anything up."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from serving import eventually

from mlflow_server.errors import ServeError
from mlflow_server.serve import Server
from pruning.errors import ServiceError
from search.service.mlflow.server_process import MlflowProcess
from search.system.process_identity import alive, tag

SLEEPER = [sys.executable, "-c", "import time; time.sleep(60)"]


@pytest.fixture
def child(tmp_path: Path) -> Iterator[MlflowProcess]:
    child = MlflowProcess(tmp_path, "127.0.0.1", 1)
    yield child
    child.close()


@pytest.fixture
def serves(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Any]], None]:
    """Lets this stand for the server, while the pauses are short."""

    def serves(instead: Callable[..., Any]) -> None:
        monkeypatch.setattr(
            "search.service.mlflow.server_process.running_server", contextmanager(instead)
        )
        monkeypatch.setattr("search.service.mlflow.server_process._PAUSE_SECONDS", 0.01)

    return serves


def sleeper(runs: Path) -> Server:
    return Server("http://127.0.0.1:1", subprocess.Popen(SLEEPER), runs / "log")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ServeError("no"), ServeError),
        (OSError(28, "No space left on device"), ServiceError),
        (RuntimeError("nobody foresaw this"), ServiceError),
    ],
)
def test_what_prevents_the_first_start_is_told_at_once(
    child: MlflowProcess, serves: Any, error: Exception, kind: type[Exception]
) -> None:
    def fail(*_: object, **__: object) -> Iterator[Server]:
        raise error
        yield

    serves(fail)
    with pytest.raises(kind, match=str(error.args[-1])):
        child.start()


def test_a_start_that_hangs_is_not_waited_for_and_given_up(
    child: MlflowProcess, serves: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_up = threading.Event()

    def hang(*_: object, is_given_up: Callable[[], bool], **__: object) -> Iterator[Server]:
        while not is_given_up():
            time.sleep(0.01)
        given_up.set()
        raise ServeError("given up")
        yield

    serves(hang)
    monkeypatch.setattr("search.service.mlflow.server_process._UP_SECONDS", 0.1)
    with pytest.raises(ServiceError, match="did not come up within"):
        child.start()
    child.close()
    assert given_up.is_set()


def test_it_comes_again_whatever_goes_wrong(
    child: MlflowProcess, serves: Any, tmp_path: Path
) -> None:
    attempts: list[Server] = []

    def serve(*_: object, **__: object) -> Iterator[Server]:
        if len(attempts) == 1:
            attempts.append(attempts[0])
            raise OSError(28, "No space left on device")
        attempts.append(sleeper(tmp_path))
        yield attempts[-1]

    serves(serve)
    child.start()
    attempts[0].process.kill()
    eventually(lambda: len(attempts) == 3, 30, "it is started a third time")
    child.close()
    assert attempts[2].process.wait(10) != 0


def test_what_is_killed_does_not_come_again(
    child: MlflowProcess, serves: Any, tmp_path: Path
) -> None:
    attempts: list[Server] = []
    mark = {"ESPALIER_MLFLOW_OF": str(tmp_path)}

    def serve(*_: object, **__: object) -> Iterator[Server]:
        process = subprocess.Popen(SLEEPER, env={**os.environ, **mark})
        attempts.append(Server("http://127.0.0.1:1", process, tmp_path / "log"))
        yield attempts[-1]

    serves(serve)
    child.start()
    child.kill()
    child._thread.join(30)
    assert not child._thread.is_alive()
    (server,) = attempts
    assert server.process.poll() is not None


def test_one_that_does_not_end_is_killed(
    child: MlflowProcess, serves: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = {"ESPALIER_MLFLOW_OF": str(tmp_path)}

    def serve(*_: object, **__: object) -> Iterator[Server]:
        process = subprocess.Popen(SLEEPER, env={**os.environ, **mark})
        process.send_signal(signal.SIGSTOP)
        servers.append(Server("http://127.0.0.1:1", process, tmp_path / "log"))
        yield servers[-1]

    servers: list[Server] = []
    serves(serve)
    monkeypatch.setattr("search.service.mlflow.server_process._DOWN_SECONDS", 0.2)
    child.start()
    child.close()
    child._thread.join(30)  # which has taken note of it then
    assert servers[0].process.poll() is not None


def test_what_an_earlier_service_left_is_ended_and_nothing_else(
    child: MlflowProcess, tmp_path: Path
) -> None:
    """Also one that was killed before its server answered, or could not write anything down."""
    mark = "ESPALIER_MLFLOW_OF"
    with ExitStack() as stack:

        def begun(**more: str) -> str:
            process = stack.enter_context(subprocess.Popen(SLEEPER, env={**os.environ, **more}))
            stack.callback(process.kill)
            return tag(process.pid)

        leftover = begun(**{mark: str(tmp_path)})
        innocent = [begun(), begun(**{mark: str(tmp_path / "other")})]
        child._end_leftovers()
        assert alive(leftover) is None
        assert all(alive(process) for process in innocent)
