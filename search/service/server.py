"""Starts a service with all that belongs to it, and ends it."""

from __future__ import annotations

import gc
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType

import uvicorn

from mlflow_server.serve import signals_as_interrupt
from pruning.errors import ServiceError
from search.service.access.connection_limits import HeaderTimeoutProtocol, max_connections
from search.service.access.request_guard import is_loopback
from search.service.access.settings_policy import SettingsPolicy
from search.service.access.tokens import Tokens, are_required
from search.service.api.app import create_app
from search.service.api.components import Components
from search.service.database.connection import has_database, open_service_database
from search.service.database.lock import DatabaseLock
from search.service.database.searches import Searches
from search.service.database.transactions import Database
from search.service.mlflow.connection import MlflowConnection
from search.service.mlflow.credentials import MlflowCredentials, variables_of_searches
from search.service.mlflow.server_process import MlflowProcess, require_mlflow
from search.service.queue.adoption import adopt_searches
from search.service.queue.dispatcher import Dispatcher
from search.service.queue.launcher import Launcher
from search.service.queue.ray_job_launcher import RayJobsLauncher
from search.service.queue.subprocess_launcher import SubprocessLauncher
from search.service.queue.webhooks import Webhooks
from search.service.runs_folder import RunsFolder
from search.service.service_config import WEBHOOK_SECRET_VARIABLE, ServiceConfig
from search.service.torch_worker.worker import TorchWorker
from search.storage.folder_lock import FolderLock
from search.system.bounded_end import BoundedEnd

_GRACE_SECONDS = 2
_END_SECONDS = 18.0
"""From the signal to stop on; what ends in good order takes up to 15 s."""

_LOOPBACK_NAMES = ("127.0.0.1", "localhost", "::1")


def serve(config: ServiceConfig, announce: Callable[[str], object]) -> None:
    """Serve until Ctrl-C, SIGTERM or SIGHUP; searches that run then go on when it is started again.

    The process ends within 18 s then, whatever hangs.  announce: gets a line once it answers.
    Raises ServiceError, SearchStateError or ServeError, in one line, if it cannot be started so.
    """
    end = BoundedEnd(_END_SECONDS)
    with suppress(KeyboardInterrupt), ExitStack() as stack:
        # uvicorn raises them again when it is done
        stack.enter_context(signals_as_interrupt(end.begin))
        end.start()
        stack.callback(end.rest)
        if not has_database(config):
            _require_tokens(config, None)
        listener = stack.enter_context(_listening(config))
        components = stack.enter_context(_components(config, end))
        url = f"http://{_host_in_url(config.host)}:{listener.getsockname()[1]}"
        hosts = (*_LOOPBACK_NAMES, config.host, *config.allowed_hosts)
        is_wildcard = config.host in ("0.0.0.0", "::") and not config.allowed_hosts
        app = create_app(
            components, hosts=() if is_wildcard else hosts, origins=config.cors_origins
        )
        HeaderTimeoutProtocol.max_connections = max_connections()
        server = _Server(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                http=HeaderTimeoutProtocol,
                timeout_graceful_shutdown=_GRACE_SECONDS,
                server_header=False,
            ),
            lambda: announce(f"Espalier serves {config.runs} at {url} (stop it with Ctrl-C)"),
            end,
        )
        server.run(sockets=[listener])


class _Server(uvicorn.Server):
    """Calls `on_ready` once it answers, and says when it is told to end."""

    def __init__(
        self, config: uvicorn.Config, on_ready: Callable[[], object], end: BoundedEnd
    ) -> None:
        super().__init__(config)
        self._on_ready, self._end = on_ready, end

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._end.begin()
        super().handle_exit(sig, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # what exists now stays: collecting it again and again would delay answers
        gc.collect()
        gc.freeze()
        self._on_ready()


@contextmanager
def _components(config: ServiceConfig, end: BoundedEnd) -> Iterator[Components]:
    """Everything is checked before anything is made: a start that is refused leaves no trace."""
    runs = config.folder
    policy = SettingsPolicy(
        Path(config.data_root).absolute(),
        tuple(config.builders),
        tuple(config.register_as),
        config.limits,
        tuple(config.tasks),
    )
    mlflow_process = _mlflow_process(config)
    with ExitStack() as stack:
        lock = stack.enter_context(FolderLock(runs, "service"))
        lock.acquire(only_if_there=True)
        engine = open_service_database(config, may_be_new=False) if has_database(config) else None
        tokens = Tokens(engine) if engine is not None and are_required(engine) else None
        _require_tokens(config, tokens)
        mlflow = _mlflow_connection(config, mlflow_process, has_auth=tokens is not None)
        launcher = _launcher(config, mlflow)
        _make_folders(runs, policy.data_root)
        lock.acquire()
        if mlflow.credentials is not None:
            mlflow.credentials.keep_for_searches(runs)
        engine = engine or open_service_database(config, may_be_new=True)
        stack.callback(engine.dispose)
        database, database_lock = Database(engine), DatabaseLock(engine)
        stack.callback(database_lock.close)
        folder = RunsFolder(runs)
        folder.finish_removals()
        adopt_searches(Searches(database), runs, policy, config.device)
        if config.webhooks:
            stack.callback(_started_webhooks(config, database).close)
        if mlflow_process is not None:
            stack.callback(mlflow_process.close)
            end.before_force(mlflow_process.kill)
            mlflow_process.start(mlflow.credentials)
        worker, exporter = (TorchWorker(config.limits.memory_gb) for _ in range(2))
        for process in (worker, exporter):
            stack.callback(process.close)
        dispatcher = Dispatcher(
            *(database, launcher, runs),
            max_running=config.max_running,
            require_lock=database_lock.ensure,
        )
        yield Components(
            *(database, dispatcher, worker, exporter, policy, folder),
            device=config.device,
            on_cluster=bool(config.ray_address),
            mlflow=mlflow,
            tokens=tokens,
        )


def _mlflow_process(config: ServiceConfig) -> MlflowProcess | None:
    """The service's own server, not started yet; None if it uses another, which answers."""
    if not config.mlflow_url:
        return MlflowProcess(config.folder, "127.0.0.1", config.mlflow_port)
    require_mlflow(config.mlflow_url)
    return None


def _mlflow_connection(
    config: ServiceConfig, process: MlflowProcess | None, *, has_auth: bool
) -> MlflowConnection:
    """has_auth: whether the service's own server asks for a password."""
    if process is None:
        credentials = MlflowCredentials.from_environment()
        return MlflowConnection(config.mlflow_url, config.mlflow_public_url, credentials)
    own = MlflowCredentials.of_own_server(config.folder) if has_auth else None
    return MlflowConnection(process.url, config.mlflow_public_url, own, process.answers)


def _started_webhooks(config: ServiceConfig, database: Database) -> Webhooks:
    secret = os.environ.get(WEBHOOK_SECRET_VARIABLE, "")
    webhooks = Webhooks(database, config.webhooks, secret)
    webhooks.start()
    return webhooks


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


def environment_of_searches(config: ServiceConfig, mlflow: MlflowConnection) -> dict[str, str]:
    """Variables for the processes of searches. A cluster shows them to everybody: no secrets."""
    return {
        # modules of allowed builders and tasks are found from where the service was started
        "PYTHONPATH": os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")]),
        "ESPALIER_TRUST": " ".join([*config.builders, *config.tasks]),
        **({} if mlflow.credentials is None else variables_of_searches(config.folder)),
    }


def _launcher(config: ServiceConfig, mlflow: MlflowConnection) -> Launcher:
    environment = environment_of_searches(config, mlflow)
    if config.ray_address:
        return RayJobsLauncher(
            *(config.ray_address, config.folder, mlflow.url),
            python=config.ray_python,
            environment=environment,
        )
    return SubprocessLauncher(config.folder, mlflow.url, environment=environment)


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
