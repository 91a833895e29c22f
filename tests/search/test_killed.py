"""kill -9 of a worker and of the driver of a search: it ends as undisturbed, whatever it learns."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fused_problems
import pytest
import samples
from samples import Workers, small_config

import copycat
import search
from mlflow_server import connect, schema, store_uri
from search.config.data_config import DataConfig
from search.config.resources_config import ResourcesConfig
from search.config.search_config import SearchConfig
from search.config.study_config import StudyConfig
from search.config.training_config import TrainingConfig
from search.results.report import Results
from search.storage.layout import CONFIG_FILE
from search.trials.artifacts import stored_curve

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
]


@dataclass(frozen=True)
class Problem:
    """Names of what `fused_problems` defines, and a method that can judge by it."""

    data: str
    network: str
    task: str
    method: str = "taylor"


PROBLEMS = {
    "classification": Problem("classes", "per_image", "classification", "rni"),
    "multilabel": Problem("labels", "per_image", "multilabel"),
    "segmentation": Problem("pixels", "per_pixel", "segmentation"),
    "steps of one's own": Problem("numbers", "one_number", "fused_problems:ByStep"),
    "a loop of one's own": Problem("numbers", "one_number", "fused_problems:ByLoop", "rni"),
}

WITH_RAY = ("classification", "a loop of one's own")
"""Problems whose jobs Ray's workers perform: a loop of the project and one that is not.

For the others, which differ in what they learn, one process does everything, without Ray.
"""


def config_of(problem: Problem, runs: Path) -> SearchConfig:
    """One trial, from a base that is trained first, and one network from nothing."""
    return small_config(
        runs.parent,
        model=f"fused_problems:{problem.network}",
        data=DataConfig(f"fused_problems:{problem.data}"),
        task=problem.task,
        criterion=(problem.method,),
        budget=("flops=80%",),
        training=TrainingConfig(4, 2, 2, batch_size=16),
        study=StudyConfig(by_products=0, tempered_trials=0, early_stopping=False),
        resources=ResourcesConfig(cpus_per_trial=1, checkpoint_every="0.001s"),
        trials=1,
        ladder=(1.0,),
        profiles=1,
        equal_compute_pairs=False,
        concurrency=1,
        runs=str(runs),
    )


def killed(config: SearchConfig, folder: Path) -> None:
    """Begin the search as the service does, and lose a worker, and then the driver."""
    config.directory.mkdir(parents=True)
    settings = json.dumps(dataclasses.asdict(config.resolved()))
    (config.directory / CONFIG_FILE).write_text(settings)
    runs = ("--runs", config.runs, "--trust", "fused_problems")
    process = subprocess.Popen(
        [sys.executable, "-m", "search.cli", "resume", config.name, *runs],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        (folder / "driver").write_text(str(process.pid))
        _, err = process.communicate(timeout=900)
    finally:
        process.kill()
    assert (process.returncode, err) == (-signal.SIGKILL, "")
    assert (folder / "steps").stat().st_size == fused_problems.KILLS["driver"]
    (folder / "driver").unlink()


def killed_alone(config: SearchConfig, folder: Path) -> None:
    """Begin the search twice in a process that performs its jobs, too, and lose it."""
    begun = multiprocessing.get_context("forkserver")
    begun.set_forkserver_preload(["torch._dynamo", "mlflow.server", "search.studies.search_study"])
    (folder / "driver").write_text(fused_problems.ALONE)
    for steps in fused_problems.KILLS.values():
        process = begun.Process(target=fused_problems.run_alone, args=(config,))
        process.start()
        process.join(900)
        assert process.exitcode == -signal.SIGKILL
        assert (folder / "steps").stat().st_size == steps
    (folder / "driver").unlink()


def networks(config: SearchConfig, results: Results) -> dict[str, Any]:
    """All of them, certified, by their weights and what they score."""
    found = {}
    for outcome in results.everything:
        stored = copycat.verify(config.directory / outcome.path, trust=("fused_problems",))
        scores = (outcome.validation_score, outcome.test_score)
        found[outcome.key] = (stored.weights_sha256, stored.cost, scores)
    return found


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_search_ends_in_the_same_networks(
    tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Bit by bit. What is left after the kills is done here: how Ray does it was seen by then."""
    for module in (fused_problems, samples):
        shutil.copy(str(module.__file__), tmp_path)
    problem = PROBLEMS[name]
    shutil.copytree(empty_store, tmp_path / "runs")
    config = config_of(problem, tmp_path / "runs")
    whole = config_of(problem, tmp_path / "undisturbed")
    if name in WITH_RAY:
        killed(config, tmp_path)
    else:
        monkeypatch.syspath_prepend(tmp_path)
        killed_alone(config, tmp_path)
    before = {path.name for path in (config.directory / "architectures").iterdir()}
    assert before

    Workers().take_over(monkeypatch)
    results = search.run(config).results
    expected = search.run(whole).results
    assert networks(config, results) == networks(whole, expected)
    assert results.failures == {}
    recorder = connect(store_uri(Path(config.runs)), config.name)
    for outcome in results.everything:
        run = recorder.read(f"architecture/{outcome.key}")
        steps = Counter(step for step, _ in run.metrics[schema.METRIC_TRAIN_LOSS])
        epochs = [record.step for record in stored_curve(config.directory / outcome.path)]
        assert steps == Counter(epochs)
        assert run.status == "finished"
