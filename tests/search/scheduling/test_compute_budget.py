"""What a search may use up: counted once, over restarts, and never exceeded."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from samples import Workers, epoch_record, from_scratch_job, quick_config, trial_job

import search
from search.config.resources_config import ResourcesConfig
from search.config.search_config import SearchConfig
from search.config.study_config import StudyConfig
from search.config.training_config import TrainingConfig
from search.scheduling import compute_budget
from search.scheduling.compute_budget import ComputeBudget, Rationed, RationedList
from search.storage.layout import SPENT_FILE
from search.tasks.score import ACCURACY
from search.trials.jobs import Ending, FromScratchJob, Job, JobList, Outcome
from search.trials.pareto import front
from search.trials.trial import perform

ENDED = Ending("failed", "no luck")


class Clock:
    """The clock of this machine, put forward by the test."""

    def __init__(self) -> None:
        self.now = 1000.0

    def time_ns(self) -> int:
        return int(self.monotonic() * 1e9)

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(compute_budget, "time", clock)
    return clock


def opened(
    folder: Path,
    images: int | None = None,
    seconds: float | None = None,
    *,
    num_workers: int = 1,
) -> ComputeBudget:
    """That of a search, as each of its processes opens it; a job takes 100 images."""
    return ComputeBudget(
        folder / SPENT_FILE,
        lambda job: 100,
        seconds=seconds,
        images=images,
        num_workers=num_workers,
    )


def tell(found: ComputeBudget, job: Job, *images: int) -> None:
    """Epochs that end with so many images seen by the job, told together."""
    found.epochs(job, [epoch_record(n, images=seen) for n, seen in enumerate(images, 1)])


ONE, TWO, THREE = (from_scratch_job(key) for key in ("one", "two", "three"))


# ---- counting


def test_images_are_those_of_all_jobs(tmp_path: Path, clock: Clock):
    found = opened(tmp_path)
    assert found.images_spent == 0
    for job in (ONE, TWO):
        found.started(job)
        tell(found, job, 30)
        tell(found, job, 60)
    assert found.images_spent == 120
    assert [found.images_left(job) for job in (ONE, THREE)] == [40, 100]


def test_images_are_counted_over_restarts_and_once(tmp_path: Path, clock: Clock):
    first = opened(tmp_path)
    first.started(ONE)
    tell(first, ONE, 30)
    tell(first, ONE, 60)
    first.write()
    second = opened(tmp_path)
    assert second.images_spent == 60
    second.started(ONE)
    tell(second, ONE, 30, 60)  # told again, all at once
    assert second.images_spent == 60
    tell(second, ONE, 90)
    assert second.images_spent == 90


def test_an_epoch_that_is_repeated_alone_is_not_counted_twice(tmp_path: Path, clock: Clock):
    found = opened(tmp_path)
    tell(found, ONE, 30)
    tell(found, ONE, 30)
    assert found.images_spent == 30


@pytest.mark.parametrize("how", ["finished", "ended"])
def test_what_a_settled_job_spent_is_kept_at_once(tmp_path: Path, clock: Clock, how: str):
    found = opened(tmp_path)
    found.started(ONE)
    tell(found, ONE, 30)
    found.finished(ONE, []) if how == "finished" else found.ended(ONE, ENDED)
    assert opened(tmp_path).images_spent == 30


def test_a_killed_process_loses_seconds_of_its_record_only(tmp_path: Path, clock: Clock):
    found = opened(tmp_path)
    found.started(ONE)
    tell(found, ONE, 30)
    clock.now += 6
    tell(found, ONE, 60)
    clock.now += 1
    tell(found, ONE, 90)  # and killed; nothing else was called
    again = opened(tmp_path)
    assert again.images_spent == 60
    assert again.seconds_spent == 6


def test_seconds_are_those_of_working_on_it(tmp_path: Path, clock: Clock):
    first = opened(tmp_path)
    clock.now += 20
    first.write()
    clock.now += 5000  # nobody works on it
    second = opened(tmp_path)
    clock.now += 3
    assert second.seconds_spent == 23
    second.write()
    second.write()
    assert opened(tmp_path).seconds_spent == 23


@pytest.mark.parametrize("content", [None, "", "{", "[]", "3"])
def test_without_a_ledger_nothing_was_spent(tmp_path: Path, clock: Clock, content: str | None):
    if content is not None:
        (tmp_path / SPENT_FILE).write_text(content)
    found = opened(tmp_path)
    assert (found.images_spent, found.seconds_spent) == (0, 0)


# ---- images


def test_images_are_afforded_up_to_the_last_one(tmp_path: Path, clock: Clock):
    found = opened(tmp_path, images=300)
    tell(found, ONE, 100)
    assert found.affords(200)
    assert not found.affords(201)
    assert found.affords(150, reserve=50)
    assert not found.affords(150, reserve=51)


def test_jobs_under_way_are_reckoned_with_to_their_end(tmp_path: Path, clock: Clock):
    found = opened(tmp_path, images=300)
    found.started(ONE)
    found.started(TWO)
    assert found.affords(100)
    assert not found.affords(101)
    tell(found, ONE, 30)  # 30 are spent and 70 left
    assert found.affords(100)
    assert not found.affords(101)
    found.ended(TWO, ENDED)  # which took none
    assert found.affords(200)
    assert not found.affords(201)


def test_without_a_bound_everything_is_afforded(tmp_path: Path, clock: Clock):
    found = opened(tmp_path)
    tell(found, ONE, 10**9)
    clock.now += 10**6
    assert found.affords(10**12)


# ---- seconds


def test_before_the_first_epoch_nobody_knows_how_long_one_takes(tmp_path: Path, clock: Clock):
    found = opened(tmp_path, seconds=10)
    assert found.affords(10**9)
    clock.now += 10
    assert found.affords(10**9)
    clock.now += 1
    assert not found.affords(1)


def test_time_is_foretold_from_epochs(tmp_path: Path, clock: Clock):
    """50 images take 5 s, so that 450 more can be seen in the 45 s that are left."""
    found = opened(tmp_path, seconds=50)
    found.started(ONE)
    clock.now += 5
    tell(found, ONE, 50)
    found.ended(ONE, ENDED)
    assert found.affords(450)
    assert not found.affords(451)
    assert found.affords(400, reserve=50)
    assert not found.affords(400, reserve=51)
    found.started(TWO)
    assert found.affords(350)
    assert not found.affords(351)


def test_workers_share_the_time(tmp_path: Path, clock: Clock):
    """Two jobs at once: 50 images in 5 s each."""
    found = opened(tmp_path, seconds=50, num_workers=2)
    found.started(ONE)
    found.started(TWO)
    clock.now += 5
    tell(found, ONE, 50)
    tell(found, TWO, 50)
    found.ended(ONE, ENDED)
    found.ended(TWO, ENDED)
    assert found.affords(900)
    assert not found.affords(901)


def test_what_is_told_again_took_no_time(tmp_path: Path, clock: Clock):
    """The speed is that of the epochs that this search went through, over restarts."""
    first = opened(tmp_path, seconds=100)
    first.started(ONE)
    clock.now += 5
    tell(first, ONE, 50)
    first.write()
    second = opened(tmp_path, seconds=100)
    second.started(ONE)
    clock.now += 1
    tell(second, ONE, 50)
    second.ended(ONE, ENDED)
    assert second.seconds_spent == 6
    assert second.affords(940)
    assert not second.affords(941)


# ---- sources


def test_a_rationed_source_stops_when_the_next_job_cannot_be_afforded(tmp_path: Path, clock: Clock):
    found = opened(tmp_path, images=250)
    source = Rationed(JobList([ONE, TWO, THREE]), found, 100)
    for expected in (ONE, TWO):
        assert (source.is_over, source.next()) == (False, expected)
        found.started(expected)
    assert not source.is_cut_short
    assert source.next() is None
    assert source.is_cut_short
    assert (source.is_over, source.next()) == (True, None)
    for job in (ONE, TWO):  # it stays cut short, though they took less than was thought
        found.ended(job, ENDED)
    assert source.next() is None


def test_a_source_that_runs_out_is_not_cut_short(tmp_path: Path, clock: Clock):
    source = Rationed(JobList([ONE]), opened(tmp_path, images=100), 100)
    assert source.next() is ONE
    assert (source.is_over, source.next()) == (True, None)
    assert not source.is_cut_short


def test_a_reserve_is_left_to_others(tmp_path: Path, clock: Clock):
    found = opened(tmp_path, images=250)
    source = Rationed(JobList([ONE, TWO]), found, 100, reserve=lambda: 100)
    assert source.next() is ONE
    found.started(ONE)
    assert source.next() is None
    assert source.is_cut_short


def test_what_is_needed_is_handed_out_whatever_it_costs(tmp_path: Path, clock: Clock):
    needed = [True, True, False]
    source = Rationed(
        JobList([ONE, TWO, THREE]),
        opened(tmp_path, images=1),
        100,
        is_needed=lambda: needed.pop(0),
    )
    assert [source.next() for _ in range(3)] == [ONE, TWO, None]


class Told(JobList):
    """Remembers what it was told."""

    def __init__(self) -> None:
        super().__init__([ONE, TWO])
        self.told: list[object] = []

    def finished(self, job: Job, outcomes: Sequence[Outcome]) -> None:
        self.told += [job, outcomes]

    def ended(self, job: Job, ending: Ending) -> None:
        self.told += [job, ending]


def test_results_reach_the_source_behind(tmp_path: Path):
    behind = Told()
    source = Rationed(behind, opened(tmp_path), 100)
    source.finished(ONE, [])
    source.ended(TWO, ENDED)
    assert behind.told == [ONE, [], TWO, ENDED]


def test_a_list_passes_over_what_is_too_long(tmp_path: Path, clock: Clock):
    lengths = {"one": 100, "two": 300, "three": 50}
    found = ComputeBudget(
        tmp_path / SPENT_FILE,
        lambda job: lengths[job.key],
        seconds=None,
        images=200,
        num_workers=1,
    )
    source = RationedList([ONE, TWO, THREE], found)
    handed_out = []
    while (job := source.next()) is not None:
        found.started(job)
        handed_out.append(job)
    assert handed_out == [ONE, THREE]
    assert source.left_out == [TWO]


def test_a_job_that_is_nearly_done_is_cheap(tmp_path: Path, clock: Clock):
    found = opened(tmp_path, images=130)
    tell(found, ONE, 90)
    source = RationedList([TWO, ONE], found)
    assert [source.next(), source.next()] == [ONE, None]
    assert source.left_out == [TWO]


# ---- searches

EPOCH = 192
"""Training images of an epoch of the small searches."""


def limited(folder: Path, epochs: int, **changes: object) -> SearchConfig:
    """Trials take three epochs, the base network one, members and tempered shapes one or two."""
    resources = ResourcesConfig(max_train_images=epochs * EPOCH)
    return quick_config(folder, resources=resources, **({"trials": 4} | changes))


def ledger(config: SearchConfig) -> int:
    return sum(json.loads((config.directory / SPENT_FILE).read_text())["images"].values())


@pytest.mark.parametrize("epochs", [3, 12, 17, 23])
def test_a_search_never_exceeds_its_images_and_ends_with_a_front(
    tmp_path: Path, workers: Workers, epochs: int
):
    config = limited(tmp_path, epochs)
    result = search.run(config)
    assert result.front == tuple(front(result.results.everything, ACCURACY))
    assert result.front
    tuned = [o for o in result.results.everything if o.origin == "fine-tuned"]
    others = [o for o in result.results.networks if o.origin != "fine-tuned"]
    trials = {o.trial for o in tuned}  # each trained once, and fine-tuned for each network
    spent = EPOCH * (len(trials) + len(tuned)) + sum(o.images for o in others)
    assert spent == ledger(config) <= epochs * EPOCH
    notes = "\n".join(result.results.notes)
    assert f"{len(trials)} of 4 trials were made: more would not have left" in notes
    assert (result.results.base_network is None) == (epochs < 4)
    workers.performed = []
    again = search.run(config)
    assert (again.results, workers.performed) == (result.results, [])


def test_what_was_left_out_is_named(tmp_path: Path, workers: Workers):
    result = search.run(limited(tmp_path, 5))
    (left_out,) = [n for n in result.results.notes if n.startswith("not trained, for want of")]
    names = left_out.partition(": ")[2].split(", ")
    made = [o.key for o in result.results.everything]
    assert names
    assert not set(names) & set(made)
    assert "uniform-b50" in {*names, *made}
    assert "fewer tempered shapes were tried, for want of time or images" in result.results.notes


def test_with_more_images_the_same_search_goes_on(tmp_path: Path, workers: Workers):
    """The bound is no part of what is searched for."""
    scarce = search.run(limited(tmp_path, 5))
    workers.performed = []
    whole = search.run(quick_config(tmp_path, trials=4))
    assert whole.results.notes == ()
    assert {o.trial for o in whole.results.everything} == {None, 0, 1, 2, 3}
    before = {o.key: o for o in scarce.results.everything}
    after = {o.key: o for o in whole.results.everything}
    kept = before.keys() & after.keys()
    assert {"fine-tuned-0", "fine-tuned-0-t50"} <= kept
    assert {key: before[key] for key in kept} == {key: after[key] for key in kept}
    assert "fine-tuned-0" not in workers.performed


def test_too_few_images_for_one_trial_still_make_one(tmp_path: Path, workers: Workers):
    """Otherwise nothing would come of it."""
    result = search.run(limited(tmp_path, 1))
    assert workers.performed == ["fine-tuned-0"]
    assert [o.key for o in result.results.everything] == ["fine-tuned-0", "fine-tuned-0-t50"]
    assert result.results.notes[0] == "not trained, for want of time or images: base"
    assert result.results.notes[1].startswith("1 of 4 trials were made: ")


def test_a_trial_that_fails_is_followed_by_another_whatever_it_costs(
    tmp_path: Path, workers: Workers
):
    def unlucky(job: Job, context, data, report) -> tuple[Outcome, ...]:
        if job.key == "fine-tuned-0":
            job = FromScratchJob("broken", "uniform", {"no such group": 3}, rung=1.0)
        return perform(job, context, data, report)

    workers.perform = unlucky
    search.run(limited(tmp_path, 1))
    assert workers.performed == ["fine-tuned-1"]


def test_interruptions_spend_nothing_twice(tmp_path: Path, workers: Workers):
    """Stopped after each of the first five epochs, it ends within the same bound."""
    config = limited(tmp_path, 12)
    told: list[object] = []

    def stop(job: Job, context, data, report) -> tuple[Outcome, ...]:
        def then_stop(records: Sequence[object]) -> None:
            report(records)
            if records[-1] not in told:
                told.append(records[-1])
                raise KeyboardInterrupt

        return perform(job, context, data, then_stop)

    workers.perform = stop
    for _ in range(5):
        with pytest.raises(KeyboardInterrupt):
            search.run(config)
    workers.perform = perform
    pieces = search.run(config)
    assert ledger(config) <= 12 * EPOCH
    other = limited(tmp_path / "other", 12)
    whole = search.run(other)
    assert pieces.results == whole.results
    assert ledger(other) == ledger(config)


@pytest.mark.parametrize("budget", ["1s", "1h"])
def test_a_time_budget_ends_the_search_with_what_it_has(
    tmp_path: Path, workers: Workers, budget: str
):
    def slow(*arguments: object) -> tuple[Outcome, ...]:
        time.sleep(0.4)
        return perform(*arguments)

    workers.perform = slow
    config = quick_config(
        tmp_path,
        trials=4,
        training=TrainingConfig(2, 1, 1, batch_size=32),
        study=StudyConfig(tempered_trials=1),
        resources=ResourcesConfig(time_budget=budget),
    )
    result = search.run(config)
    assert result.front
    is_short = any(re.match(r"[1-3] of 4 trials were made", n) for n in result.results.notes)
    assert is_short == (budget == "1s")
    assert json.loads((config.directory / SPENT_FILE).read_text())["seconds"] > 0.4


def test_a_trial_of_another_number_is_another_job(tmp_path: Path, clock: Clock):
    found = opened(tmp_path)
    tell(found, trial_job(1), 30)
    tell(found, trial_job(2), 40)
    assert found.images_spent == 70
