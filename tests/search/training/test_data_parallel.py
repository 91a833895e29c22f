"""Trainings of several processes on the CPU against those of one.

Other processes import this file, which no other file of tests can be for.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruning import to_sigmoid_batchnorm
from pruning.errors import DataError
from pruning.regularizers import RNI
from search.config.data_config import DataConfig
from search.config.training_config import TrainingConfig
from search.data import datasets
from search.data.data import Batch
from search.models import digits_vgg
from search.system.child_process import ChildProcess
from search.tasks.classification import Classification
from search.training.data_parallel import Ranks, joined, sliced
from search.training.trainer import EpochReport, Trainer

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the loopback device is named lo")

CPU = torch.device("cpu")


class Precise(Classification):
    """The same in float64, where the order of sums hardly matters."""

    def training_step(self, model: nn.Module, batch: Batch) -> Tensor:
        inputs, targets = batch
        if isinstance(targets, Tensor) and targets.is_floating_point():
            targets = targets.double()
        return self.loss(model(inputs.double()), targets)

    def evaluate(self, model: nn.Module, loader: Any) -> float:
        return 0.5


class Scaled(nn.Module):
    """A stack of stock layers and dropout that does nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(1),
            nn.Linear(384, 16), nn.BatchNorm1d(16, affine=False, momentum=None), nn.ReLU(),
            nn.Linear(16, 10),
        )  # fmt: skip
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@dataclass(frozen=True)
class Setup:
    """What is trained, and how many samples on how many processes."""

    config: TrainingConfig
    size: int = 2
    count: int = 150
    network: str = "rni"
    is_precise: bool = True
    split_after: int = 0


@dataclass(frozen=True)
class Trained:
    reports: tuple[EpochReport, ...]
    state: dict[str, Any]

    @property
    def weights(self) -> dict[str, Tensor]:
        return self.state["model"]


def trained(setup: Setup, rank: int, size: int) -> Trained:
    """Two epochs by one of the processes."""
    torch.manual_seed(3)
    model: nn.Module = digits_vgg() if setup.network == "rni" else Scaled()
    penalty = None
    if setup.network == "rni":
        model = to_sigmoid_batchnorm(model, seed=5)
        penalty = RNI(0.02)
    data = datasets.load(DataConfig(limit_train=400), seed=0).few(setup.count)
    task = Precise() if setup.is_precise else Classification()
    model = model.double() if setup.is_precise else model

    def trainer(network: nn.Module) -> Trainer:
        return Trainer(
            network,
            data,
            task=task,
            epochs=2,
            config=setup.config,
            seed=11,
            device=CPU,
            penalty=penalty,
            ranks=Ranks(rank, size),
        )

    first = trainer(model)
    first.run_epoch()
    if setup.split_after:  # as after a restart of all processes
        state, first = first.state_dict(), trainer(digits_like(model))
        first.load_state_dict(state)
    first.run_epoch()
    return Trained(first.reports, first.state_dict())


def digits_like(model: nn.Module) -> nn.Module:
    """The same layers with other weights."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
    return model


def in_group(setup: Setup, rank: int, meeting: Path) -> Trained:
    torch.set_num_threads(1)
    with joined(rank, setup.size, meeting, CPU):
        return trained(setup, rank, setup.size)


def ready() -> None:
    """Return in a process that knows this file."""


Together = Callable[[Setup], list[Trained]]


@pytest.fixture(scope="module")
def children() -> Iterator[list[ChildProcess]]:
    """Processes that know this file, which takes seconds; after a failure there are none."""
    started: list[ChildProcess] = []
    yield started
    end(started)


def end(children: list[ChildProcess]) -> None:
    while children:
        children.pop().kill()


@pytest.fixture
def together(children: list[ChildProcess], tmp_path: Path) -> Together:
    """Gives what each process of a training has at its end; the first is this one."""

    def train(setup: Setup) -> list[Trained]:
        while len(children) < setup.size - 1:
            children.append(ChildProcess("spawn"))
            children[-1].call(ready)  # one that cannot begin would be waited for
        try:
            with ThreadPoolExecutor() as pool:
                others = [
                    pool.submit(child.call, in_group, setup, rank, tmp_path / "meeting")
                    for rank, child in enumerate(children[: setup.size - 1], 1)
                ]
                first = in_group(setup, 0, tmp_path / "meeting")
                return [first, *(other.result() for other in others)]
        except BaseException:
            end(children)
            raise

    return train


SGD = TrainingConfig(2, 1, 1, batch_size=32, learning_rate=0.05)
ADAMW = dataclasses.replace(SGD, optimizer="adamw", learning_rate=0.002)

SETUPS = {
    "RNI, an odd last minibatch": Setup(SGD, count=149),
    "batch norm, gradients bounded": Setup(
        dataclasses.replace(SGD, clip_norm=0.1), network="plain"
    ),
    "a last minibatch of fewer samples than processes": Setup(SGD, 3, count=98),
    "AdamW, an average of the weights, mixup": Setup(
        dataclasses.replace(ADAMW, ema_decay=0.9, mixup=0.4, label_smoothing=0.1), count=130
    ),
    "resumed": Setup(dataclasses.replace(SGD, ema_decay=0.9), split_after=1),
}


@pytest.mark.parametrize("name", SETUPS)
def test_several_processes_train_what_one_does(name: str, together: Together) -> None:
    setup = SETUPS[name]
    alone, processes = trained(setup, 0, 1), together(setup)
    for process in processes[1:]:  # bit for bit
        assert process.weights.keys() == alone.weights.keys()
        for key, tensor in process.weights.items():
            assert torch.equal(tensor, processes[0].weights[key]), key
    for key, tensor in processes[0].weights.items():
        torch.testing.assert_close(tensor, alone.weights[key], rtol=1e-7, atol=1e-9)
    for found, expected in zip(processes[0].reports, alone.reports, strict=True):
        assert found.train_loss == pytest.approx(expected.train_loss, rel=1e-9)
        assert found.penalty == pytest.approx(expected.penalty, rel=1e-9)
        assert found.images_seen == expected.images_seen
        assert found.learning_rate == expected.learning_rate


def test_in_float32_they_differ_by_rounding(together: Together) -> None:
    """Sums of float32 in another order, over 10 steps."""
    setup = Setup(SGD, is_precise=False)
    alone, processes = trained(setup, 0, 1), together(setup)
    for key, tensor in processes[0].weights.items():
        torch.testing.assert_close(tensor, alone.weights[key], rtol=1e-3, atol=1e-4)
    losses = [[report.train_loss for report in each.reports] for each in (processes[0], alone)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_minibatches_of_any_form_are_sliced() -> None:
    images, boxes = torch.arange(5.0), [1, 2, 3, 4, 5]
    batch = ({"a": images, "b": (images + 1,)}, [*boxes], torch.tensor(3.0), "name")
    found = sliced(batch, 2, 5)
    assert found[0]["a"].tolist() == [2, 3, 4]
    assert found[0]["b"][0].tolist() == [3, 4, 5]
    assert found[1:] == ([3, 4, 5], torch.tensor(3.0), "name")
    with pytest.raises(DataError, match="5 samples has a part of length 3, which cannot be split"):
        sliced((images, torch.zeros(3)), 0, 2)
