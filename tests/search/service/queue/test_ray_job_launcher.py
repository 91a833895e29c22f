"""Searches as jobs of a real Ray cluster of two nodes on this machine."""

import json
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from ports import free_port
from serving import ANSWER_SECONDS, STEPWISE, eventually, service

from mlflow_server.credentials_file import CREDENTIALS_VARIABLE, PASSWORD, USER
from pruning.errors import ServiceError
from search.scheduling.ray_environment import cluster_token
from search.service.mlflow.connection import MlflowConnection
from search.service.mlflow.credentials import MlflowCredentials
from search.service.queue.launcher import ProcessExit
from search.service.queue.ray_job_launcher import RayJobsLauncher
from search.service.server import environment_of_searches
from search.service.service_config import ServiceConfig
from search.storage.layout import LOG_FILE, SETTINGS_FILES, StudyKind

ADDRESS = "http://jobs.test:8265"


class JobServer:
    """Answers as the job server of a cluster does."""

    def __init__(self) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.logs = ""
        self.stopped: list[str] = []
        self.trouble = ""
        self.token = ""

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            return httpx.Response(403 if "Authorization" in request.headers else 401)
        if self.trouble:
            return httpx.Response(500, text=f"Traceback:\n  File\n{self.trouble}\n")
        return self._answer(request)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/api/jobs/")
        if request.method == "POST" and not path:
            job = json.loads(request.content)
            self.jobs[job["submission_id"]] = {**job, "status": "PENDING"}
            return httpx.Response(200, json={"submission_id": job["submission_id"]})
        if not path:
            return httpx.Response(200, json=[])
        submission, _, verb = path.partition("/")
        if submission not in self.jobs:
            return httpx.Response(404, text="no such job")
        if verb == "logs":
            return httpx.Response(200, json={"logs": self.logs})
        if verb == "stop":
            self.stopped.append(submission)
            return httpx.Response(200, json={"stopped": True})
        return httpx.Response(200, json=self.jobs[submission])


@pytest.fixture
def jobs() -> JobServer:
    return JobServer()


@pytest.fixture(autouse=True)
def answered(jobs: JobServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked of ADDRESS is answered by `jobs`."""
    client = httpx.Client
    monkeypatch.setattr(
        "search.service.queue.ray_job_launcher.httpx.Client",
        lambda **given: client(**given, mounts={ADDRESS: httpx.MockTransport(jobs)}),
    )


@pytest.fixture
def launcher(tmp_path: Path) -> RayJobsLauncher:
    return RayJobsLauncher(ADDRESS, tmp_path / "my runs", "http://mlflow:5000")


def test_a_job_resumes_the_search_and_is_submitted_once(
    launcher: RayJobsLauncher, jobs: JobServer, tmp_path: Path
) -> None:
    handle = launcher.launch("s", 1)
    assert launcher.launch("s", 1) == handle  # after a service that was killed in between
    assert len(jobs.jobs) == 1
    runs = tmp_path / "my runs"
    assert jobs.jobs[handle]["entrypoint"] == (
        f"exec python -m search.cli resume s --runs '{runs}' --mlflow-url http://mlflow:5000 "
        "--ray-address auto"
    )
    assert launcher.launch("s", 2) != handle


@pytest.mark.parametrize(("kind", "is_alone"), [("family", False), ("correlation", True)])
def test_what_works_in_one_process_joins_no_cluster(
    launcher: RayJobsLauncher, jobs: JobServer, tmp_path: Path, kind: StudyKind, is_alone: bool
) -> None:
    (tmp_path / "my runs" / "s").mkdir(parents=True)
    (tmp_path / "my runs" / "s" / SETTINGS_FILES[kind]).write_text("{}")
    entrypoint = jobs.jobs[launcher.launch("s", 1)]["entrypoint"]
    assert ("--ray-address auto" in entrypoint) is not is_alone


def test_no_password_is_among_what_a_cluster_shows(
    jobs: JobServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(USER, "ann")
    monkeypatch.setenv(PASSWORD, "not for others")
    config = ServiceConfig(runs=str(tmp_path), mlflow_url="http://mlflow:5000")
    mlflow = MlflowConnection(config.mlflow_url, "", MlflowCredentials.from_environment())
    environment = environment_of_searches(config, mlflow)
    launcher = RayJobsLauncher(ADDRESS, tmp_path, mlflow.url, environment=environment)
    job = jobs.jobs[launcher.launch("s", 1)]
    assert "not for others" not in json.dumps(job)
    assert mlflow.credentials is not None
    mlflow.credentials.keep_for_searches(tmp_path)
    file = Path(job["runtime_env"]["env_vars"][CREDENTIALS_VARIABLE])
    assert file.parent == tmp_path
    assert file.stat().st_mode & 0o777 == 0o600
    assert json.loads(file.read_text()) == {USER: "ann", PASSWORD: "not for others"}


def test_a_job_that_is_over_says_how(launcher: RayJobsLauncher, jobs: JobServer) -> None:
    handle = launcher.launch("s", 1)
    for status in ("PENDING", "RUNNING"):
        jobs.jobs[handle]["status"] = status
        assert launcher.poll(handle) is None
    jobs.jobs[handle]["status"] = "FAILED"
    jobs.logs = "base network 2M\nespalier: all 2 trials failed\n"
    assert launcher.poll(handle) == ProcessExit("its job is failed", "all 2 trials failed")
    jobs.logs = "Killed\n"
    assert launcher.poll(handle) == ProcessExit("its job is failed", "")
    assert launcher.poll("another") == ProcessExit("the cluster knows its job no more")


def test_stopping_a_job(launcher: RayJobsLauncher, jobs: JobServer) -> None:
    handle = launcher.launch("s", 1)
    launcher.interrupt(handle)
    launcher.interrupt("unknown")
    assert jobs.stopped == [handle]


def test_a_job_server_in_trouble_is_told_in_one_line(
    launcher: RayJobsLauncher, jobs: JobServer
) -> None:
    jobs.trouble = "No available agent"
    with pytest.raises(ServiceError) as caught:
        launcher.launch("s", 1)
    assert str(caught.value) == (
        f"the Ray job server at {ADDRESS} fails: status 500: No available agent"
    )


@pytest.mark.parametrize("given", ["", "another"])
def test_a_job_server_that_refuses_the_token_is_told_in_one_line(
    jobs: JobServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    jobs.token = "of the cluster"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.setenv("RAY_AUTH_TOKEN", given)
    with pytest.raises(ServiceError) as caught:
        RayJobsLauncher(ADDRESS, tmp_path, "")
    assert str(caught.value) == (
        f"the Ray job server at {ADDRESS} refuses this token, or asks for one: give the cluster's, "
        "which is looked for in RAY_AUTH_TOKEN, in the file of RAY_AUTH_TOKEN_PATH and in "
        "~/.ray/auth_token"
    )
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of the cluster")
    RayJobsLauncher(ADDRESS, tmp_path, "")


def test_a_job_server_that_does_not_answer_is_told_in_one_line(tmp_path: Path) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(ServiceError, match=f"the Ray job server at {address} fails") as caught:
        RayJobsLauncher(address, tmp_path, "")
    assert "\n" not in str(caught.value)
    with pytest.raises(ServiceError):
        RayJobsLauncher("nonsense", tmp_path, "")


@pytest.fixture
def two_nodes() -> Iterator[tuple[str, Any]]:
    """The address of the job server, and a function that kills the second node and adds another."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own
        from ray.cluster_utils import Cluster  # noqa: PLC0415 - takes seconds

        port = free_port()
        head = {
            "num_cpus": 1,
            "include_dashboard": True,
            "dashboard_host": "127.0.0.1",
            "dashboard_port": port,
            # the default is one for all: a Ray that runs beside this one may have it
            "dashboard_agent_listen_port": free_port(),
        }
        cluster = Cluster(initialize_head=True, connect=False, head_node_args=head)

        def add() -> Any:
            return cluster.add_node(num_cpus=1, dashboard_agent_listen_port=free_port())

        nodes = [add()]

        def replace() -> None:
            cluster.remove_node(nodes.pop(), allow_graceful=False)
            time.sleep(1)
            nodes.append(add())

        try:
            yield f"http://127.0.0.1:{port}", replace
        finally:
            cluster.shutdown()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_node_that_dies_twice_in_a_search_loses_nothing(
    two_nodes: tuple[str, Any], tmp_path: Path
) -> None:
    address, kill_node = two_nodes
    further = ("--ray-address", address, "--ray-python", sys.executable)
    with service(tmp_path, *further, "--builder", "stepwise:Stepwise") as running:
        running.hold()
        settings = {**STEPWISE, "concurrency": 2, "trials": 4}
        search_id = running.launch(**settings, name="on-a-cluster")
        for _ in range(2):
            running.get_on(search_id, 4)
            assert running.search(search_id)["state"] == "running"
            kill_node()
        running.release()
        found = running.wait_for(search_id, "finished")
        assert found["progress"]["trials"]["finished"] == 4
        assert not (running.runs / search_id / LOG_FILE).exists()  # it is no process of ours
        # a Ray that was started by an earlier test has left a token to this process
        token = cluster_token()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        running.hold()
        again = running.launch(**STEPWISE, name="stopped")
        running.get_on(again, 1)
        running.ask("POST", f"/v1/searches/{again}/stop")
        running.wait_for(again, "stopped")
        with httpx.Client(base_url=address, headers=headers, timeout=ANSWER_SECONDS) as cluster:
            jobs = cluster.get("/api/jobs/").json()
            ours = [job for job in jobs if job["metadata"].get("espalier.search") == search_id]
            assert len(ours) == found["launches"]
            assert ours[0]["status"] == "SUCCEEDED"
            eventually(
                lambda: all(
                    job["status"] in ("STOPPED", "SUCCEEDED")
                    for job in cluster.get("/api/jobs/").json()
                ),
                what="the job has ended",
            )
