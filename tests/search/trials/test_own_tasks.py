"""Trials of tasks and data of one's own, in this process."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
import torch
from own_data import OwnData, own_data
from samples import small_config
from torch import Tensor, nn
from torch.nn import functional as F

import copycat
from copycat.builder import Builder
from pruning.errors import CriterionError, ModelError
from search import Score, Task, TrainingContext
from search.config.study_config import StudyConfig
from search.config.training_config import TrainingConfig
from search.studies.dry_run import dry_run_of_search
from search.tasks.regression import Determination
from search.trials.job_context import JobContext
from search.trials.jobs import EpochRecord, Outcome, TrialJob
from search.trials.preflight import check
from search.trials.search_space import SearchSpace
from search.trials.trial import perform


class TwoInputs(nn.Module):
    """A signal of 16 values and a row of three numbers become one number."""

    def __init__(self) -> None:
        super().__init__()
        self.signal = nn.Sequential(
            nn.Conv1d(1, 8, 3, padding=1), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 8, 3)
        )
        self.norm = nn.BatchNorm1d(8)
        self.row = nn.Linear(3, 8)
        self.head = nn.Linear(16, 1)

    def forward(self, signal: Tensor, row: Tensor) -> Tensor:
        features = self.norm(self.signal(signal)).relu().mean(2)
        return self.head(torch.cat([features, self.row(row).relu()], 1))[:, 0]


def two_inputs() -> nn.Module:
    return TwoInputs()


def of_a_tuple(count: int, generator: torch.Generator) -> tuple[Any, Tensor]:
    signal = torch.randn(count, 1, 16, generator=generator)
    row = torch.randn(count, 3, generator=generator)
    return (signal, row), signal.mean((1, 2)) + row[:, 0]


def of_a_mapping(count: int, generator: torch.Generator) -> tuple[Any, Tensor]:
    (signal, row), targets = of_a_tuple(count, generator)
    return {"row": row, "signal": signal}, targets


def per_pixel() -> nn.Module:
    """A class out of two for each pixel of a picture 1×6×6."""
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
        nn.Conv2d(8, 2, 1),
    )


def of_pixels(count: int, generator: torch.Generator) -> tuple[Any, Tensor]:
    pictures = torch.randn(count, 1, 6, 6, generator=generator)
    return pictures, (pictures[:, 0] > 0).long()


def per_label() -> nn.Module:
    """Two logits for a picture 1×6×6."""
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)),
    )


def of_labels(count: int, generator: torch.Generator) -> tuple[Any, Tensor]:
    pictures = torch.randn(count, 1, 6, 6, generator=generator)
    bright = pictures.mean((1, 2, 3)) > 0
    return pictures, torch.stack([bright, ~bright], 1).long()


@dataclasses.dataclass
class Reading:
    """What a network makes of volumes."""

    mean: Tensor
    largest: Tensor


class OfVolumes(nn.Module):
    """A mean, in a dataclass, of volumes 1×4×5×6."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm3d(8)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Reading:
        features = self.norm(self.conv(x)).relu().mean((2, 3, 4))
        numbers = self.head(features)
        return Reading(numbers[:, 0], numbers.amax(1))


def of_volumes() -> nn.Module:
    return OfVolumes()


def volumes(count: int, generator: torch.Generator) -> tuple[Any, Tensor]:
    x = torch.randn(count, 1, 4, 5, 6, generator=generator)
    return x, x.mean((1, 2, 3, 4))


class MeansOfReadings:
    """R² of what a network returns in a dataclass."""

    def __init__(self) -> None:
        self._metric = Determination()

    def update(self, outputs: Reading, targets: Tensor, /) -> None:
        self._metric.update(outputs.mean, targets)

    def compute(self) -> float:
        return self._metric.compute()


class ByReading(Task):
    """Regression by a network that returns a dataclass."""

    score = Score("R²", is_share=False)

    def loss(self, outputs: Reading, targets: Tensor) -> Tensor:
        return F.mse_loss(outputs.mean, targets)

    def metric(self) -> MeansOfReadings:
        return MeansOfReadings()


class ByStep(Task):
    """Says its loss of whole minibatches, which are no pairs, only."""

    score = Score("R²", is_share=False)

    def training_step(self, model: nn.Module, batch: Any) -> Tensor:
        assert model.training
        (signal, row), targets = batch
        return F.mse_loss(model(signal, row), targets)

    def evaluate(self, model: nn.Module, loader: Any) -> float:
        assert not next(iter(loader.in_order()))[1].requires_grad
        metric = Determination()
        model.eval()
        with torch.no_grad():
            for (signal, row), targets in loader.in_order():
                metric.update(model(signal, row), targets)
        return metric.compute()


class ByLoop(Task):
    """Has a training loop of its own and says no loss."""

    score = Score("closeness", is_share=False)

    def metric(self) -> Determination:
        return Determination()

    def train(self, model: nn.Module, context: TrainingContext) -> None:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for _ in context.epochs_left:
            for (signal, row), targets in context.batches():
                loss = F.mse_loss(model(signal, row), targets)
                optimizer.zero_grad()
                (loss + context.penalty(model)).backward()
                optimizer.step()
                context.after_step(model)
            context.report(train_loss=float(loss.detach()))


class Unmeasurable(ByStep):
    def evaluate(self, model: nn.Module, loader: Any) -> float:
        return float("nan")


def opened(
    folder: Path,
    data: OwnData,
    task: Task | None,
    *methods: str,
    name: str = "regression",
    network: str = "two_inputs",
) -> JobContext:
    config = small_config(
        folder,
        model="own:net",
        budget=("flops=80%",),
        criterion=methods,
        task=name,
        training=TrainingConfig(4, 2, 1, batch_size=16),
        study=StudyConfig(by_products=1, early_stopping=True),
    )
    preflight = check(config, Builder(f"{__name__}:{network}"), data.sample, task)
    return JobContext(config, preflight, "cpu", own_task=task)


def space(context: JobContext) -> SearchSpace:
    flops = context.preflight.base.flops
    return SearchSpace(10.0, (flops * 0.6, flops * 0.8), context.config.criteria)


def trial_by(method: str, context: JobContext) -> TrialJob:
    return TrialJob(0, space(context).mildest(method, "filter"))


def performed(context: JobContext, data: OwnData, method: str) -> list[Outcome]:
    records: list[EpochRecord] = []
    outcomes = perform(trial_by(method, context), context, data, records.extend)
    assert [r.step for r in records] == list(range(1, len(records) + 1))
    assert all(o.validation_score == o.validation_score for o in outcomes)
    return list(outcomes)


@pytest.fixture(autouse=True)
def _importable(importable: Any) -> None:
    importable(__name__, globals())


ALL = (
    *("rni", "magnitude-l1", "taylor", "taylor-weights", "taylor-full-gradient"),
    *("taylor-second-order", "obd", "fisher", "snip", "oracle", "scaling-factors", "random"),
)
OF_SAMPLES = ("taylor-full-gradient", "fisher")


@pytest.mark.parametrize("make", [of_a_tuple, of_a_mapping])
def test_every_method_prunes_a_regression_of_two_inputs(tmp_path: Path, make: Any) -> None:
    data = own_data(make)
    context = opened(tmp_path, data, None, *ALL)
    dry_run_of_search(context, data, space(context))


def test_a_trial_of_two_inputs_is_stored_and_verified(tmp_path: Path) -> None:
    data = own_data(of_a_mapping)
    context = opened(tmp_path, data, None, "taylor")
    for outcome in performed(context, data, "taylor"):
        folder = context.directory / outcome.path
        copycat.verify(folder, trust=(__name__,))
        model = copycat.load(folder, trust=(__name__,))
        batches = list(data.loader("test", device=torch.device("cpu")).in_order())
        metric = Determination()
        metric.update(model(**batches[0][0]), batches[0][1])
        assert metric.compute() == pytest.approx(outcome.test_score, abs=1e-6)
        assert copycat.read(folder).provenance["task"] == "regression"


class KilledError(BaseException):
    """In place of a signal: from here on there is what lies in files."""


def killed_in(epoch: int) -> Callable[[Sequence[EpochRecord]], None]:
    def report(records: Sequence[EpochRecord]) -> None:
        if records[-1].step == epoch:
            raise KilledError

    return report


@dataclasses.dataclass(frozen=True)
class Case:
    """A task, what it is shown with, and a method that can judge by it."""

    make: Callable[[int, torch.Generator], tuple[Any, Tensor]]
    name: str = "regression"
    network: str = "two_inputs"
    task: Task | None = None
    method: str = "taylor"

    def opened(self, folder: Path, data: OwnData) -> JobContext:
        return opened(folder, data, self.task, self.method, name=self.name, network=self.network)


CASES = {
    "regression": Case(of_a_mapping),
    "segmentation": Case(of_pixels, "segmentation", "per_pixel"),
    "multilabel": Case(of_labels, "multilabel", "per_label"),
    "volumes and a dataclass": Case(volumes, network="of_volumes", task=ByReading(), method="rni"),
    "steps of one's own": Case(of_a_tuple, task=ByStep()),
    "a loop of one's own": Case(of_a_tuple, task=ByLoop(), method="magnitude-l1"),
}


@pytest.mark.parametrize("epoch", [2, 5], ids=["sparse", "fine-tuning"])
@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_a_killed_trial_of_any_task_goes_on_to_the_same_networks(
    tmp_path: Path, case: Case, epoch: int
) -> None:
    """Bit by bit; every one of them is certified."""
    data, stored = own_data(case.make), []
    for name in ("whole", "killed"):
        context = case.opened(tmp_path / name, data)
        if name == "killed":
            with pytest.raises(KilledError):
                perform(trial_by(case.method, context), context, data, killed_in(epoch))
        outcomes = performed(case.opened(tmp_path / name, data), data, case.method)
        folders = [context.directory / outcome.path for outcome in outcomes]
        certified = [copycat.verify(folder, trust=(__name__,)) for folder in folders]
        scores = [(outcome.validation_score, outcome.test_score) for outcome in outcomes]
        stored.append([(each.weights_sha256, each.cost) for each in certified] + scores)
    assert stored[0] == stored[1]


def test_a_step_of_whole_minibatches_serves_every_criterion_but_those_of_samples(
    tmp_path: Path,
) -> None:
    data = own_data(of_a_tuple)
    able = tuple(name for name in ALL if name not in OF_SAMPLES)
    context = opened(tmp_path, data, ByStep(), *able)
    dry_run_of_search(context, data, space(context))
    for name in OF_SAMPLES:
        with pytest.raises(CriterionError, match=f"{name} cannot judge by ByStep: .* each sample"):
            opened(tmp_path, data, ByStep(), name)


def test_a_trial_by_steps_of_ones_own_is_stopped_early_or_not_like_others(tmp_path: Path) -> None:
    """Batch norm is estimated again by such steps, for what it would be worth on the rungs."""
    data = own_data(of_a_tuple)
    context = opened(tmp_path, data, ByStep(), "taylor")
    assert performed(context, data, "taylor")
    rungs = sorted(context.directory.glob("rungs/*.npy"))
    assert len(rungs) == 2


def test_a_loop_of_ones_own_goes_through_a_trial(tmp_path: Path) -> None:
    data = own_data(of_a_tuple)
    context = opened(tmp_path, data, ByLoop(), "rni", "magnitude-l1")
    dry_run_of_search(context, data, space(context))
    assert performed(context, data, "rni")
    assert sorted(context.directory.glob("rungs/*.npy"))
    without = opened(tmp_path, data, ByLoop(), "taylor")
    with pytest.raises(CriterionError, match="ByLoop gives neither loss nor training_step"):
        dry_run_of_search(without, data, space(without))


def test_a_score_that_is_no_number_is_refused_before_training(tmp_path: Path) -> None:
    data = own_data(of_a_tuple)
    context = opened(tmp_path, data, Unmeasurable(), "taylor")
    with pytest.raises(ModelError, match=r"fails a dry run .*the R² of the network is nan"):
        dry_run_of_search(context, data, space(context))


def test_a_task_given_in_python_reaches_other_processes(tmp_path: Path) -> None:
    """Also one that was defined where nobody can import it, as in a notebook."""

    class Local(ByStep):
        def __init__(self, weight: float) -> None:
            self.weight = weight

    data = own_data(of_a_tuple)
    context = opened(tmp_path, data, Local(0.25), "taylor").sent()
    there = pickle.loads(cloudpickle.dumps(context))
    assert there.task.weight == 0.25
    assert dataclasses.replace(there, own_task=None).task.score.name == "R²"
