"""A real server and a real process that records, each killed in the middle."""

import http.server
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from mlflow_server import (
    BackgroundRecorder,
    RecordedRun,
    TrackingError,
    connect,
    running_server,
    schema,
    store_uri,
)

# SQLAlchemy 2.1 deprecates what MLflow 3.17 uses while its tables are first imported.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")

EPOCHS = 150


def train(recorder: BackgroundRecorder, first: int, last: int) -> None:
    """Log some epochs of two runs."""
    for step in range(first, last):
        for key in ("trial/1", "trial/2"):
            metrics = {schema.METRIC_TRAIN_LOSS: 1 / (step + 1), schema.METRIC_SPARSITY: 0.5}
            recorder.log_metrics(key, metrics, step)


def open_runs(recorder: BackgroundRecorder) -> None:
    recorder.open_run("search", kind="search", name="Search")
    for key in ("trial/1", "trial/2"):
        recorder.open_run(key, kind="trial", name=key, parent="search")


def end_runs(recorder: BackgroundRecorder, file: Path) -> None:
    recorder.log_file("search", file)
    for key in ("trial/1", "trial/2", "search"):
        recorder.end_run(key, "finished")


def require_everything(uri: str, name: str, epochs: int = EPOCHS) -> None:
    recorder = connect(uri, name)
    runs: list[RecordedRun] = [recorder.read(key) for key in ("trial/1", "trial/2")]
    for run in runs:
        assert run.status == "finished"
        curve = tuple((step, 1 / (step + 1)) for step in range(epochs))
        assert run.metrics["train_loss"] == curve
        assert len(run.metrics["sparsity"]) == epochs
    assert recorder.read("search").files == (Path(__file__).name,)


def test_a_server_that_is_gone_for_a_third_of_the_time_costs_nothing(store, tmp_path, free_port):
    """Its answers are waited for by another thread than the caller's: see test_background.py."""
    port, spool = free_port, tmp_path / "s" / "mlflow.spool"
    third = EPOCHS // 3
    with running_server(store, port=port) as server:
        recorder = BackgroundRecorder(connect(server.url, "s"), spool=spool)
        open_runs(recorder)
        train(recorder, 0, third)
        os.killpg(server.process.pid, signal.SIGKILL)
    train(recorder, third, 2 * third)
    while not recorder.problems:
        time.sleep(0.01)
    assert spool.exists()
    with running_server(store, port=port) as server:
        train(recorder, 2 * third, EPOCHS)
        end_runs(recorder, Path(__file__))
        assert recorder.close() == 0, recorder.problems
        require_everything(server.url, "s")
    assert any("no MLflow server answers" in line for line in recorder.problems)
    assert not spool.exists()


KILLED = """
import importlib.util, os, signal, sys
from pathlib import Path
import mlflow_server

url, spool, server, test = sys.argv[1:]
spec = importlib.util.spec_from_file_location("test_outage", test)
outage = importlib.util.module_from_spec(spec)
spec.loader.exec_module(outage)
recorder = mlflow_server.BackgroundRecorder(mlflow_server.connect(url, "s"), spool=Path(spool))
outage.open_runs(recorder)
outage.train(recorder, 0, 20)
os.killpg(int(server), signal.SIGKILL)
outage.train(recorder, 20, 40)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_nothing_is_lost_when_server_and_driver_are_both_killed(store, tmp_path, free_port):
    port, spool = free_port, tmp_path / "s" / "mlflow.spool"
    with running_server(store, port=port) as server:
        arguments = [server.url, str(spool), str(server.process.pid), __file__]
        done = subprocess.run([sys.executable, "-c", KILLED, *arguments], check=False)
    assert done.returncode == -signal.SIGKILL
    assert spool.exists()
    # what is left may be delivered by whatever reaches the same store
    with BackgroundRecorder(connect(store_uri(store), "s"), spool=spool) as resumed:
        train(resumed, 40, 60)
        end_runs(resumed, Path(__file__))
        assert resumed.close() == 0, resumed.problems
    require_everything(store_uri(store), "s", 60)


@pytest.mark.parametrize("place", ["store", "server_url"])
def test_entries_that_are_delivered_twice_are_recorded_once(place, request, tmp_path):
    where = request.getfixturevalue(place)
    uri = where if place == "server_url" else store_uri(where)
    spool = tmp_path / "mlflow.spool"
    recorder = BackgroundRecorder(connect(uri, "twice"), spool=spool)
    open_runs(recorder)
    train(recorder, 0, 30)
    recorder.log_metrics("trial/1", {schema.METRIC_LEARNING_RATE_NOW: float("nan")})
    end_runs(recorder, Path(__file__))
    content = spool.read_bytes()
    assert recorder.close() == 0
    marks = b'{"done"'
    for kept in (content, content):  # killed before any mark was written, twice
        lines = [line for line in kept.splitlines(keepends=True) if not line.startswith(marks)]
        spool.write_bytes(b"".join(lines))
        again = BackgroundRecorder(connect(uri, "twice"), spool=spool)
        assert again.close() == 0, again.problems
    require_everything(uri, "twice", 30)
    assert len(connect(uri, "twice").read("trial/1").metrics["learning_rate_now"]) == 1


@pytest.fixture
def failing_server(request: pytest.FixtureRequest) -> Iterator[str]:
    """A server that is there, and answers every request with this status."""

    class Failing(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(request.param)

        def log_message(self, *_: object) -> None:
            """Keep the tests' output free of requests."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Failing) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("failing_server", "is_transient"),
    [
        (502, True),
        (503, True),
        (504, True),
        (429, True),
        (401, True),
        (500, False),
        (404, False),
        (413, False),
    ],
    indirect=["failing_server"],
)
def test_a_server_that_is_busy_or_half_up_is_tried_again(failing_server, is_transient):
    started = time.monotonic()
    with pytest.raises(TrackingError, match=f"^MLflow at {failing_server}") as caught:
        connect(failing_server, "s")
    assert caught.value.is_transient == is_transient
    assert time.monotonic() - started < 5


def test_a_server_that_closes_the_connection_is_tried_again(tmp_path):
    """It is there again by the time the reason of a failure is looked for."""

    class Closing(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/version":
                self.send_error(404)
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            """Keep the tests' output free of requests."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Closing) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        with pytest.raises(TrackingError, match="failed with exception") as caught:
            connect(f"http://127.0.0.1:{server.server_port}", "s")
        server.shutdown()
        thread.join()
    assert caught.value.is_transient


def test_a_file_whose_upload_breaks_off_is_tried_again(server_url, monkeypatch):
    recorder = connect(server_url, "breaks off")
    recorder.open_run("search", kind="search", name="Search")

    def break_off(*_: object) -> None:
        raise ConnectionResetError("Connection reset by peer")

    monkeypatch.setattr(recorder._client, "log_artifact", break_off)
    with pytest.raises(TrackingError, match="Connection reset by peer") as caught:
        recorder.log_file("search", Path(__file__))
    assert caught.value.is_transient


def test_a_file_that_a_proxy_refuses_for_good_holds_nothing_back(server_url, monkeypatch, tmp_path):
    inner = connect(server_url, "too large")
    refusal = requests.Response()
    refusal.status_code, refusal.reason = 413, "Content Too Large"

    def refuse(*_: object) -> None:
        refusal.raise_for_status()

    monkeypatch.setattr(inner._client, "log_artifact", refuse)
    recorder = BackgroundRecorder(inner, spool=tmp_path / "mlflow.spool", retry_seconds=0.01)
    recorder.open_run("search", kind="search", name="Search")
    recorder.log_file("search", Path(__file__))
    recorder.end_run("search", "finished")
    assert recorder.close(30) == 1
    assert any("413" in problem for problem in recorder.problems)
    assert inner.read("search").status == "finished"


def test_a_file_is_not_lost_to_a_server_that_dies(store, tmp_path):
    path = tmp_path / "weights.bin"
    path.write_bytes(bytes(1000))
    with running_server(store, port=0) as server:
        recorder = connect(server.url, "s")
        recorder.open_run("search", kind="search", name="Search")
        shutil.rmtree(store / "mlartifacts", ignore_errors=True)
        (store / "mlartifacts").write_text("in the way")
        with pytest.raises(TrackingError) as caught:
            recorder.log_file("search", path)
        assert not caught.value.is_transient
    with pytest.raises(TrackingError) as caught:
        recorder.log_file("search", path)
    assert caught.value.is_transient
