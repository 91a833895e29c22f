"""Jobs performed by a real Ray."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import psutil
import pytest
import torch
from samples import from_scratch_job, outcome, small_config, trial_job

import copycat
from pruning import measure_cost
from search import models
from search.config.training_config import TrainingConfig
from search.data.datasets import ImageData
from search.data.image_sources import ImageFiles
from search.scheduling.ray_executor import _JobSearcher, cluster
from search.scheduling.share import Share
from search.trials import artifacts
from search.trials.job_context import JobContext
from search.trials.jobs import Ending, EpochRecord, Job, JobList, Observer, Outcome
from search.trials.preflight import Preflight, check
from search.trials.trial import perform


class Log(Observer):
    """An observer that remembers everything."""

    def __init__(self) -> None:
        self.running: set[str] = set()
        self.most_at_once = 0
        self.records: dict[str, list[EpochRecord]] = {}
        self.outcomes: dict[str, list[Outcome]] = {}
        self.endings: dict[str, Ending] = {}
        self.num_workers = 0

    def at_once(self, num_jobs: int) -> None:
        self.num_workers = num_jobs

    def started(self, job: Job) -> None:
        self.running.add(job.key)
        self.most_at_once = max(self.most_at_once, len(self.running))
        self.records[job.key] = []

    def epochs(self, job: Job, records: Sequence[EpochRecord]) -> None:
        assert job.key in self.running
        self.records[job.key] += records

    def finished(self, job: Job, outcomes: Sequence[Outcome]) -> None:
        self.running.remove(job.key)
        self.outcomes[job.key] = list(outcomes)

    def ended(self, job: Job, ending: Ending) -> None:
        self.running.remove(job.key)
        self.endings[job.key] = ending


class Told(JobList):
    """A source that remembers what it was told."""

    def __init__(self, jobs: list[Job]) -> None:
        super().__init__(jobs)
        self.outcomes: dict[str, list[Outcome]] = {}
        self.endings: dict[str, Ending] = {}

    def finished(self, job: Job, outcomes: Sequence[Outcome]) -> None:
        self.outcomes[job.key] = list(outcomes)

    def ended(self, job: Job, ending: Ending) -> None:
        self.endings[job.key] = ending


@dataclass(frozen=True)
class Launched:
    """What was heard of the jobs, by the observer and by the source.

    before: what the observer had heard once a source without jobs had been performed.
    addresses: on which this process and Ray's listened meanwhile.
    """

    before: Log
    log: Log
    source: Told
    context: JobContext
    addresses: set[str]


def listening() -> set[str]:
    """Addresses at which this process and those that it started take connections."""
    own = psutil.Process()
    found = set()
    for process in (own, *own.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            found |= {
                connection.laddr.ip.removeprefix("::ffff:")
                for connection in process.net_connections("tcp")
                if connection.status == psutil.CONN_LISTEN
            }
    return found


@pytest.fixture(scope="module")
def launched(
    at_desk: Callable[[], AbstractContextManager[None]], desk: Path, digits: ImageData
) -> Launched:
    """Jobs of every kind and fate, two at a time, on the network of conftest.py."""
    config = small_config(
        desk,
        model="nets:troubled",
        training=TrainingConfig(2, 1, 3, batch_size=32),
        seed=7,
        runs=str(desk / "launched"),
    )
    with at_desk():
        builder = models.resolve(config.model, num_classes=10, in_channels=1)
        preflight = check(config, builder, digits.sample)
        fine = from_scratch_job(widths=dict.fromkeys(preflight.groups, 5))
        broken = from_scratch_job("broken", widths={"no such group": 3})
        source, before, log = Told([*map(trial_job, range(5)), broken, fine]), Log(), Log()
        context = JobContext(config, preflight, "cpu")
        with cluster(context, digits, Share(2, 1, 0.0)) as perform_all:
            perform_all(JobList([]), before)
            assert not config.directory.exists()
            addresses = listening()
            perform_all(source, log)
    return Launched(before, log, source, context, addresses)


def test_source_and_observer_hear_of_every_job(launched: Launched):
    log, source = launched.log, launched.source
    assert len(source) == 0
    assert log.running == set()
    assert log.outcomes == source.outcomes
    assert log.endings == source.endings
    assert set(log.outcomes) == {"fine-tuned-0", "fine-tuned-3", "uniform-b100"}
    assert set(log.endings) == {"fine-tuned-1", "fine-tuned-2", "fine-tuned-4", "broken"}


def test_a_ray_of_ones_own_listens_on_this_machine_only(launched: Launched):
    assert launched.addresses <= {"127.0.0.1", "::1"}
    assert launched.addresses


def test_a_trial_comes_with_its_by_products(launched: Launched):
    outcomes = launched.log.outcomes
    for number in (0, 3):
        own, half = outcomes[f"fine-tuned-{number}"]
        assert (own.key, half.key) == (f"fine-tuned-{number}", f"fine-tuned-{number}-t50")
        assert half.flops <= 100_000 < own.flops <= 200_000
    assert len(outcomes["uniform-b100"]) == 1


def test_no_more_jobs_run_than_there_are_workers(launched: Launched):
    assert launched.log.most_at_once == launched.log.num_workers == 2


def test_outcomes_are_those_of_the_stored_networks(launched: Launched):
    context = launched.context
    for stored in chain(*launched.log.outcomes.values()):
        network = copycat.load(context.config.directory / stored.path, trust=["nets"])
        cost = measure_cost(network, context.preflight.example_input)
        assert (cost.flops, cost.params) == (stored.flops, stored.params)


def test_a_worker_does_what_this_process_would_do(
    launched: Launched, digits: ImageData, desk: Path, tmp_path: Path, monkeypatch
):
    monkeypatch.chdir(desk)
    config = dataclasses.replace(launched.context.config, runs=str(tmp_path))
    here = dataclasses.replace(launched.context, config=config)
    records: list[EpochRecord] = []
    stored, *_ = perform(trial_job(0), here, digits, records.extend)
    there, *_ = launched.log.outcomes["fine-tuned-0"]
    assert stored.profile == there.profile
    assert stored.validation_score == pytest.approx(there.validation_score, abs=0.05)
    losses = [record.train_loss for record in launched.log.records["fine-tuned-0"]]
    assert [record.train_loss for record in records] == pytest.approx(losses, rel=0.01)


def test_epochs_are_heard_of_in_their_order(launched: Launched):
    records = launched.log.records
    for number in (0, 3):
        assert [(r.stage, r.step) for r in records[f"fine-tuned-{number}"]] == [
            ("sparse training", 1),
            ("sparse training", 2),
            ("fine-tuning", 3),
            ("fine-tuning", 4),
        ]
    assert [(r.stage, r.step) for r in records["uniform-b100"]] == [
        ("from scratch", step) for step in (1, 2, 3)
    ]


def test_a_failure_has_its_reason_on_one_line(launched: Launched):
    endings = launched.log.endings
    assert {ending.state for ending in endings.values()} == {"failed"}
    reasons = {key: ending.reason for key, ending in endings.items()}
    assert reasons["fine-tuned-1"].startswith("nets:troubled failed: RuntimeError: out of luck (")
    assert reasons["fine-tuned-2"].startswith("training diverged in epoch 1 of 2: the loss is ")
    assert "no such group" in reasons["broken"]
    assert "probe" in reasons["fine-tuned-4"]  # a worker loads again what it has stored
    assert {key for key in reasons if launched.log.records[key]} == {"fine-tuned-4"}


def test_a_job_whose_process_ended_is_tried_again(launched: Launched, desk: Path):
    assert (desk / "died").exists()
    assert "fine-tuned-3" in launched.log.outcomes


def test_a_job_whose_process_ends_again_and_again_has_failed(context: JobContext):
    source, log = Told([trial_job(4)]), Log()
    searcher = _JobSearcher(source, log, context)
    searcher.suggest("a1b2")
    searcher.on_trial_complete("a1b2", None, error=True)
    died = Ending("failed", "its worker process died")
    assert source.endings == log.endings == {"fine-tuned-4": died}
    assert searcher.suggest("c3d4") == _JobSearcher.FINISHED


def test_while_there_is_no_job_yet_tune_is_to_ask_again(context: JobContext):
    class Waiting(Told):
        is_over = False

    source = Waiting([trial_job(4)])
    searcher = _JobSearcher(source, Log(), context)
    assert isinstance(searcher.suggest("a1b2"), dict)
    assert searcher.suggest("c3d4") is None
    source.is_over = True
    assert searcher.suggest("c3d4") == _JobSearcher.FINISHED


def test_a_full_disk_settles_nothing_and_nothing_more_is_handed_out(context: JobContext):
    source, log = Told([trial_job(4), trial_job(5)]), Log()
    searcher = _JobSearcher(source, log, context)
    searcher.suggest("a1b2")
    searcher.on_trial_complete("a1b2", {"disk full": "make room"})
    assert searcher.disk_full == "make room"
    assert searcher.suggest("c3d4") == _JobSearcher.FINISHED
    assert source.outcomes == source.endings == log.outcomes == log.endings == {}
    assert len(source) == 1


def test_what_a_worker_stored_elsewhere_is_not_counted_as_done(
    context: JobContext, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(artifacts, "_SHARING_SECONDS", 0.3)
    source, log = Told([trial_job(4), trial_job(5)]), Log()
    searcher = _JobSearcher(source, log, context)
    for number in (4, 5):
        searcher.suggest(f"id {number}")
    here, elsewhere = (
        outcome(f"fine-tuned-{n}", path=f"architectures/fine-tuned-{n}") for n in (4, 5)
    )
    monkeypatch.setattr(
        artifacts,
        "_is_stored",
        lambda _, found: found.key == here.key,
    )
    for number, found in ((4, here), (5, elsewhere)):
        result = {"outcomes": json.dumps([found.to_mapping()])}
        searcher.on_trial_complete(f"id {number}", result)
    assert source.outcomes == log.outcomes == {"fine-tuned-4": [here]}
    assert source.endings == log.endings
    assert source.endings["fine-tuned-5"].reason == (
        "its worker says that it stored architectures/fine-tuned-5, but there is none in "
        f"{context.directory}: workers need that folder under the same path"
    )


def test_relative_paths_mean_the_same_in_another_folder(
    tmp_path: Path, preflight: Preflight, monkeypatch: pytest.MonkeyPatch
):
    """The folder of searches, the teacher and images that stay on disk."""
    training = TrainingConfig(1, 1, 1, distill_from="teacher")
    config = small_config(tmp_path, runs="runs", training=training)
    files = ImageFiles(("a.png", "b/c.png"), torch.zeros(2).long(), (8, 8), "a.png")
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path)
    context, images = JobContext(config, preflight, "cpu").sent(), files.sent()
    monkeypatch.chdir(tmp_path / "there")
    assert context.directory == tmp_path / "runs" / "small"
    assert context.teacher == str(tmp_path / "teacher")
    assert context.config == config
    assert images.paths == (str(tmp_path / "a.png"), str(tmp_path / "b" / "c.png"))


def test_without_jobs_nothing_is_started(launched: Launched):
    assert launched.before.records == {}
