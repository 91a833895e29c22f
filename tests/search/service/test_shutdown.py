"""A service that is told to stop has ended in less than 20 seconds, whatever hangs.

One test tells it so by SIGTERM, the other by SIGHUP.
"""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest
from postgresql import Cluster, running_cluster
from serving import STEPWISE, Service, eventually, mlflow_processes, search_processes, service

from search.service.service_config import DATABASE_VARIABLE

# SQLAlchemy 2.1 deprecates what MLflow 3.17 uses while its tables are first imported.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")


@contextmanager
def stopped(processes: list[psutil.Process]) -> Iterator[None]:
    """They hang: neither do anything nor end when they are told to."""
    assert processes
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.resume()


def end(running: Service, number: int) -> float:
    """Send this signal, and wait for the end: the seconds that it takes."""
    assert running.process is not None
    began = time.monotonic()
    running.process.send_signal(number)
    running.process.wait(60)
    return time.monotonic() - began


def read_in_vain(running: Service, path: str) -> threading.Thread:
    """A request whose answer takes as long as the service lives."""

    def ask() -> None:
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"{running.url}{path}", timeout=120).raise_for_status()

    thread = threading.Thread(target=ask)
    thread.start()
    return thread


@pytest.mark.slow
def test_searches_and_mlflow_that_do_not_end(tmp_path: Path, empty_store: Path) -> None:
    """The search is left to the next service, as if it had been killed; MLflow is not left."""
    shutil.copytree(empty_store, tmp_path / "runs")
    with service(tmp_path, "--builder", "stepwise:Stepwise") as running, ExitStack() as stack:
        running.hold()
        search_id = running.launch(**STEPWISE)
        running.get_on(search_id)
        searches = search_processes(running.runs)
        mlflow = mlflow_processes(running.runs, running.mlflow_port)
        stack.enter_context(stopped(searches))
        stack.enter_context(stopped(mlflow))
        assert end(running, signal.SIGTERM) < 20
        assert running.process is not None
        assert running.process.returncode == 0
        assert not mlflow_processes(running.runs, running.mlflow_port)
        for process in searches:
            process.kill()


@pytest.mark.slow
def test_a_database_that_hangs(
    tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads of the service wait for its answers for ever."""
    shutil.copytree(empty_store, tmp_path / "runs")
    with running_cluster() as cluster:
        monkeypatch.setenv(DATABASE_VARIABLE, cluster.url())
        with service(tmp_path) as running, stopped(backends(cluster)):
            asked = read_in_vain(running, "/v1/searches")
            eventually(lambda: is_asked(running), 30)
            assert end(running, signal.SIGHUP) < 20
            asked.join(30)
            assert not asked.is_alive()
            assert not mlflow_processes(running.runs, running.mlflow_port)


def is_asked(running: Service) -> bool:
    """Whether somebody is connected to it."""
    assert running.process is not None
    return any(
        connection.laddr.port == running.port and connection.status == psutil.CONN_ESTABLISHED
        for connection in psutil.Process(running.process.pid).net_connections("tcp4")
    )


def backends(cluster: Cluster) -> list[psutil.Process]:
    """PostgreSQL's processes, each of which serves a connection."""
    (server,) = (
        connection.pid
        for connection in psutil.net_connections("tcp4")
        if connection.laddr.port == cluster.port and connection.status == psutil.CONN_LISTEN
    )
    process = psutil.Process(server)
    return [process, *process.children()]
