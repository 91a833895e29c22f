"""What Ray gives trials of GPUs, and what becomes of trials whose GPU fails.

Ray counts GPUs that are not there (logical ones) as it counts others: trials that compute on the
CPU are given them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path

import pytest
import torch
from samples import run_in_process, small_config, trial_job

from search import models
from search.config.study_config import StudyConfig
from search.config.training_config import TrainingConfig
from search.data.datasets import ImageData
from search.scheduling import own_ray
from search.scheduling.ray_executor import cluster
from search.scheduling.share import Share
from search.trials.job_context import JobContext
from search.trials.jobs import Ending, EpochRecord, Job, JobList, Observer, Outcome
from search.trials.preflight import check

GPUS = """
import json
import os
import time
from pathlib import Path

import torch

from search.models import digits_vgg


class Observed(torch.nn.Module):
    "Writes down where each step of training was taken; fails in trials as `_fail` says."

    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.number = int((torch.initial_seed() - 7 * 2**21) / 2)
        self.network = digits_vgg(num_classes, in_channels)

    def forward(self, x):
        if self.training and torch.is_grad_enabled() and x.device.type != "meta":
            folder = Path(os.environ["ESPALIER_TEST_FOLDER"])
            gpus, now = os.environ.get("CUDA_VISIBLE_DEVICES"), time.time()
            with (folder / f"{self.number}.jsonl").open("a") as file:
                file.write(json.dumps([os.getpid(), gpus, now]) + "\\n")
            self._fail(folder, len((folder / f"{self.number}.jsonl").read_text().splitlines()))
        return self.network(x)

    def _fail(self, folder, step):
        kind = folder.name
        if kind == "faults":
            if self.number == 0:
                raise torch.AcceleratorError("CUDA error: device-side assert triggered")
            if self.number == 1 and step == 7:
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
            if self.number == 2:
                raise torch.OutOfMemoryError("CUDA out of memory.")
        elif kind == "broken":
            if self.number == 0:  # an assertion of a kernel fails, with all that follows
                torch.zeros(2, device="cuda")[torch.tensor([5], device="cuda")].sum().item()
        elif kind == "parallel":
            is_last = torch.distributed.is_initialized() and torch.distributed.get_rank() == 1
            if self.number == 1 and is_last and step >= 8 and not (folder / "died").exists():
                (folder / "died").touch()
                os._exit(1)
        else:
            while kind == "together" and len(list(folder.glob("*.jsonl"))) < 2:
                time.sleep(0.05)
            if kind == "assigned":
                time.sleep(0.1)
                if self.number in (0, 1) and step == 3:
                    os._exit(1)
"""


class Log(Observer):
    """Remembers what came of jobs, by trial.

    losses: by trial and epoch.
    """

    def __init__(self) -> None:
        self.epochs_of: dict[int, list[int]] = {}
        self.losses: dict[tuple[int, int], float] = {}
        self.outcomes: dict[int, tuple[Outcome, ...]] = {}
        self.endings: dict[int, Ending] = {}

    def epochs(self, job: Job, records: list[EpochRecord]) -> None:
        self.epochs_of.setdefault(job.number, []).extend(record.step for record in records)
        self.losses |= {(job.number, record.step): record.train_loss for record in records}

    def finished(self, job: Job, outcomes: list[Outcome]) -> None:
        self.outcomes[job.number] = tuple(outcomes)

    def ended(self, job: Job, ending: Ending) -> None:
        self.endings[job.number] = ending


@dataclass(frozen=True)
class Steps:
    """Where the steps of a trial were taken, in order: processes, the GPUs each saw, and times."""

    processes: list[int]
    gpus: list[str]
    times: list[float]

    def of_each_process(self) -> list[Steps]:
        """In any order: a trial that was begun anew has several, maybe on different GPUs."""
        steps = list(zip(self.processes, self.gpus, self.times, strict=True))
        return [
            Steps(*map(list, zip(*(step for step in steps if step[0] == process), strict=True)))
            for process in set(self.processes)
        ]

    def overlaps(self, other: Steps) -> bool:
        return self.times[0] < other.times[-1] and other.times[0] < self.times[-1]


Perform = Callable[..., tuple[Log, list[Steps]]]


@pytest.fixture(scope="module")
def performed(
    at_desk: Callable[[], AbstractContextManager[None]],
    desk: Path,
    digits: ImageData,
    tmp_path_factory: pytest.TempPathFactory,
) -> Perform:
    """Performs trials by the network above: of two epochs of three steps, and one.

    share: what a real Ray gives them; where there is none they are performed in this process.
    """
    (desk / "gpus.py").write_text(GPUS)

    def perform(
        kind: str, count: int, share: Share | None, device: str = "cpu"
    ) -> tuple[Log, list[Steps]]:
        folder = tmp_path_factory.mktemp("gpus") / kind
        folder.mkdir()
        few = digits.few(96)
        config = small_config(
            desk,
            model="gpus:Observed",
            training=TrainingConfig(2, 1, 1, batch_size=32),
            study=StudyConfig(early_stopping=False, by_products=0, tempered_trials=0),
            seed=7,
            runs=str(folder / "runs"),
        )
        log = Log()
        with at_desk(), pytest.MonkeyPatch.context() as patch:
            patch.setenv("ESPALIER_TEST_FOLDER", str(folder))
            # Workers find the variable if their Ray starts with it.
            patch.setattr(own_ray, "_KEEPER", ContextVar("of these trials", default=None))
            builder = models.resolve(config.model, num_classes=10, in_channels=1)
            context = JobContext(config, check(config, builder, few.sample), device)
            jobs = JobList(map(trial_job, range(count)))
            if share is None:
                run_in_process(jobs, context, few, log)
            else:
                with cluster(context, few, share) as perform_all:
                    perform_all(jobs, log)
        assert log.outcomes, log.endings
        return log, [steps_of(folder / f"{number}.jsonl") for number in range(count)]

    return perform


def steps_of(file: Path) -> Steps:
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return Steps(*map(list, zip(*lines, strict=True)))


@pytest.mark.slow
def test_each_trial_has_a_gpu_of_its_own_also_after_a_restart(performed: Perform) -> None:
    """The processes of trials 0 and 1 die in their third step."""
    log, steps = performed("assigned", 4, Share(2, 1, 1.0))
    assert set(log.outcomes) == {0, 1, 2, 3}
    assert {gpu for trial in steps for gpu in trial.gpus} == {"0", "1"}
    for trial in steps:
        by_process = dict(zip(trial.processes, trial.gpus, strict=True))
        assert [by_process[process] for process in trial.processes] == trial.gpus
    for number in (0, 1):
        assert len(set(steps[number].processes)) == 2
    assert any(a.overlaps(b) for a, b in combinations(steps, 2))
    for one, other in combinations(steps, 2):
        for a, b in product(one.of_each_process(), other.of_each_process()):
            assert a.gpus[0] != b.gpus[0] or not a.overlaps(b)


@pytest.mark.slow
def test_two_trials_of_a_half_share_a_gpu_at_once(performed: Perform) -> None:
    """None takes a step before both have begun."""
    log, steps = performed("together", 2, Share(2, 1, 0.5))
    assert set(log.outcomes) == {0, 1}
    assert {gpu for trial in steps for gpu in trial.gpus} == {"0"}
    assert len({process for trial in steps for process in trial.processes}) == 2


def test_a_gpu_that_fails_ends_the_process_and_not_the_trials_after_it(performed: Perform) -> None:
    """Trial 0 always fails, 1 once in its third epoch, 2 for want of memory, 3 never."""
    log, steps = performed("faults", 4, Share(1, 1, 1.0))
    assert set(log.outcomes) == {1, 3}
    assert log.endings[0].reason == "CUDA error: device-side assert triggered, 3 times in epoch 1"
    assert len(set(steps[0].processes)) == len(steps[0].processes) == 3
    assert log.epochs_of[1][:5] == [1, 2, 1, 2, 3]  # what is behind it is told again
    assert len(steps[1].processes) == len(steps[3].processes) + 1  # the seventh was taken twice
    before, after = steps[1].processes[6], steps[1].processes[7]
    assert before != after
    assert "--batch-size" in log.endings[2].reason
    assert set(steps[2].processes) == set(steps[3].processes) == {after}
    assert after not in steps[0].processes


@pytest.mark.slow
def test_two_gpus_train_a_trial_as_one_does(performed: Perform) -> None:
    """The second process of trial 1 dies in its second epoch; Ray begins both anew."""
    alone, _ = performed("alone", 2, None)
    log, steps = performed("parallel", 2, Share(1, 2, 2.0))
    assert log.endings == {}
    for trial in steps:
        assert set(trial.gpus) == {"0", "1"}
        by_process = set(zip(trial.processes, trial.gpus, strict=True))
        assert len(by_process) == len(set(trial.processes))
    assert len(set(steps[0].processes)) == 2
    assert len(set(steps[1].processes)) == 4
    assert log.epochs_of[0] == alone.epochs_of[0]
    assert log.epochs_of[1] == [1, *alone.epochs_of[1]]
    assert log.losses == pytest.approx(alone.losses, rel=1e-3)
    for number, outcomes in alone.outcomes.items():
        found = log.outcomes[number]
        assert [o.key for o in found] == [o.key for o in outcomes]
        for one, other in zip(found, outcomes, strict=True):
            assert one.images == other.images
            assert one.validation_score == pytest.approx(other.validation_score, abs=0.05)


# ---- on real ones

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.gpu
@on_gpu
def test_trials_share_a_real_gpu(performed: Perform) -> None:
    log, steps = performed("together", 2, Share(2, 1, 0.5), "cuda")
    assert set(log.outcomes) == {0, 1}
    assert len({gpu for trial in steps for gpu in trial.gpus}) == 1


@pytest.mark.gpu
@on_gpu
def test_a_real_fault_ends_the_process_and_not_the_trials_after_it(performed: Perform) -> None:
    log, steps = performed("broken", 2, Share(1, 1, 1.0), "cuda")
    assert set(log.outcomes) == {1}
    assert "device-side assert" in log.endings[0].reason
    assert len(set(steps[0].processes)) == 3
    assert not set(steps[0].processes) & set(steps[1].processes)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_real_gpus_train_a_trial_as_one_does(performed: Perform) -> None:
    alone, _ = performed("alone", 1, Share(1, 1, 1.0), "cuda")
    log, _ = performed("parallel", 1, Share(1, 2, 2.0), "cuda")
    assert log.losses == pytest.approx(alone.losses, rel=0.02)
