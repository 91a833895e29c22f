"""Stages of a search as one source: what waits for what, and what fills the time meanwhile."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from samples import Workers, from_scratch_job, outcome, quick_config

import search
from search.config.study_config import StudyConfig
from search.scheduling.compute_budget import ComputeBudget, RationedList
from search.scheduling.job_stages import Stage, Stages, images_waiting
from search.trials.job_context import JobContext
from search.trials.jobs import Ending, Job, JobSource, Observer
from search.trials.trial import perform

ENDED = Ending("failed", "no luck")


@pytest.fixture
def unlimited(tmp_path: Path) -> ComputeBudget:
    """A job takes 100 images."""
    return ComputeBudget(
        tmp_path / "spent.json", lambda _: 100, seconds=None, images=None, num_workers=1
    )


def jobs(*keys: str) -> list[Job]:
    return [from_scratch_job(key) for key in keys]


def handed_out(source: JobSource) -> list[str]:
    """Keys of all that there is now."""
    keys = []
    while (job := source.next()) is not None:
        keys.append(job.key)
    return keys


def test_a_stage_begins_when_what_it_needs_is_settled(unlimited: ComputeBudget):
    first = Stage(lambda: RationedList(jobs("a", "b"), unlimited))
    second = Stage(lambda: RationedList(jobs("c"), unlimited), [first])
    stages = Stages([first, second])
    assert handed_out(stages) == ["a", "b"]
    assert images_waiting(first, second) == 0  # nobody knows of the second's yet
    assert not stages.is_over
    stages.finished(from_scratch_job("a"), [outcome("a")])
    assert stages.next() is None
    stages.ended(from_scratch_job("b"), ENDED)
    assert first.is_settled
    assert images_waiting(first, second) == 100
    assert handed_out(stages) == ["c"]
    assert stages.is_over
    assert not second.is_settled


def test_what_nobody_waits_for_fills_the_time(unlimited: ComputeBudget):
    first = Stage(lambda: RationedList(jobs("a"), unlimited))
    then = Stage(lambda: RationedList(jobs("b"), unlimited), [first])
    filler = Stage(lambda: RationedList(jobs("x", "y"), unlimited))
    stages = Stages([first, then, filler])
    assert [stages.next().key, stages.next().key] == ["a", "x"]
    stages.finished(from_scratch_job("a"), [outcome("a")])
    assert handed_out(stages) == ["b", "y"]


def test_a_stage_without_jobs_lets_the_next_begin_though_that_is_asked_first(
    unlimited: ComputeBudget,
):
    """Nothing is under way that would give occasion to ask again."""
    empty = Stage(lambda: RationedList([], unlimited))
    between = Stage(lambda: RationedList([], unlimited), [empty])
    last = Stage(lambda: RationedList(jobs("a"), unlimited), [between])
    assert handed_out(Stages([last, between, empty])) == ["a"]


def test_what_is_stopped_hands_out_nothing_more(unlimited: ComputeBudget):
    stages = Stages([Stage(lambda: RationedList(jobs("a", "b"), unlimited))])
    assert stages.next() is not None
    stages.stop()
    assert stages.next() is None
    assert stages.is_over
    stages.finished(from_scratch_job("a"), [outcome("a")])


def test_what_comes_first_in_the_budget_may_come_last_in_time(tmp_path: Path):
    """Enough for two of three: the filler, which is handed out last, is the one that stays."""
    budget = ComputeBudget(
        tmp_path / "spent.json", lambda _: 100, seconds=None, images=200, num_workers=1
    )
    filler = Stage(lambda: RationedList(jobs("x"), budget))
    own = RationedList(jobs("a", "b"), budget, before=lambda: images_waiting(filler))
    stages = Stages([Stage(lambda: own), filler])
    keys = []
    while (job := stages.next()) is not None:
        keys.append(job.key)
        budget.started(job)
    assert keys == ["a", "x"]
    assert stages.next() is None
    assert [job.key for job in own.left_out] == ["b"]
    assert stages.is_over


# ---- searches by two workers, whose jobs end in any order


def two_at_once(
    source: JobSource, context: JobContext, data: object, observer: Observer, seed: int
) -> list[str]:
    """Performs jobs, two under way at a time; which of them ends next is drawn by `seed`.

    What was begun while a trial, or one of the members that shapes are learned from, was under way.
    """
    generator, under_way, order = random.Random(seed), [], []
    while True:
        while len(under_way) < 2 and (job := source.next()) is not None:
            observer.started(job)
            under_way.append(job)
            order.append(job.key)
        if not under_way:
            assert source.is_over
            return order
        job = under_way.pop(generator.randrange(len(under_way)))
        found = perform(job, context, data, lambda records, job=job: observer.epochs(job, records))
        source.finished(job, found)
        observer.finished(job, found)


def searched(folder: Path, workers: Workers, monkeypatch: pytest.MonkeyPatch, seed: int):
    orders: list[list[str]] = []

    def perform_all(source, context, data, observer, perform_job) -> None:
        orders.append(two_at_once(source, context, data, observer, seed))

    monkeypatch.setattr("samples.run_in_process", perform_all)
    study = StudyConfig(by_products=0, tempered_trials=1, candidate_epochs=0)
    config = quick_config(folder, trials=2, seeds=2, ladder=(1.0,), random_widths=True, study=study)
    results = search.run(config).results
    (order,) = orders
    return results, order


def test_the_same_networks_are_trained_whatever_ends_first(
    tmp_path: Path, workers: Workers, monkeypatch: pytest.MonkeyPatch
):
    whole, _ = searched(tmp_path / "0", workers, monkeypatch, 0)
    orders: set[Sequence[str]] = set()
    for seed in (1, 2):
        again, order = searched(tmp_path / str(seed), workers, monkeypatch, seed)
        assert again == whole
        orders.add(tuple(order))
    assert len(orders) == 2


def test_no_worker_waits_while_there_is_something_to_train(
    tmp_path: Path, workers: Workers, monkeypatch: pytest.MonkeyPatch
):
    """With seed 3 the last trial ends after two other jobs: members that follow from no trial."""
    _, order = searched(tmp_path, workers, monkeypatch, 3)
    assert order[:3] == ["base", "fine-tuned-0", "fine-tuned-1"]
    assert order[3].startswith(("uniform", "random"))
    assert order[-1].endswith("-s1")
