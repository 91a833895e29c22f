"""Tasks performed by a real Ray."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest
from samples import member_task, small_config, trial_task

import copycat
from pruning import measure_cost
from search import models
from search.config import TrainingConfig
from search.datasets import ImageData
from search.launch import _TaskSearcher, run_tasks
from search.preflight import check
from search.tasks import EpochRecord, Outcome, Task, TaskList
from search.trial import Workshop, perform


class Log:
    """An observer that remembers everything."""

    def __init__(self) -> None:
        self.running: set[str] = set()
        self.most_at_once = 0
        self.epochs: dict[str, list[EpochRecord]] = {}
        self.outcomes: dict[str, Outcome] = {}
        self.reasons: dict[str, str] = {}

    def started(self, task: Task) -> None:
        self.running.add(task.key)
        self.most_at_once = max(self.most_at_once, len(self.running))
        self.epochs[task.key] = []

    def epoch(self, task: Task, record: EpochRecord) -> None:
        assert task.key in self.running
        self.epochs[task.key].append(record)

    def finished(self, task: Task, outcome: Outcome) -> None:
        self.running.remove(task.key)
        self.outcomes[task.key] = outcome

    def failed(self, task: Task, reason: str) -> None:
        self.running.remove(task.key)
        self.reasons[task.key] = reason


class Told(TaskList):
    """A source that remembers what it was told."""

    def __init__(self, tasks: list[Task]) -> None:
        super().__init__(tasks)
        self.outcomes: dict[str, Outcome] = {}
        self.reasons: dict[str, str] = {}

    def finished(self, task: Task, outcome: Outcome) -> None:
        self.outcomes[task.key] = outcome

    def failed(self, task: Task, reason: str) -> None:
        self.reasons[task.key] = reason


@dataclass(frozen=True)
class Launched:
    """What was heard of the tasks, by the observer and by the source."""

    log: Log
    source: Told
    workshop: Workshop


@pytest.fixture(scope="module")
def launched(
    at_desk: Callable[[], AbstractContextManager[None]], desk: Path, digits: ImageData
) -> Launched:
    """Tasks of every kind and fate, two at a time, on the network of conftest.py."""
    config = small_config(
        desk,
        model="nets:troubled",
        training=TrainingConfig(2, 1, 3, batch_size=32),
        seed=7,
        runs=str(desk / "launched"),
    )
    with at_desk():
        builder = models.resolve(config.model, num_classes=10, in_channels=1)
        preflight = check(config, builder, digits.train.image_shape, digits.classes)
        fine = member_task(widths=dict.fromkeys(preflight.groups, 5))
        broken = member_task("broken", widths={"no such group": 3})
        source, log = Told([*map(trial_task, range(4)), broken, fine]), Log()
        workshop = Workshop(config, preflight, "cpu")
        run_tasks(source, workshop, digits, log, num_workers=2)
    return Launched(log, source, workshop)


def test_source_and_observer_hear_of_every_task(launched: Launched):
    log, source = launched.log, launched.source
    assert len(source) == 0
    assert log.running == set()
    assert log.outcomes == source.outcomes
    assert log.reasons == source.reasons
    assert set(log.outcomes) == {"fine-tuned-0", "fine-tuned-3", "uniform-b100"}
    assert set(log.reasons) == {"fine-tuned-1", "fine-tuned-2", "broken"}


def test_no_more_tasks_run_than_there_are_workers(launched: Launched):
    assert launched.log.most_at_once == 2


def test_outcomes_are_those_of_the_stored_networks(launched: Launched):
    workshop = launched.workshop
    for outcome in launched.log.outcomes.values():
        network = copycat.load(workshop.config.directory / outcome.path, trust=["nets"])
        cost = measure_cost(network, workshop.preflight.example_input)
        assert (cost.flops, cost.params) == (outcome.flops, outcome.params)


def test_a_worker_does_what_this_process_would_do(
    launched: Launched, digits: ImageData, desk: Path, tmp_path: Path, monkeypatch
):
    monkeypatch.chdir(desk)
    config = dataclasses.replace(launched.workshop.config, runs=str(tmp_path))
    here = dataclasses.replace(launched.workshop, config=config)
    records: list[EpochRecord] = []
    outcome = perform(trial_task(0), here, digits, records.append)
    there = launched.log.outcomes["fine-tuned-0"]
    assert outcome.profile == there.profile
    assert outcome.validation_accuracy == pytest.approx(there.validation_accuracy, abs=0.05)
    losses = [record.train_loss for record in launched.log.epochs["fine-tuned-0"]]
    assert [record.train_loss for record in records] == pytest.approx(losses, rel=0.01)


def test_epochs_are_heard_of_in_their_order(launched: Launched):
    epochs = launched.log.epochs
    assert [(r.stage, r.step) for r in epochs["fine-tuned-0"]] == [
        ("sparse training", 1),
        ("sparse training", 2),
        ("fine-tuning", 3),
    ]
    assert [(r.stage, r.step) for r in epochs["uniform-b100"]] == [
        ("from scratch", step) for step in (1, 2, 3)
    ]


def test_a_failure_has_its_reason_on_one_line(launched: Launched):
    reasons = launched.log.reasons
    assert reasons["fine-tuned-1"] == "nets:troubled failed: RuntimeError: out of luck"
    assert reasons["fine-tuned-2"].startswith("training diverged in epoch 1 of 2: the loss is ")
    assert "no such group" in reasons["broken"]
    assert not any(launched.log.epochs[key] for key in reasons)


def test_a_task_whose_process_ended_is_tried_once_more(launched: Launched, desk: Path):
    assert (desk / "died").exists()
    assert "fine-tuned-3" in launched.log.outcomes


def test_a_task_whose_process_ends_again_has_failed():
    source, log = Told([trial_task(4)]), Log()
    searcher = _TaskSearcher(source, log)
    searcher.suggest("a1b2")
    searcher.on_trial_complete("a1b2", None, error=True)
    assert source.reasons == log.reasons == {"fine-tuned-4": "its worker process died"}
    assert searcher.suggest("c3d4") == _TaskSearcher.FINISHED


def test_without_tasks_nothing_is_started(workshop: Workshop, digits: ImageData):
    run_tasks(TaskList([]), workshop, digits, Log(), num_workers=2)
    assert not workshop.config.directory.exists()
