"""Bringing a service up, with all that belongs to it, and down again."""

from __future__ import annotations

import gc
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import uvicorn

from mlflow_server.serve import signals_as_interrupt
from pruning.errors import ServiceError
from search.service import runs_folder as removal
from search.service.access.connection_limits import PatientProtocol, most_connections
from search.service.access.request_guard import is_loopback
from search.service.access.settings_policy import Rules
from search.service.access.tokens import Tokens, are_asked_for
from search.service.api.app import create_app
from search.service.api.components import Parts
from search.service.database.connection import SoleUse, has_records, open_records
from search.service.database.searches import Searches
from search.service.mlflow.credentials import Login
from search.service.mlflow.server_process import MlflowChild, require_mlflow
from search.service.queue.adoption import adopt_searches
from search.service.queue.dispatcher import Dispatcher
from search.service.queue.launcher import Launcher
from search.service.queue.ray_job_launcher import RayJobsLauncher
from search.service.queue.subprocess_launcher import SubprocessLauncher
from search.service.queue.webhooks import Webhooks
from search.service.service_config import WEBHOOK_SECRET_VARIABLE, ServiceConfig
from search.service.torch_worker.worker import Worker
from search.storage.durable import FolderLock

_GRACE_SECONDS = 2
_LOOPBACK_NAMES = ("127.0.0.1", "localhost", "::1")


def serve(config: ServiceConfig, announce: Callable[[str], object]) -> None:
    """Serve until Ctrl-C or SIGTERM; searches that run then go on when it is started again.

    announce: gets a line once it answers.  Raises ServiceError, SearchStateError or ServeError,
    in one line, if it cannot be started so.
    """
    with suppress(KeyboardInterrupt), ExitStack() as stack:
        stack.enter_context(signals_as_interrupt())  # uvicorn raises them again when it is done
        if not has_records(config):
            _require_tokens(config, None)
        listener = stack.enter_context(_listening(config))
        parts = stack.enter_context(_parts(config))
        url = f"http://{_host_in_url(config.host)}:{listener.getsockname()[1]}"
        hosts = (*_LOOPBACK_NAMES, config.host, *config.allowed_hosts)
        is_any = config.host in ("0.0.0.0", "::") and not config.allowed_hosts
        app = create_app(parts, hosts=() if is_any else hosts, origins=config.cors_origins)
        PatientProtocol.most = most_connections()
        server = _Server(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                http=PatientProtocol,
                timeout_graceful_shutdown=_GRACE_SECONDS,
                server_header=False,
            ),
            lambda: announce(f"Espalier serves {config.runs} at {url} (stop it with Ctrl-C)"),
        )
        server.run(sockets=[listener])


class _Server(uvicorn.Server):
    """Tells when it answers."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], object]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # What is there now stays: looking through it for garbage takes longer than an answer may.
        gc.collect()
        gc.freeze()
        self._on_ready()


@contextmanager
def _parts(config: ServiceConfig) -> Iterator[Parts]:
    """Everything is looked at before anything is made: what is refused leaves no trace."""
    runs = config.folder
    rules = Rules(
        Path(config.data_root).absolute(),
        tuple(config.builders),
        tuple(config.register_as),
        config.limits,
    )
    child = None if config.mlflow_url else MlflowChild(runs, "127.0.0.1", config.mlflow_port)
    if config.mlflow_url:
        require_mlflow(config.mlflow_url)
    mlflow_url = config.mlflow_url if child is None else child.url
    with ExitStack() as stack:
        lock = stack.enter_context(FolderLock(runs, "service"))
        lock.acquire(only_if_there=True)
        engine = open_records(config, may_be_new=False) if has_records(config) else None
        tokens = Tokens(engine) if engine is not None and are_asked_for(engine) else None
        _require_tokens(config, tokens)
        login = Login.of_environment() if child is None else None
        if child is not None and tokens is not None:
            login = Login.kept(runs)
        launcher = _launcher(config, runs, mlflow_url, login)
        _make_folders(runs, rules.data_root)
        lock.acquire()
        engine = engine or open_records(config, may_be_new=True)
        stack.callback(engine.dispose)
        sole_use = SoleUse(engine)
        stack.callback(sole_use.close)
        removal.clear(runs)
        searches = Searches(engine)
        adopt_searches(searches, runs, rules, config.device)
        if config.webhooks:
            secret = os.environ.get(WEBHOOK_SECRET_VARIABLE, "")
            webhooks = Webhooks(searches, config.webhooks, secret)
            stack.callback(webhooks.close)
            webhooks.start()
        if child is not None:
            stack.callback(child.close)
            child.start(login)
        memory_gb = config.limits.memory_gb
        worker, exporter = Worker(memory_gb), Worker(memory_gb)
        stack.callback(worker.close)
        stack.callback(exporter.close)
        yield Parts(
            searches,
            Dispatcher(
                searches,
                launcher,
                runs,
                max_running=config.max_running,
                require_sole_use=sole_use.require,
            ),
            worker,
            exporter,
            rules,
            runs,
            mlflow_url,
            config.device,
            tokens,
            None if child is None else child.answers,
            login,
            config.mlflow_public_url,
        )


def _require_tokens(config: ServiceConfig, tokens: Tokens | None) -> None:
    """ServiceError if others than this machine reach the service and nobody has a token."""
    if not is_loopback(config.host) and not tokens:
        raise ServiceError(
            f"a service without tokens listens on this machine only (127.0.0.1), not on "
            f"{config.host!r}: make one with `espalier token create NAME`, with the same --runs "
            "and --database"
        )


def _make_folders(*folders: Path) -> None:
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ServiceError(f"cannot make the folder {folder}: {error.strerror}") from error


def _launcher(config: ServiceConfig, runs: Path, mlflow_url: str, login: Login | None) -> Launcher:
    # modules of allowed builders are found from where the service was started
    environment = {
        "PYTHONPATH": os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")]),
        "ESPALIER_TRUST": " ".join(config.builders),
        **({} if login is None else login.environment),
    }
    if config.ray_address:
        return RayJobsLauncher(
            config.ray_address,
            runs,
            mlflow_url,
            python=config.ray_python,
            environment=environment,
        )
    return SubprocessLauncher(runs, mlflow_url, environment=environment)


@contextmanager
def _listening(config: ServiceConfig) -> Iterator[socket.socket]:
    try:
        family, _, _, _, address = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM
        )[0]
        # by its number asyncio knows TCP, and sends small answers without waiting for more
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError as error:
        raise ServiceError(f"cannot listen on {config.host}: {error.strerror}") from error
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError as error:
            raise ServiceError(
                f"cannot listen on {config.host} port {config.port}: {error.strerror}; choose "
                "another --port"
            ) from error
        yield listener


def _host_in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
