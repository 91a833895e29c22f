"""The searches that `chaos.py` launches, and whether each is there in the end, once and whole."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from chaos_service import Service

WAITING = 2
"""Searches that the queue is to hold beside the one that runs."""

SETTINGS: dict[str, Any] = {
    "model": "digits-vgg",
    "budget": ["flops=10%"],
    "data": {"source": "digits", "limit_train": 400},
    "training": {"epochs": 4, "fine_tune_epochs": 2, "scratch_epochs": 2, "batch_size": 32},
    "study": {"tempered_trials": 0, "by_products": 0, "early_stopping": False},
    "trials": 3,
    "ladder": [1.0],
    "profiles": 1,
    "equal_compute_pairs": False,
    "concurrency": 1,
    "resources": {"cpus_per_trial": 1},
}


@dataclass
class Launches:
    """Searches that were asked for; `ids` of those that were answered, by key."""

    service: Service
    ids: dict[str, str] = field(default_factory=dict)
    open: list[str] = field(default_factory=list)

    def more(self) -> None:
        """Ask for what was not answered, and for another one if few wait."""
        answer = self.service.ask("GET", "/v1/searches", params={"state": "queued"})
        if answer is not None and answer.is_success and answer.json()["total"] < WAITING:
            self.open.append(str(uuid.uuid4()))
        self.settle()

    def settle(self) -> None:
        """Ask once more for each that was not answered."""
        for key in list(self.open):
            body = {**SETTINGS, "seed": len(self.ids), "name": f"s{len(self.ids)}"}
            answer = self.service.ask(
                "POST", "/v1/searches", json=body, headers={"Idempotency-Key": key}
            )
            if answer is not None and answer.is_success:
                self.ids[key] = answer.json()["id"]
                self.open.remove(key)


def problems(service: Service, launches: Launches) -> list[str]:
    """Everything that was lost, is there twice, or failed."""
    answer = service.ask("GET", "/v1/searches", params={"limit": 200})
    assert answer is not None
    rows = {row["id"]: row for row in answer.json()["items"]}
    found = [
        f"{i}: {row['state']}, {row['reason']}"
        for i, row in rows.items()
        if row["state"] != "finished"
    ]
    found += [f"{i} is lost" for i in launches.ids.values() if i not in rows]
    found += [f"{i} was begun twice" for i in rows if i not in launches.ids.values()]
    twice = [i for i, count in Counter(launches.ids.values()).items() if count > 1]
    found += [f"{i} answers to two keys" for i in twice]
    for search_id, row in rows.items():
        if row["state"] == "finished":
            found += [f"{search_id}: {line}" for line in search_problems(service, search_id)]
    return found


def search_problems(service: Service, search_id: str) -> Iterator[str]:
    """Of one that has finished."""
    results = json.loads((service.runs / search_id / "results.json").read_text())
    keys = {outcome["key"] for outcome in (results["base_network"], *results["everything"])}
    answer = service.ask("GET", f"/v1/searches/{search_id}/architectures", params={"limit": 1000})
    assert answer is not None
    stored = [item["key"] for item in answer.json()["items"]]
    if sorted(stored) != sorted(keys):
        yield f"architectures are {sorted(stored)}, of its results {sorted(keys)}"
    trials = [o for o in results["everything"] if o["origin"] == "fine-tuned"]
    if len(trials) + len(results["failures"]) < SETTINGS["trials"]:
        yield f"{len(trials)} trials of {SETTINGS['trials']}: {results['failures']}"
    if (service.runs / search_id / "mlflow.spool").exists():
        yield "MLflow lacks a part of its record"
    runs = mlflow_runs(service, search_id)
    recorded = [tags["espalier.architecture"] for tags in runs if "espalier.architecture" in tags]
    yield from (f"no run of {key} in MLflow" for key in keys - set(recorded))
    count = Counter(tags["espalier.key"] for tags in runs)
    yield from (f"{number} runs of {key} in MLflow" for key, number in count.items() if number > 1)
    unfinished = {tags["espalier.key"] for tags in runs if tags["status"] == "RUNNING"}
    yield from (f"the run {key} never ended in MLflow" for key in unfinished)


def mlflow_runs(service: Service, search_id: str) -> list[dict[str, str]]:
    """The tags of all runs of a search, its status among them."""
    from mlflow import MlflowClient  # noqa: PLC0415 - takes a second

    client = MlflowClient(f"http://127.0.0.1:{service.mlflow_port}")
    experiment = client.get_experiment_by_name(search_id)
    if experiment is None:
        return []
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    return [{**run.data.tags, "status": run.info.status} for run in runs]
