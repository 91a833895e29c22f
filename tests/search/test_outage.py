"""A search whose MLflow server is killed for the middle third of it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from samples import run_in_process, small_config

import search
from mlflow_server import RunRecorder, connect, running_server, schema
from search.config.training_config import TrainingConfig
from search.studies import session
from search.trials.artifacts import stored_curve
from search.trials.job_context import JobContext
from search.trials.jobs import Observer, Observers

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class Outage(Observer):
    """Kills the server at a third of the epochs and has it back at two thirds."""

    def __init__(self, store: Path, num_epochs: int) -> None:
        self._store, self._port, self._num_epochs = store, free_port(), num_epochs
        self.url = f"http://127.0.0.1:{self._port}"
        self._stack, self.epochs_heard = ExitStack(), 0
        self._starting: threading.Thread | None = None
        self._server = self._stack.enter_context(running_server(store, port=self._port))

    def epochs(self, job, records) -> None:
        self.epochs_heard += len(records)
        if self.epochs_heard == self._num_epochs // 3:
            os.killpg(self._server.process.pid, signal.SIGKILL)
        if self.epochs_heard == 2 * self._num_epochs // 3:
            self._starting = threading.Thread(target=self._start)
            self._starting.start()

    def _start(self) -> None:
        self._stack.enter_context(running_server(self._store, port=self._port))

    def close(self) -> None:
        if self._starting is not None:
            self._starting.join()
        self._stack.close()


@pytest.fixture
def seconds_recording(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long the search waited for each thing that it recorded."""
    taken: list[float] = []
    for name in ("open_run", "log_metrics", "set_tags", "log_file", "end_run"):
        original = getattr(RunRecorder, name)

        def timed(self, *arguments, original=original, **options) -> None:
            began = time.perf_counter()
            original(self, *arguments, **options)
            taken.append(time.perf_counter() - began)

        monkeypatch.setattr(RunRecorder, name, timed)
    return taken


def perform_with(observer: Observer):
    """What performs the jobs of a search in this process, heard by one more."""

    class Cluster:
        def __init__(self, context, data, share) -> None:
            self._context, self._data = context, data

        def __enter__(self):
            def perform_all(source, told) -> None:
                run_in_process(source, self._context, self._data, Observers([told, observer]))

            return perform_all

        def __exit__(self, *exception: object) -> None:
            """There is nothing to stop."""

    return Cluster


@pytest.fixture
def outage(empty_store: Path, tmp_path: Path) -> Iterator[Outage]:
    store = tmp_path / "store"
    shutil.copytree(empty_store, store)
    found = Outage(store, num_epochs=240)
    yield found
    found.close()


def test_it_is_not_slowed_down_and_every_metric_is_there(
    outage: Outage, tmp_path: Path, seconds_recording, monkeypatch: pytest.MonkeyPatch
):
    config = small_config(
        tmp_path,
        model="samples:small_network",
        budget=("flops=60%",),
        training=TrainingConfig(40, 20, 20, batch_size=32),
        ladder=(1.0,),
        profiles=1,
        mlflow_url=outage.url,
    )
    monkeypatch.setattr(session, "cluster", perform_with(outage))
    began = time.perf_counter()
    results = search.run(config).results
    total = time.perf_counter() - began
    assert outage.epochs_heard > 240  # so that the server was away for a third and came back
    assert sum(seconds_recording) < 0.1 * total
    assert max(seconds_recording) < 1.0

    recorder = connect(outage.url, config.name)
    context = JobContext(config, None, "cpu")  # type: ignore[arg-type]
    for outcome in results.everything:
        run = recorder.read(f"architecture/{outcome.key}")
        curve = stored_curve(context.directory / outcome.path)
        expected = tuple((record.step, record.train_loss) for record in curve)
        assert run.metrics[schema.METRIC_TRAIN_LOSS] == expected, outcome.key
        assert run.metrics[schema.of_score(schema.METRIC_TEST_SCORE)] == ((0, outcome.test_score),)
        assert run.status == "finished"
    parent = recorder.read("search")
    assert parent.status == "finished"
    assert {"results.json", "report.html", "front.png"} <= set(parent.files)
