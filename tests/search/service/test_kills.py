"""kill -9 of everything that a search needs, in the middle of it."""

import json
from collections.abc import Iterator
from pathlib import Path

import optuna
import psutil
import pytest
from mlflow import MlflowClient
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from serving import STEPWISE, Service, eventually, mlflow_processes, search_processes, service

from search.storage.layout import EVENTS_FILE, LOG_FILE
from search.tracking.search_state import EventFile

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with service(tmp_path_factory.mktemp("served"), "--builder", "stepwise:Stepwise") as running:
        yield running


@pytest.fixture
def running(started: Service) -> Service:
    """A service whose searches stand still for now."""
    if not started.is_alive:  # an earlier test ended where it was killed
        started.start()
    started.hold()
    return started


def trials(folder: Path, name: str) -> list[optuna.trial.FrozenTrial]:
    storage = JournalStorage(JournalFileBackend(str(folder / "study.journal")))
    return optuna.load_study(study_name=name, storage=storage).trials


def kill_search(running: Service, search_id: str) -> None:
    eventually(lambda: search_processes(running.runs), what="the search has a process")
    for process in search_processes(running.runs):
        process.kill()
    eventually(
        lambda: running.search(search_id)["launches"] > 1, what="the search is started again"
    )


def kill_service(running: Service, _: str) -> None:
    assert running.process is not None
    below = psutil.Process(running.process.pid).children()
    (worker,) = (child for child in below if "multiprocessing.spawn" in " ".join(child.cmdline()))
    running.kill()
    eventually(lambda: not worker.is_running(), 30, "the worker ends with its service")
    running.start()


def kill_mlflow(running: Service, _: str) -> None:
    found = mlflow_processes(running.runs, running.mlflow_port)
    assert found
    for process in found:
        process.kill()


def test_every_search_ends_finished_each_once_none_lost(running: Service) -> None:
    """One is at work while its process, the service and MLflow are killed; one is in the queue."""
    names = ("killed-0", "killed-1")
    searches = [running.launch(**STEPWISE, name=name) for name in names]
    at_work, _ = searches
    eventually(lambda: running.search(at_work)["state"] == "running", 300, f"{at_work} begins")
    for kill in (kill_search, kill_service, kill_mlflow):
        running.get_on(at_work, 2)
        assert running.search(at_work)["state"] == "running"
        kill(running, at_work)
    running.get_on(at_work, 1)
    running.release()
    for search_id in searches:
        running.wait_for(search_id, "finished")
    listed = running.ask("GET", "/v1/searches")
    assert [(item["id"], item["state"]) for item in listed["items"] if item["id"] in names] == [
        ("killed-1", "finished"),
        ("killed-0", "finished"),
    ]
    eventually(running.is_ready, what="MLflow is back")
    for search_id in searches:
        check_each_once(running, search_id)


def check_each_once(running: Service, search_id: str) -> None:
    folder = running.runs / search_id
    found = trials(folder, search_id)
    assert len(found) == STEPWISE["trials"]
    assert all(trial.state.is_finished() for trial in found)
    assert len({str(trial.params) for trial in found}) == STEPWISE["trials"]
    results = json.loads((folder / "results.json").read_text())
    keys = [outcome["key"] for outcome in [results["base_network"], *results["everything"]]]
    assert len(keys) == len(set(keys)) >= 4
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


def test_a_search_that_runs_is_not_started_a_second_time(running: Service) -> None:
    search_id = running.launch(**STEPWISE, name="one")
    running.get_on(search_id, 1)
    (process,) = search_processes(running.runs)
    running.kill()
    running.start()
    running.get_on(search_id, 1)
    assert [found.pid for found in search_processes(running.runs)] == [process.pid]
    assert running.search(search_id)["launches"] == 1
    assert running.ask("POST", f"/v1/searches/{search_id}/stop")["is_stopping"]
    running.wait_for(search_id, "stopped", 60)
    assert search_processes(running.runs) == []
    *_, last = EventFile(running.runs / search_id / EVENTS_FILE).read()
    assert last["event"] == "interrupted"
    said = (running.runs / search_id / LOG_FILE).read_text()
    assert "Stopped. What was finished is kept" in said
    running.release()
    running.ask("POST", f"/v1/searches/{search_id}/resume")
    running.wait_for(search_id, "finished")


def test_ctrl_c_ends_the_searches_which_go_on_with_the_next_service(running: Service) -> None:
    log = running.runs.parent / "service.log"
    before = len(log.read_text())
    search_id = running.launch(**STEPWISE, name="another")
    running.get_on(search_id, 2)
    done = running.epochs(search_id)
    running.stop()
    assert search_processes(running.runs) == []
    assert mlflow_processes(running.runs, running.mlflow_port) == []
    assert "Traceback" not in log.read_text()[before:]
    running.start()
    assert running.search(search_id)["state"] == "running"
    assert running.epochs(search_id) >= done - 1
    running.release()
    running.wait_for(search_id, "finished")
