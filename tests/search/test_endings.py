"""A search by a real Ray in which trials fail in every way: what the study and MLflow say."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from samples import Workers, small_config

import mlflow_server
import search
from mlflow_server import schema
from search.config.methods import METHODS
from search.config.resources_config import ResourcesConfig
from search.config.study_config import StudyConfig
from search.config.training_config import TrainingConfig
from search.tracking.mlflow_record import MlflowRecord
from search.trials.jobs import EpochRecord, Job, TrialJob

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
]

NETS = """
import os
import time
from pathlib import Path

import torch

from search.models import digits_vgg


class Troubled(torch.nn.Module):
    "Diverges in trial 0, dies once in 1, hangs for ever in 2; trial 3 is well."

    def __init__(self, num_classes):
        super().__init__()
        self.number = (torch.initial_seed() - 7 * 2**21) / 2
        self.network = digits_vgg(num_classes, 1)
        if self.number == 0:
            with torch.no_grad():
                for parameter in self.parameters():
                    parameter.fill_(1e38)

    def forward(self, x):
        if self.training and torch.is_grad_enabled() and x.device.type != "meta":
            if self.number == 2:
                time.sleep(3600)
            if self.number == 1 and Path("second epoch").exists() and not Path("died").exists():
                Path("died").touch()
                os.kill(os.getpid(), 9)
            Path("second epoch").touch()
        return self.network(x)
"""


def study_of(config: search.SearchConfig) -> optuna.Study:
    backend = JournalFileBackend(str(config.directory / "study.journal"))
    return optuna.load_study(study_name=config.name, storage=JournalStorage(backend))


@pytest.fixture(scope="module")
def troubled(
    at_desk: Callable[[], AbstractContextManager[None]], desk: Path, empty_store: Path
) -> tuple[search.SearchResult, dict[int, FrozenTrial]]:
    (desk / "trouble.py").write_text(NETS)
    shutil.copytree(empty_store, desk / "troubled")
    config = small_config(
        desk,
        model="trouble:Troubled",
        budget=("flops=10%",),
        training=TrainingConfig(3, 1, 1, batch_size=32),
        study=StudyConfig(by_products=0, tempered_trials=0, early_stopping=False),
        resources=ResourcesConfig(trial_timeout="15s", cpus_per_trial=1),
        trials=4,
        ladder=(1.0,),
        profiles=1,
        seed=7,
        runs=str(desk / "troubled"),
    )
    with at_desk():
        result = search.run(config)
    return result, {trial.number: trial for trial in study_of(config).trials}


def test_the_study_says_what_became_of_each_trial(troubled):
    _, trials = troubled
    states = {number: trial.state for number, trial in trials.items()}
    assert states == {
        0: TrialState.FAIL,
        1: TrialState.COMPLETE,
        2: TrialState.FAIL,
        3: TrialState.COMPLETE,
    }
    assert "training diverged in epoch 1" in trials[0].user_attrs["reason"]
    hung = trials[2].user_attrs["reason"]
    assert hung == "no epoch ended within 15 s (--trial-timeout), 3 times in epoch 1"


def test_the_record_says_the_same(troubled):
    result, trials = troubled
    recorder = mlflow_server.connect(mlflow_server.store_uri(result.path.parent), result.path.name)
    runs = {number: recorder.read(f"trial/{number}") for number in trials}
    assert {number: run.status for number, run in runs.items()} == {
        0: "failed",
        1: "finished",
        2: "failed",
        3: "finished",
    }
    for number in (0, 2):
        assert runs[number].tags[schema.TAG_FAILURE] == trials[number].user_attrs["reason"]
        assert runs[number].tags[schema.TAG_STATE] == "failed"
    for number in (1, 3):
        curve = runs[number].metrics[schema.METRIC_TRAIN_LOSS]
        assert [step for step, _ in curve] == [1, 2, 3, 4]
    assert recorder.read("search").status == "finished"


def test_the_result_is_of_the_trials_that_came_through(troubled):
    result, _ = troubled
    assert {o.trial for o in result.results.everything if o.origin == "fine-tuned"} == {1, 3}
    assert set(result.results.failures) == {"trial 0", "trial 2"}


@pytest.mark.filterwarnings("ignore:Inconsistent parameter values:RuntimeWarning")  # as beside Ray
def test_a_changed_range_of_a_setting_holds_for_new_trials_only(
    at_desk: Callable[[], AbstractContextManager[None]],
    desk: Path,
    empty_store: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As after a newer version: what was under way keeps its λ_S, what comes has a new one.

    Jobs are performed in this process: Optuna and the record are all that has to do with ranges.
    """
    shutil.copytree(empty_store, desk / "ranges")
    monkeypatch.setattr("search.studies.session.ray_executor", Workers())
    config = small_config(
        desk,
        training=TrainingConfig(4, 1, 1, batch_size=32),
        study=StudyConfig(by_products=0, tempered_trials=0, early_stopping=False),
        resources=ResourcesConfig(cpus_per_trial=1),
        trials=4,
        ladder=(1.0,),
        profiles=1,
        name="ranges",
        runs=str(desk / "ranges"),
    )
    begun: set[int] = set()
    epochs = MlflowRecord.epochs

    def interrupted(self: MlflowRecord, job: Job, records: Sequence[EpochRecord]) -> None:
        epochs(self, job, records)
        if isinstance(job, TrialJob):
            begun.add(job.number)
        if len(begun) == 2:
            raise KeyboardInterrupt

    with at_desk(), monkeypatch.context() as patch:
        patch.setattr(MlflowRecord, "epochs", interrupted)
        with pytest.raises(KeyboardInterrupt):
            search.run(config)
    before = {t.number: t.params["rni.strength"] for t in study_of(config).trials if t.params}
    assert begun <= before.keys()
    rni = METHODS["rni"]
    old = rni.settings["strength"]
    new = dataclasses.replace(old, low=old.high * 10, high=old.high * 100)
    changed = dataclasses.replace(rni, settings={**rni.settings, "strength": new})
    monkeypatch.setattr("search.config.methods.METHODS", {**METHODS, "rni": changed})
    with at_desk():
        search.run(config)
    trials = study_of(config).trials
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 4
    after = {trial.number: trial.params["rni.strength"] for trial in trials}
    assert {number: after[number] for number in before} == before
    fresh = after.keys() - before.keys()
    assert fresh
    assert min(after[number] for number in fresh) > max(before.values())
    recorder = mlflow_server.connect(mlflow_server.store_uri(Path(config.runs)), config.name)
    for number, strength in after.items():
        run = recorder.read(f"trial/{number}")
        assert run.status == "finished"
        assert float(run.params[schema.PARAM_SPARSITY_STRENGTH]) == strength
