"""A service with tokens, as others on its machine meet it, and one search by it.

Network, data and task of the search are its operator's own.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import fused_problems
import httpx
import psutil
import pytest
import samples
from mlflow import MlflowClient
from serving import ANSWER_SECONDS, SETTINGS, Service, eventually, service
from sqlalchemy import Engine

from mlflow_server import schema
from mlflow_server.credentials_file import PASSWORD, USER
from mlflow_server.views import view_links
from search.service.access.audit_log import AUDIT_FILE
from search.service.access.tokens import create, revoke
from search.service.database.connection import open_service_database
from search.service.mlflow.credentials import CREDENTIALS_FILE, PASSWORD_FILE
from search.service.queue.webhooks import SIGNATURE_HEADER
from search.service.service_config import WEBHOOK_SECRET_VARIABLE, ServiceConfig

pytestmark = [
    pytest.mark.slow,
    # SQLAlchemy 2.1 deprecates what MLflow 3.17 uses while its tables are first imported.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
]

STORES = {
    *(AUDIT_FILE, "service.db", "mlflow.db", "basic_auth.db", "mlflow-auth.key"),
    *(PASSWORD_FILE, CREDENTIALS_FILE),
}

NETWORK, DATA, TASK = (f"fused_problems:{name}" for name in ("one_number", "numbers", "ByStep"))
REGRESSION = {
    **SETTINGS,
    "name": "guarded",
    "model": NETWORK,
    "data": {"source": DATA},
    "task": TASK,
    "criterion": ["taylor"],
    "budget": ["flops=80%"],
    "trials": 1,
    "training": {"epochs": 2, "fine_tune_epochs": 2, "scratch_epochs": 2, "batch_size": 16},
}

PUBLIC = "https://mlflow.example/of/us"


@contextmanager
def receiver() -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    """The address of a program that is told things, and what it was: signature and body."""
    told: list[tuple[str, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            told.append((self.headers[SIGNATURE_HEADER], self.rfile.read(length)))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/hook", told
        finally:
            server.shutdown()
            thread.join()


@dataclass(frozen=True)
class Guarded:
    """A service, a way to it with the token of `ann`, and what its webhook was told."""

    running: Service
    engine: Engine
    token: str
    client: httpx.Client
    told: list[tuple[str, bytes]]

    def got(self, path: str) -> httpx.Response:
        answer = self.client.get(f"/v1/{path}")
        assert answer.is_success, answer.text
        return answer


def headers_of(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """One whose search `guarded` is finished."""
    folder = tmp_path_factory.mktemp("guarded")
    for module in (fused_problems, samples):
        shutil.copy(str(module.__file__), folder)
    engine = open_service_database(ServiceConfig(runs=str(folder / "runs")), may_be_new=True)
    token = create(engine, "ann", "writer")
    allowed = ("--builder", NETWORK, "--builder", DATA, "--task", TASK)
    with pytest.MonkeyPatch.context() as patch, receiver() as (hook, told):
        patch.setenv(WEBHOOK_SECRET_VARIABLE, "s3cret")
        options = (*allowed, "--mlflow-public-url", PUBLIC, "--webhook", hook)
        with (
            service(folder, *options) as running,
            httpx.Client(
                base_url=running.url, headers=headers_of(token), timeout=ANSWER_SECONDS
            ) as client,
        ):
            answer = client.post("/v1/searches", json=REGRESSION)
            assert answer.status_code == 201, answer.text

            def is_over() -> bool:
                found = client.get("/v1/searches/guarded").json()
                assert found["state"] != "failed", found["reason"]
                return bool(found["state"] == "finished")

            eventually(is_over, 300, "the search is finished")
            yield Guarded(running, engine, token, client, told)
    engine.dispose()


def test_nobody_gets_past_the_tokens_of_a_service(guarded: Guarded) -> None:
    """Not through MLflow, not with what processes or files show; and searches are recorded.

    Programs are told of their end, people of MLflow's public address.
    """
    running, client, runs = guarded.running, guarded.client, guarded.running.runs
    mlflow = f"http://127.0.0.1:{running.mlflow_port}"
    assert httpx.get(f"{running.url}/healthz").json()["mlflow_url"] == ""
    assert client.get("/healthz").json()["mlflow_url"] == PUBLIC
    for path in ("/", "/api/2.0/mlflow/experiments/search?max_results=1"):
        assert httpx.get(mlflow + path, timeout=ANSWER_SECONDS).status_code == 401
    (first, *_) = guarded.got("searches/guarded/front").json()["items"]
    run = client.get(first["links"]["run"], headers={"accept": "application/json"})
    assert run.json()["url"].startswith(f"{PUBLIC}/#/experiments/")
    eventually(lambda: guarded.told, 30, "the webhook is told")
    ((signature, body),) = guarded.told
    assert signature == f"sha256={hmac.new(b's3cret', body, hashlib.sha256).hexdigest()}"
    found = json.loads(body)
    assert (found["event"], found["search"]["id"]) == ("finished", "guarded")
    lines = [json.loads(line) for line in (runs / AUDIT_FILE).read_text().splitlines()]
    assert [line["who"] for line in lines if line["method"] == "POST"] == ["ann"]
    password = (runs / PASSWORD_FILE).read_text()
    shown = json.dumps([p.info["cmdline"] for p in psutil.process_iter(["cmdline"])])
    assert password not in shown
    assert guarded.token not in shown
    modes = {name: (runs / name).stat().st_mode & 0o777 for name in STORES}
    assert modes == dict.fromkeys(STORES, 0o600)
    bob = headers_of(create(guarded.engine, "bob", "reader"))
    eventually(lambda: client.get("/v1/searches", headers=bob).is_success, 5, "bob is in")
    revoke(guarded.engine, "bob")
    eventually(lambda: client.get("/v1/searches", headers=bob).status_code == 401, 5, "bob is out")


def test_only_what_the_operator_allows_is_learned_and_shown_by_its_own_score(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, runs = guarded.client, guarded.running.runs
    for other in ({"task": "fused_problems:ByLoop"}, {"task": "os:system"}):
        answer = client.post("/v1/searches", json=REGRESSION | other)
        assert (answer.status_code, answer.json()["field"]) == (422, "task")
    told: dict[str, Any] = client.post("/v1/preflight", json=REGRESSION).json()
    assert told["base"]["flops"] > 0

    page = guarded.got("searches/guarded/architectures").json()
    assert page["score"]["name"] == "R²"
    base, *others = page["items"]
    assert base["origin"] == "base"
    assert {item["origin"] for item in others} >= {"fine-tuned", "uniform"}
    assert all(item["flops"] <= 0.8 * base["flops"] for item in others)
    verdict = guarded.got("searches/guarded/verdict").json()
    assert verdict["lines"][0].startswith("Take ")
    assert "R² " in verdict["lines"][0]
    assert "accuracy" not in guarded.got("searches/guarded/report").text.lower()
    for export in ("python", "onnx", "weights", "folder"):
        guarded.got(f"architectures/guarded:{others[0]['key']}/{export}")

    monkeypatch.setenv(USER, "admin")
    monkeypatch.setenv(PASSWORD, (runs / PASSWORD_FILE).read_text().strip())
    uri = f"http://127.0.0.1:{guarded.running.mlflow_port}"
    recorded = MlflowClient(tracking_uri=uri)
    experiment = recorded.get_experiment_by_name("guarded")
    assert experiment is not None
    filters = f"tags.`{schema.TAG_SCORE}` = 'R²'"
    assert len(recorded.search_runs([experiment.experiment_id], filters)) == 1
    assert view_links(uri, "guarded").num_architectures == 1 + len(others)
