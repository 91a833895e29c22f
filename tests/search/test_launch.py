"""Tasks performed by a real Ray."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from samples import member_task, small_config, trial_task

import copycat
from pruning import measure_cost
from search.config import TrainingConfig
from search.datasets import ImageData
from search.launch import run_tasks
from search.preflight import Preflight
from search.tasks import EpochRecord, Outcome, Task, TaskList
from search.trial import Workshop


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


def test_tasks_of_every_kind_are_performed_and_reported(
    at_desk: Callable[[], AbstractContextManager[None]],
    desk: Path,
    preflight: Preflight,
    digits: ImageData,
    capfd: pytest.CaptureFixture[str],
):
    """Two that succeed, a member that cannot be built among them, at most two at once."""
    training = TrainingConfig(2, 1, 3, batch_size=32)
    config = small_config(desk, training=training, name="launched")
    member = member_task(widths=dict.fromkeys(preflight.groups, 5))
    broken = member_task("broken", widths={"no such group": 3})
    source, log = Told([trial_task(), broken, member]), Log()
    with at_desk():
        run_tasks(source, Workshop(config, preflight, "cpu"), digits, log, num_workers=2)

    assert len(source) == 0
    assert (log.running, log.most_at_once) == (set(), 2)
    assert log.outcomes == source.outcomes
    assert set(log.outcomes) == {"fine-tuned-0", "uniform-b100"}
    for outcome in log.outcomes.values():
        network = copycat.load(config.directory / outcome.path)
        cost = measure_cost(network, preflight.example_input)
        assert (cost.flops, cost.params) == (outcome.flops, outcome.params)
    assert [(r.stage, r.step) for r in log.epochs["fine-tuned-0"]] == [
        ("sparse training", 1),
        ("sparse training", 2),
        ("fine-tuning", 3),
    ]
    assert [(r.stage, r.step) for r in log.epochs["uniform-b100"]] == [
        ("from scratch", step) for step in (1, 2, 3)
    ]
    assert log.reasons == source.reasons
    assert "no such group" in log.reasons["broken"]
    assert log.epochs["broken"] == []
    assert capfd.readouterr() == ("", "")


def test_without_tasks_nothing_is_started(workshop: Workshop, digits: ImageData):
    run_tasks(TaskList([]), workshop, digits, Log(), num_workers=2)
    assert not workshop.config.directory.exists()
