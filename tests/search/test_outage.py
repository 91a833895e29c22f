"""A search whose MLflow server is killed for the middle third of it."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest
from ports import free_port
from samples import run_in_process, small_config

import search
from mlflow_server import connect, running_server, schema
from mlflow_server.tracking import MlflowRecorder
from search.config.training_config import TrainingConfig
from search.studies import session
from search.trials.artifacts import stored_curve
from search.trials.job_context import JobContext
from search.trials.jobs import Observer, Observers

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
]


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
def writing_threads(monkeypatch: pytest.MonkeyPatch) -> set[threading.Thread]:
    """Those that wrote to MLflow."""
    threads: set[threading.Thread] = set()
    for name in ("write", "write_metrics"):
        original = getattr(MlflowRecorder, name)

        def noted(self, *arguments, original=original) -> None:
            threads.add(threading.current_thread())
            original(self, *arguments)

        monkeypatch.setattr(MlflowRecorder, name, noted)
    return threads


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
    found = Outage(store, num_epochs=120)
    yield found
    found.close()


def test_it_is_not_slowed_down_and_every_metric_is_there(
    outage: Outage,
    tmp_path: Path,
    writing_threads: set[threading.Thread],
    monkeypatch: pytest.MonkeyPatch,
):
    """Whoever writes to MLflow may wait for it: that is another thread than the search's."""
    config = small_config(
        tmp_path,
        model="samples:small_network",
        budget=("flops=60%",),
        training=TrainingConfig(20, 10, 10, batch_size=32),
        ladder=(1.0,),
        profiles=1,
        mlflow_url=outage.url,
    )
    executor = SimpleNamespace(cluster=perform_with(outage))
    monkeypatch.setattr(session, "ray_executor", executor)
    results = search.run(config).results
    assert outage.epochs_heard > 120  # so that the server was away for a third and came back
    assert writing_threads
    assert threading.current_thread() not in writing_threads

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
