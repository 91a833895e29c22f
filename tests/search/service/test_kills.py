"""kill -9 and Ctrl-C of everything that a search needs, in the middle of it.

Its own workers are killed in tests/search/test_killed.py.
"""

import json
import shutil
from pathlib import Path

import optuna
import psutil
import pytest
from mlflow import MlflowClient
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from serving import (
    STEPWISE,
    Service,
    eventually,
    mlflow_processes,
    search_processes,
    service,
)

from search.storage.layout import EVENTS_FILE, LOG_FILE
from search.tracking.event_file import EventFile

pytestmark = [
    pytest.mark.slow,
    # SQLAlchemy 2.1 deprecates what MLflow 3.17 uses while its tables are first imported.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
]


def trials(folder: Path, name: str) -> list[optuna.trial.FrozenTrial]:
    storage = JournalStorage(JournalFileBackend(str(folder / "study.journal")))
    return optuna.load_study(study_name=name, storage=storage).trials


def process_of(running: Service, search_id: str) -> psutil.Process:
    def found() -> list[psutil.Process]:
        return [each for each in search_processes(running.runs) if search_id in each.cmdline()]

    (process,) = eventually(found, what="the search has a process")
    return process


def kill_search(running: Service, search_id: str) -> None:
    """It is started again."""
    process_of(running, search_id).kill()
    eventually(
        lambda: running.search(search_id)["launches"] > 1, what="the search is started again"
    )


def kill_service(running: Service, search_id: str) -> None:
    """What it began goes on and is not started a second time; what helps it ends."""
    assert running.process is not None
    before, launches = process_of(running, search_id), running.search(search_id)["launches"]
    below = psutil.Process(running.process.pid).children()
    (worker,) = (child for child in below if "multiprocessing.spawn" in " ".join(child.cmdline()))
    running.kill()
    eventually(lambda: not worker.is_running(), 30, "the worker ends with its service")
    running.start()
    running.get_on(search_id, 1)
    assert process_of(running, search_id).pid == before.pid
    assert running.search(search_id)["launches"] == launches


def kill_mlflow(running: Service, _: str) -> None:
    found = mlflow_processes(running.runs, running.mlflow_port)
    assert found
    for process in found:
        process.kill()


def end_service(running: Service, search_id: str) -> None:
    """As Ctrl-C does: its searches end with it, and go on with the next service."""
    log = running.runs.parent / "service.log"
    before, done = len(log.read_text()), running.epochs(search_id)
    running.stop()
    assert search_processes(running.runs) == []
    assert mlflow_processes(running.runs, running.mlflow_port) == []
    assert "Traceback" not in log.read_text()[before:]
    running.start()
    assert running.search(search_id)["state"] == "running"
    assert running.epochs(search_id) >= done - 1


def stop_search(running: Service, search_id: str) -> None:
    """It ends in good order, and waits to be resumed."""
    process = process_of(running, search_id)
    assert running.ask("POST", f"/v1/searches/{search_id}/stop")["is_stopping"]
    running.wait_for(search_id, "stopped", 60)
    assert not process.is_running()
    *_, last = EventFile(running.runs / search_id / EVENTS_FILE).read()
    assert last["event"] == "interrupted"
    printed = (running.runs / search_id / LOG_FILE).read_text()
    assert "Stopped. What was finished is kept" in printed
    running.ask("POST", f"/v1/searches/{search_id}/resume")


def test_every_search_ends_finished_each_once_none_lost(tmp_path: Path, empty_store: Path) -> None:
    """One is at work whatever ends: its process, the service, MLflow; one is in the queue.

    It stands still in the middle of an epoch meanwhile, so that nothing depends on the time.
    """
    shutil.copytree(empty_store, tmp_path / "runs")
    allowed = ("--builder", "stepwise:Stepwise")
    with service(tmp_path, *allowed) as running:
        running.hold()
        at_work = running.launch(**STEPWISE, name="killed")
        waiting = running.launch(**{**STEPWISE, "trials": 1}, name="queued")
        eventually(lambda: running.search(at_work)["state"] == "running", 300, "it begins")
        for interrupt in (kill_search, kill_service, end_service, kill_mlflow):
            running.get_on(at_work, 1)
            assert running.search(at_work)["state"] == "running"
            interrupt(running, at_work)
        running.get_on(at_work, 1)
        eventually(running.is_ready, what="MLflow is back")
        stop_search(running, at_work)
        running.release()
        for search_id in (at_work, waiting):
            running.wait_for(search_id, "finished")
        listed = running.ask("GET", "/v1/searches")["items"]
        assert sorted(item["id"] for item in listed) == [at_work, waiting]
        check_each_once(running, at_work, STEPWISE["trials"])
        check_each_once(running, waiting, 1)


def check_each_once(running: Service, search_id: str, num_trials: int) -> None:
    folder = running.runs / search_id
    found = trials(folder, search_id)
    assert len(found) == num_trials
    assert all(trial.state.is_finished() for trial in found)
    assert len({str(trial.params) for trial in found}) == num_trials
    results = json.loads((folder / "results.json").read_text())
    keys = [outcome["key"] for outcome in [results["base_network"], *results["everything"]]]
    assert len(keys) == len(set(keys)) >= num_trials + 1
    shown = running.ask("GET", f"/v1/searches/{search_id}/architectures")["items"]
    assert sorted(item["key"] for item in shown) == sorted(keys)
    client = MlflowClient(tracking_uri=f"http://127.0.0.1:{running.mlflow_port}")
    experiment = client.get_experiment_by_name(search_id)
    assert experiment is not None
    runs = client.search_runs(
        [experiment.experiment_id], "tags.`espalier.kind` = 'architecture'", max_results=100
    )
    assert sorted(run.info.run_name for run in runs) == sorted(keys)
    assert all(run.info.status == "FINISHED" for run in runs)
