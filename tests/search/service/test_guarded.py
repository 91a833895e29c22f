"""A service with tokens, and all that belongs to it, as others on its machine meet it."""

import hashlib
import hmac
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import httpx
import psutil
import pytest
from serving import ANSWER_SECONDS, SETTINGS, eventually, service

from search.service.access.audit_log import AUDIT_FILE
from search.service.access.tokens import create, revoke
from search.service.database.connection import open_service_database
from search.service.mlflow.credentials import CREDENTIALS_FILE, PASSWORD_FILE
from search.service.queue.webhooks import SIGNATURE_HEADER
from search.service.service_config import WEBHOOK_SECRET_VARIABLE, ServiceConfig

pytestmark = pytest.mark.slow

STORES = {
    *(AUDIT_FILE, "service.db", "mlflow.db", "basic_auth.db", "mlflow-auth.key"),
    *(PASSWORD_FILE, CREDENTIALS_FILE),
}

SHORT = {
    **SETTINGS,
    "name": "guarded",
    "trials": 1,
    "training": {"epochs": 1, "fine_tune_epochs": 1, "scratch_epochs": 1, "batch_size": 32},
    "study": {"tempered_trials": 0, "by_products": 0},
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


def test_nobody_gets_past_the_tokens_of_a_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not through MLflow, not with what processes or files show; and searches are recorded.

    Programs are told of their end, people of MLflow's public address.
    """
    monkeypatch.setenv(WEBHOOK_SECRET_VARIABLE, "s3cret")
    runs = tmp_path / "runs"
    engine = open_service_database(ServiceConfig(runs=str(runs)), may_be_new=True)
    token = create(engine, "ann", "writer")
    headers = {"Authorization": f"Bearer {token}"}
    options = ("--mlflow-public-url", PUBLIC, "--webhook")
    with (
        receiver() as (hook, told),
        service(tmp_path, *options, hook) as running,
        httpx.Client(base_url=running.url, timeout=ANSWER_SECONDS) as client,
    ):
        mlflow = f"http://127.0.0.1:{running.mlflow_port}"
        assert client.get("/healthz").json()["mlflow_url"] == ""
        assert client.get("/healthz", headers=headers).json()["mlflow_url"] == PUBLIC
        for path in ("/", "/api/2.0/mlflow/experiments/search?max_results=1"):
            assert httpx.get(mlflow + path, timeout=ANSWER_SECONDS).status_code == 401
        client.headers.update(headers)
        answer = client.post("/v1/searches", json=SHORT, timeout=60)
        assert answer.status_code == 201, answer.text

        def is_over() -> bool:
            found = client.get("/v1/searches/guarded").json()
            assert found["state"] != "failed", found["reason"]
            return bool(found["state"] == "finished")

        eventually(is_over, 300, "the search is finished")
        (first, *_) = client.get("/v1/searches/guarded/front").json()["items"]
        run = client.get(first["links"]["run"], headers={"accept": "application/json"})
        assert run.json()["url"].startswith(f"{PUBLIC}/#/experiments/")
        eventually(lambda: told, 30, "the webhook is told")
        ((signature, body),) = told
        assert signature == f"sha256={hmac.new(b's3cret', body, hashlib.sha256).hexdigest()}"
        found = json.loads(body)
        assert (found["event"], found["search"]["id"]) == ("finished", "guarded")
        lines = [json.loads(line) for line in (runs / AUDIT_FILE).read_text().splitlines()]
        launches = [line["who"] for line in lines if line["method"] == "POST"]
        assert launches == ["ann"]
        password = (runs / PASSWORD_FILE).read_text()
        shown = json.dumps([p.info["cmdline"] for p in psutil.process_iter(["cmdline"])])
        assert password not in shown
        assert token not in shown
        modes = {name: (runs / name).stat().st_mode & 0o777 for name in STORES}
        assert modes == dict.fromkeys(STORES, 0o600)
        revoke(engine, "ann")
        eventually(lambda: client.get("/v1/searches").status_code == 401, 5, "ann is out")
    engine.dispose()
