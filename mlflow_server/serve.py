"""Running MLflow's own server, as a child of this process.

It listens on loopback addresses only, unless it asks for a password.
"""

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

from mlflow_server.deployment import (
    Deployment,
    command_arguments,
    environment,
    prepare,
    without_password,
)
from mlflow_server.errors import ServeError

START_SECONDS = 60.0
STOP_SECONDS = 10.0
_LOG_NAME = "mlflow-server.log"
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def serve(
    store: Path,
    host: str = "127.0.0.1",
    port: int = 5000,
    on_ready: Callable[[str, str], object] = lambda line, _: print(line),
    *,
    database: str | None = None,
    artifacts: str | None = None,
    has_auth: bool = False,
) -> None:
    """Serve until Ctrl-C, SIGTERM or SIGHUP; then stop the server and return.

    Once the server answers, `on_ready` gets a line that says so, and the address. `port` 0 takes
    a free one. What the server prints goes to `mlflow-server.log` in the store.

    `database` is a postgresql:// URL to serve in place of the store's own, and `artifacts` an
    s3:// URL or a folder for files in place of the store's own. `has_auth` asks for a password,
    which is what a host other than loopback needs: MLFLOW_AUTH_ADMIN_PASSWORD sets that of
    the user `admin` at the first start.

    Raises ServeError if any of these cannot be served, if the server does not start, or if it
    ends by itself.
    """
    with signals_as_interrupt(), suppress(KeyboardInterrupt):
        with running_server(
            store, host, port, database=database, artifacts=artifacts, has_auth=has_auth
        ) as server:
            shown = store if database is None else "the database"
            on_ready(f"MLflow shows {shown} at {server.url} (stop it with Ctrl-C)", server.url)
            status = server.process.wait()
        raise ServeError(f"the MLflow server ended by itself ({status}): see {server.log}")


@dataclass(frozen=True)
class Server:
    """A running MLflow server: where it answers, its process, and what it prints."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path


@contextmanager
def running_server(
    store: Path,
    host: str = "127.0.0.1",
    port: int = 5000,
    *,
    database: str | None = None,
    artifacts: str | None = None,
    has_auth: bool = False,
    may_be_new: bool = False,
    marks: Mapping[str, str] | None = None,
    is_given_up: Callable[[], bool] = lambda: False,
) -> Iterator[Server]:
    """A server that answers on entry and has ended on exit; arguments and errors as `serve`.

    may_be_new: make an empty store where there is none.  marks: further variables of its
    environment, by which its processes can be found.  is_given_up: whether it is wanted no
    more, asked while it starts; then ServeError.
    """
    deployment = Deployment(store, host, port, database, artifacts, has_auth, may_be_new)
    prepare(deployment)
    port = free_port(host, port)
    deployment = replace(deployment, port=port)
    log = store.resolve() / _LOG_NAME
    process = _start(deployment, log, marks or {})
    try:
        _wait_until_ready(process, deployment, log, is_given_up)
        yield Server(_url(host, port), process, log)
    finally:
        _stop(process)


def _start(deployment: Deployment, log: Path, marks: Mapping[str, str]) -> subprocess.Popen[bytes]:
    try:
        with log.open("wb") as output:
            return subprocess.Popen(
                _command(deployment),
                cwd=deployment.store,
                env={**environment(deployment), **marks},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Its own group, so that Ctrl-C reaches this process alone, which then stops it.
                start_new_session=True,
                umask=0o077,  # what it keeps is for whoever it lets in
            )
    except OSError as error:
        raise ServeError(f"cannot start the MLflow server: {error}") from error


def _command(deployment: Deployment) -> list[str]:
    return [sys.executable, "-m", "mlflow", "server", *command_arguments(deployment)]


def free_port(host: str, port: int) -> int:
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
    host = _EVERY_ADDRESS.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _wait_until_ready(
    process: subprocess.Popen[bytes],
    deployment: Deployment,
    log: Path,
    is_given_up: Callable[[], bool],
) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not _answers(deployment.host, deployment.port):
        status = process.poll()
        if status is not None:
            cause = without_password(_last_line(log), deployment)
            raise ServeError(f"the MLflow server did not start ({status}): {cause}")
        if is_given_up():
            raise ServeError("the MLflow server was given up while it started")
        if time.monotonic() > deadline:
            raise ServeError(
                f"the MLflow server did not answer within {START_SECONDS:g} s: see {log}"
            )
        time.sleep(0.1)


def _answers(host: str, port: int) -> bool:
    # http.client, unlike urllib, sends nothing to a proxy.
    connection = http.client.HTTPConnection(_EVERY_ADDRESS.get(host, host), port, timeout=5)
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
def signals_as_interrupt(on_signal: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Let each signal to stop raise KeyboardInterrupt, where signals can be received at all.

    A signal that is ignored stays so: `nohup` and a shell's `&` mean it.  on_signal: called before.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        on_signal()
        signal.default_int_handler(number, frame)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in _STOP_SIGNALS}
    before = {n: handler for n, handler in handlers.items() if handler is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
