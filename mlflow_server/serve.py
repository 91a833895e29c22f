"""Running MLflow's own server on a store, as a child of this process.

The server offers no authentication here, so it listens on loopback addresses only.
"""

import http.client
import ipaddress
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from mlflow_server.errors import ServeError, TrackingError
from mlflow_server.store import artifact_root, database_path, store_uri, why_not_a_store

START_SECONDS = 60.0
STOP_SECONDS = 10.0
_LOG_NAME = "mlflow-server.log"
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def serve(
    store: Path,
    host: str = "127.0.0.1",
    port: int = 5000,
    on_ready: Callable[[str], object] = print,
) -> None:
    """Serve a store until Ctrl-C, SIGTERM or SIGHUP; then stop the server and return.

    `on_ready` gets one line with the address once the server answers. `port` 0 takes a free
    one. What the server prints goes to `mlflow-server.log` in the store.

    Raises ServeError if the store, host or port cannot be served, if the server does not
    start, or if it ends by itself.
    """
    with _signals_as_interrupt(), suppress(KeyboardInterrupt):
        with running_server(store, host, port) as server:
            on_ready(f"MLflow shows {store} at {server.url} (stop it with Ctrl-C)")
            status = server.process.wait()
        raise ServeError(f"the MLflow server ended by itself ({status}): see {server.log}")


@dataclass(frozen=True)
class Server:
    """A running MLflow server: where it answers, its process, and what it prints."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path


@contextmanager
def running_server(store: Path, host: str = "127.0.0.1", port: int = 5000) -> Iterator[Server]:
    """A server on this store that answers on entry and has ended on exit; errors as `serve`."""
    _require_loopback(host)
    _require_store(store)
    port = _free_port(host, port)
    log = store.resolve() / _LOG_NAME
    process = _start(store, _command(store, host, port), log)
    try:
        _wait_until_ready(process, host, port, log)
        yield Server(_url(host, port), process, log)
    finally:
        _stop(process)


def _start(store: Path, command: list[str], log: Path) -> subprocess.Popen[bytes]:
    try:
        with log.open("wb") as output:
            return subprocess.Popen(
                command,
                cwd=store,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Its own group, so that Ctrl-C reaches this process alone, which then stops it.
                start_new_session=True,
            )
    except OSError as error:
        raise ServeError(f"cannot start the MLflow server: {error}") from error


def _command(store: Path, host: str, port: int) -> list[str]:
    return [
        *(sys.executable, "-m", "mlflow", "server"),
        *("--backend-store-uri", store_uri(store)),
        *("--artifacts-destination", str(artifact_root(store))),
        *("--host", host),
        *("--port", str(port)),
        *("--workers", "1"),
    ]


def _environment() -> dict[str, str]:
    """This process's environment, where only these two settings reach MLflow.

    Settings made for MLflow's clients, or for another server, could move the runs' files or
    open the server to others. Job execution alone would cost two gigabytes of memory.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.lstrip("_").startswith("MLFLOW_")
    }
    return kept | {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


def _require_loopback(host: str) -> None:
    try:
        is_loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback:
        raise ServeError(
            f"the server listens on this machine only (127.0.0.1), not on {host!r}: "
            "authentication is not offered yet"
        )


def _require_store(store: Path) -> None:
    database = database_path(store)
    try:
        store_uri(store)
    except TrackingError as error:
        raise ServeError(str(error)) from error
    if not database.exists():
        raise ServeError(
            f"{store} holds no mlflow.db, so no search was recorded there: "
            "run a search first, or name the folder that one wrote to"
        )
    problem = why_not_a_store(database)
    if problem is not None:
        raise ServeError(f"{database} is not an MLflow database: {problem}")


def _free_port(host: str, port: int) -> int:
    """The port itself, or a free one for 0; ServeError if it is taken or not allowed."""
    # The resolver would take 65536 for 0.
    if not 0 <= port <= 65535:
        raise ServeError(f"a port lies between 0 and 65535, got {port}")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as listener:
            # As the server does: connections that are closing do not make a port taken.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            return int(listener.getsockname()[1])
    except OSError as error:
        raise ServeError(
            f"cannot listen on {host} port {port}: {error}; choose another port"
        ) from error


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _wait_until_ready(process: subprocess.Popen[bytes], host: str, port: int, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not _answers(host, port):
        status = process.poll()
        if status is not None:
            raise ServeError(f"the MLflow server did not start ({status}): {_last_line(log)}")
        if time.monotonic() > deadline:
            raise ServeError(
                f"the MLflow server did not answer within {START_SECONDS:g} s: see {log}"
            )
        time.sleep(0.1)


def _answers(host: str, port: int) -> bool:
    # http.client, unlike urllib, sends nothing to a proxy.
    connection = http.client.HTTPConnection(host, port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server and everything it started, gently for a while and then by force."""
    try:
        process.terminate()
        process.wait(STOP_SECONDS)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        process.kill()
    finally:
        # MLflow ends its worker itself, unless it was stopped while still starting it.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def _signals_as_interrupt() -> Iterator[None]:
    """Let each signal to stop raise KeyboardInterrupt, where signals can be received at all.

    A signal that is ignored stays so: `nohup` and a shell's `&` mean it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in _STOP_SIGNALS}
    before = {n: handler for n, handler in handlers.items() if handler is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
