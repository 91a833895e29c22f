"""kill -9 of everything that a search needs, in the middle of it."""

import json
from pathlib import Path
from typing import Any

import httpx
import optuna
import psutil
import pytest
from mlflow import MlflowClient
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from serving import Service, eventually, mlflow_processes, search_processes, service

from search.storage.layout import EVENTS_FILE, LOG_FILE
from search.tracking.search_state import EventFile

pytestmark = pytest.mark.slow

LONGER: dict[str, Any] = {
    "trials": 8,
    "training": {"epochs": 20, "fine_tune_epochs": 10, "scratch_epochs": 10, "batch_size": 32},
}
"""Still running when a service that was killed is up again, on a fast machine too."""


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


def test_every_search_ends_finished_each_once_none_lost(tmp_path: Path) -> None:
    with service(tmp_path) as running:
        searches = [running.launch(name=f"killed-{number}", **LONGER) for number in range(2)]
        for search_id in searches:
            eventually(
                lambda search_id=search_id: running.search(search_id)["state"] == "running",
                300,
                f"{search_id} begins",
            )
            for kill in (kill_search, kill_service, kill_mlflow):
                running.get_on(search_id, 2)
                assert running.search(search_id)["state"] == "running"
                kill(running, search_id)
            running.wait_for(search_id, "finished")
        listed = httpx.get(f"{running.url}/v1/searches").json()
        assert [(item["id"], item["state"]) for item in listed["items"]] == [
            ("killed-1", "finished"),
            ("killed-0", "finished"),
        ]
        eventually(lambda: httpx.get(f"{running.url}/readyz").is_success, what="MLflow is back")
        for search_id in searches:
            check_each_once(running, search_id)


def check_each_once(running: Service, search_id: str) -> None:
    folder = running.runs / search_id
    found = trials(folder, search_id)
    assert len(found) == LONGER["trials"]
    assert all(trial.state.is_finished() for trial in found)
    assert len({str(trial.params) for trial in found}) == LONGER["trials"]
    results = json.loads((folder / "results.json").read_text())
    keys = [outcome["key"] for outcome in [results["base_network"], *results["everything"]]]
    assert len(keys) == len(set(keys)) >= 4
    shown = httpx.get(f"{running.url}/v1/searches/{search_id}/architectures").json()["items"]
    assert sorted(item["key"] for item in shown) == sorted(keys)
    client = MlflowClient(tracking_uri=f"http://127.0.0.1:{running.mlflow_port}")
    experiment = client.get_experiment_by_name(search_id)
    assert experiment is not None
    runs = client.search_runs(
        [experiment.experiment_id], "tags.`espalier.kind` = 'architecture'", max_results=100
    )
    assert sorted(run.info.run_name for run in runs) == sorted(keys)
    assert all(run.info.status == "FINISHED" for run in runs)


def test_a_search_that_runs_is_not_started_a_second_time(tmp_path: Path) -> None:
    with service(tmp_path) as running:
        search_id = running.launch(name="one", **LONGER)
        running.get_on(search_id, 1)
        (process,) = search_processes(running.runs)
        running.kill()
        running.start()
        running.get_on(search_id, 1)
        assert [found.pid for found in search_processes(running.runs)] == [process.pid]
        assert running.search(search_id)["launches"] == 1
        answer = httpx.post(f"{running.url}/v1/searches/{search_id}/stop")
        assert answer.json()["is_stopping"]
        running.wait_for(search_id, "stopped", 60)
        assert search_processes(running.runs) == []
        *_, last = EventFile(running.runs / search_id / EVENTS_FILE).read()
        assert last["event"] == "interrupted"
        said = (running.runs / search_id / LOG_FILE).read_text()
        assert "Stopped. What was finished is kept" in said
        httpx.post(f"{running.url}/v1/searches/{search_id}/resume").raise_for_status()
        running.wait_for(search_id, "finished")


def test_ctrl_c_ends_the_searches_which_go_on_with_the_next_service(tmp_path: Path) -> None:
    with service(tmp_path) as running:
        search_id = running.launch(name="one", **LONGER)
        running.get_on(search_id, 2)
        done = running.epochs(search_id)
        running.stop()
        assert search_processes(running.runs) == []
        assert mlflow_processes(running.runs, running.mlflow_port) == []
        assert "Traceback" not in (tmp_path / "service.log").read_text()
        running.start()
        assert running.search(search_id)["state"] == "running"
        assert running.epochs(search_id) >= done - 1
        running.wait_for(search_id, "finished")
