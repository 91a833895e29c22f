"""Jobs, outcomes and small searches that the tests of search/ share."""

from __future__ import annotations

import io
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from copycat import WidthProfile, build
from copycat.architecture import Architecture, save
from pruning.errors import EspalierError
from search.cli import main
from search.config.data_config import DataConfig
from search.config.search_config import SearchConfig
from search.config.study_config import StudyConfig
from search.config.training_config import TrainingConfig
from search.data.datasets import ImageData
from search.results.report import Results
from search.tasks.score import ACCURACY, Score
from search.tasks.task import Task
from search.trials.job_context import JobContext
from search.trials.jobs import (
    EpochRecord,
    FromScratchJob,
    Job,
    JobSource,
    Observer,
    Outcome,
    TrialJob,
)
from search.trials.pareto import Hypervolume, Point, Reference
from search.trials.preflight import Preflight
from search.trials.search_space import Proposal
from search.trials.trial import ending_of, perform

Perform = Callable[..., tuple[Outcome, ...]]
"""What stands in for search.trials.trial.perform."""

MEAN_IOU = Score("mean IoU")
ABSOLUTE_ERROR = Score("mean absolute error", "minimize", is_share=False)
SCORES = (ACCURACY, MEAN_IOU, ABSOLUTE_ERROR)
"""Shares to maximise, of samples and of something else, and a number to minimise."""

NUM_IMAGES = 240
"""Training images of the small searches, a fifth of them for validation."""


def small_config(folder: Path, **changes: object) -> SearchConfig:
    """A search on a few digits that takes a second where no process has to be started."""
    settings: dict[str, object] = {
        "model": "digits-vgg",
        "budget": ("flops=10%",),
        "data": DataConfig(limit_train=NUM_IMAGES),
        "training": TrainingConfig(1, 1, 1, batch_size=32),
        "study": StudyConfig(by_products=1, tempered_trials=1, candidate_epochs=0),
        "trials": 2,
        "ladder": (1.0, 0.5),
        "concurrency": 2,
        "device": "cpu",
        "name": "small",
        "runs": str(folder / "runs"),
    }
    return SearchConfig(**(settings | changes))


def one_trial_config(folder: Path, **changes: object) -> SearchConfig:
    """A search of one trial, by magnitudes, to one budget, beside one other shape."""
    settings: dict[str, object] = {
        "criterion": ("magnitude-l2",),
        "study": StudyConfig(by_products=0, tempered_trials=0),
        "data": DataConfig(limit_train=60),
        "trials": 1,
        "ladder": (1.0,),
        "profiles": 1,
        "equal_compute_pairs": False,
    }
    return small_config(folder, **(settings | changes))


def quick_config(folder: Path, **changes: object) -> SearchConfig:
    """A search that takes half a second."""
    settings: dict[str, object] = {
        "model": "samples:small_network",
        "budget": ("flops=60%",),
        "ladder": (1.0, 0.5),
        "profiles": 1,
    }
    return small_config(folder, **(settings | changes))


def small_network(num_classes: int, width: int = 8) -> nn.Module:
    """Two convolutions with batch norms and a classifier, 44 k FLOPs on a digit."""
    layers: list[nn.Module] = []
    for inputs in (1, width):
        layers += [nn.Conv2d(inputs, width, 3, padding=1, bias=False)]
        layers += [nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes)
    )


class ProbabilityError(Task):
    """Classification, measured by how far the probability of the right class is from one."""

    score = ABSOLUTE_ERROR

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        return nn.functional.cross_entropy(outputs, targets)

    def metric(self) -> MeanError:
        return MeanError()


class MeanError:
    def __init__(self) -> None:
        self.errors: list[float] = []

    def update(self, outputs: Tensor, targets: Tensor, /) -> None:
        right = outputs.softmax(1).gather(1, targets[:, None])
        self.errors += (1 - right).flatten().tolist()

    def compute(self) -> float:
        return statistics.fmean(self.errors)


class WithBareParameter(nn.Module):
    """Two convolutions and a random parameter that belongs to no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        self.second = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        self.head = nn.Linear(8, 10)
        self.bare = nn.Parameter(torch.randn(10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.second(self.first(x).relu()).relu()
        return self.head(x.mean((2, 3))) + self.bare


def with_bare_parameter() -> nn.Module:
    return WithBareParameter()


def trial_job(
    number: int = 0, target_flops: int = 200_000, strength: float = 1.0, shift: float = 1.5
) -> TrialJob:
    settings = {"rni.strength": strength, "rni.shift": shift}
    return TrialJob(number, Proposal("rni", "filter", settings, target_flops))


def from_scratch_job(key: str = "uniform-b100", **changes: object) -> FromScratchJob:
    settings: dict[str, object] = {
        "key": key,
        "origin": "uniform",
        "trial": None,
        "rung": 1.0,
        "alpha": 0.5,
        "widths": {"conv": 3},
    }
    return FromScratchJob(**(settings | changes))


def outcome(key: str = "fine-tuned-0", **changes: object) -> Outcome:
    settings: dict[str, object] = {
        "key": key,
        "origin": "fine-tuned",
        "trial": 0,
        "rung": None,
        "alpha": 1.0,
        "flops": 1000,
        "params": 100,
        "validation_score": 0.5,
        "test_score": 0.5,
        "profile": "00000000",
        "path": f"architectures/{key}",
    }
    return Outcome(**(settings | changes))


def base_outcome(**changes: object) -> Outcome:
    """The base network as a search trains it, once."""
    settings: dict[str, object] = {"origin": "base", "trial": None, "flops": 10_000, "params": 1000}
    return outcome("base", **(settings | changes))


def epoch_record(step: int = 1, num_steps: int = 2, **changes: object) -> EpochRecord:
    settings: dict[str, object] = {
        "stage": "sparse training",
        "step": step,
        "num_steps": num_steps,
        "train_loss": 2.0 / step,
        "validation_score": step / 10,
        "learning_rate": 0.1,
    }
    return EpochRecord(**(settings | changes))


def stored_outcome(
    config: SearchConfig,
    preflight: Preflight,
    trial: int,
    widths: dict[str, int],
    validation_score: float,
) -> Outcome:
    """An untrained network of these widths in the search's folder, as a trial leaves it."""
    profile, cost = WidthProfile(widths), preflight.graph.cost(widths)
    model = build(preflight.builder(), profile, preflight.example_input, graph=preflight.graph)
    result = outcome(
        f"fine-tuned-{trial}",
        trial=trial,
        flops=cost.flops,
        params=cost.params,
        validation_score=validation_score,
        profile=profile.digest,
    )
    architecture = Architecture(
        preflight.builder, profile, preflight.input_shape, preflight.classes, cost
    )
    save(config.directory / result.path, architecture, model)
    return result


def run_in_process(
    source: JobSource,
    context: JobContext,
    data: ImageData,
    observer: Observer,
    perform_job: Perform = perform,
) -> None:
    """What search.scheduling.ray_executor.cluster gives, one job after the other, without Ray."""
    while (job := source.next()) is not None:
        observer.started(job)

        def report(records: Sequence[EpochRecord], job: Job = job) -> None:
            if records:
                observer.epochs(job, records)

        try:
            result = perform_job(job, context, data, report)
        except EspalierError as error:
            source.ended(job, ending_of(error))
            observer.ended(job, ending_of(error))
        else:
            source.finished(job, result)
            observer.finished(job, result)


class Picture:
    """Stands in for a figure, which takes a second to draw."""

    def savefig(self, file: Path, **_: object) -> None:
        """Something is in the file."""
        file.write_text("a picture")


class Workers:
    """Stands in for Ray: performs jobs here, one by one, and counts them."""

    def __init__(self) -> None:
        self.perform: Perform = perform
        self.performed: list[str] = []

    @contextmanager
    def cluster(self, context, data, share) -> Iterator[Callable[..., None]]:
        def counted(job: Job, *rest: object) -> tuple[Outcome, ...]:
            found = self.perform(job, *rest)
            self.performed.append(job.key)
            return found

        def perform_all(source, observer) -> None:
            run_in_process(source, context, data, observer, perform_job=counted)

        yield perform_all

    def take_over(self, patch: pytest.MonkeyPatch, *, draws: bool = False) -> None:
        """Searches have their jobs performed here, and networks looked at.

        None is tried out before, which is tested in test_dry_run.py and test_end_to_end.py; none
        draws figures, which takes seconds, unless it `draws`. Small networks have few shapes to
        choose from.
        """
        patch.setattr("search.studies.session.ray_executor", self)
        for kind in ("search", "family", "correlation"):
            patch.setattr(f"search.studies.{kind}_study.try_out", lambda *_: None)
        patch.setattr("search.studies.setup.apart", lambda task, *rest: task(*rest))
        patch.setattr("search.scheduling.shape_selection._POINTS", 20)
        patch.setattr("search.scheduling.own_ray.begin", lambda share: None)
        if not draws:
            patch.setattr("search.studies.publishing.front_figure", lambda _: Picture())
            patch.setattr("search.studies.publishing.draw_all", lambda *_: [])


@dataclass(frozen=True)
class Completed:
    """What a command printed, and its exit status."""

    status: int
    out: str
    err: str


@dataclass(frozen=True)
class FinishedSearch:
    """A search that ran to its end: the flags it was given, its folder and its results."""

    flags: tuple[str, ...]
    folder: Path
    completed: Completed
    results: Results

    @property
    def runs(self) -> Path:
        """The folder of all searches."""
        return self.folder.parent


def espalier(*arguments: str | Path) -> Completed:
    """The command line, called in this process."""
    out, err = io.StringIO(), io.StringIO()
    argv = ["espalier", *map(str, arguments)]
    status = 0
    with mock.patch.object(sys, "argv", argv), redirect_stdout(out), redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            status = int(str(end.code))
    return Completed(status, out.getvalue(), err.getvalue())


class SmallResidual(nn.Module):
    """A stem, two residual blocks and a classifier: channels, layers, branches, blocks to prune."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        self.blocks = nn.Sequential(SmallBlock(8), SmallBlock(8))
        self.head = nn.Linear(8, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.stem(x).relu()).mean((2, 3)))


class SmallBlock(nn.Module):
    """Two convolutions beside an identity shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.first_norm(self.first(x)).relu()
        return (x + self.second_norm(self.second(inner))).relu()


def small_residual(num_classes: int) -> nn.Module:
    return SmallResidual(num_classes)


@contextmanager
def another_process(program: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds something of `folder`, says "held" and lives until it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def with_slow(quick: Iterable[object], slow: Iterable[object]) -> list[Any]:
    """Values of a parameter; the `slow` ones are tried in the slow tests alone."""
    return [*quick, *(pytest.param(value, marks=pytest.mark.slow) for value in slow)]


def hypervolume(points: Iterable[Point], reference: Reference, score: Score) -> float | None:
    """Of all these points; see Hypervolume."""
    volume = Hypervolume(reference, score)
    for point in points:
        volume.add(point)
    return volume.value
