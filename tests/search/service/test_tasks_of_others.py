"""A real service with a network, data and a task of its operator's own: the whole way."""

from __future__ import annotations

import shutil
from pathlib import Path

import fused_problems
import httpx
import pytest
from mlflow import MlflowClient
from serving import ANSWER_SECONDS, SETTINGS, Service, service

from mlflow_server import schema
from mlflow_server.views import view_links

pytestmark = [
    pytest.mark.slow,
    # SQLAlchemy 2.1 deprecates what MLflow 3.17 uses while its tables are first imported.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
]

NETWORK, DATA, TASK = (f"fused_problems:{name}" for name in ("one_number", "numbers", "ByStep"))
REGRESSION = {
    **SETTINGS,
    "name": "numbers",
    "model": NETWORK,
    "data": {"source": DATA},
    "task": TASK,
    "criterion": ["taylor"],
    "budget": ["flops=80%"],
    "trials": 1,
    "training": {"epochs": 2, "fine_tune_epochs": 2, "scratch_epochs": 2, "batch_size": 16},
}


def got(running: Service, path: str) -> httpx.Response:
    return httpx.get(f"{running.url}/v1/{path}", timeout=ANSWER_SECONDS)


def test_only_what_the_operator_allows_is_learned_and_shown_by_its_own_score(
    tmp_path: Path,
) -> None:
    shutil.copy(fused_problems.__file__, tmp_path / "fused_problems.py")
    allowed = ("--builder", NETWORK, "--builder", DATA, "--task", TASK)
    with service(tmp_path, *allowed) as running:
        for other in ({"task": "fused_problems:ByLoop"}, {"task": "os:system"}):
            answer = httpx.post(
                f"{running.url}/v1/searches", json=REGRESSION | other, timeout=ANSWER_SECONDS
            )
            assert (answer.status_code, answer.json()["field"]) == (422, "task")
        told = running.ask("POST", "/v1/preflight", REGRESSION)
        assert told["base"]["flops"] > 0
        search_id = running.launch(**REGRESSION)
        running.wait_for(search_id, "finished")

        page = running.ask("GET", f"/v1/searches/{search_id}/architectures")
        assert page["score"]["name"] == "R²"
        base, *others = page["items"]
        assert base["origin"] == "base"
        assert {item["origin"] for item in others} >= {"fine-tuned", "uniform"}
        assert all(item["flops"] <= 0.8 * base["flops"] for item in others)
        verdict = running.ask("GET", f"/v1/searches/{search_id}/verdict")
        assert verdict["lines"][0].startswith("Take ")
        assert "R² " in verdict["lines"][0]
        assert "accuracy" not in got(running, f"searches/{search_id}/report").text.lower()
        for export in ("python", "onnx", "weights", "folder"):
            answer = got(running, f"architectures/{search_id}:{others[0]['key']}/{export}")
            assert answer.status_code == 200, answer.text

        uri = f"http://127.0.0.1:{running.mlflow_port}"
        client = MlflowClient(tracking_uri=uri)
        experiment = client.get_experiment_by_name(search_id)
        assert experiment is not None
        filters = f"tags.`{schema.TAG_SCORE}` = 'R²'"
        assert len(client.search_runs([experiment.experiment_id], filters)) == 1
        assert view_links(uri, search_id).num_architectures == 1 + len(others)
