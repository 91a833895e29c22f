"""Problems of one's own for searches that are killed: small data, networks, tasks, and a fuse.

A copy of this file lies where a search begins, so that its workers find it by name. While a file
`driver` lies beside it, with the number of the process that was started, training steps of workers
are counted in a file `steps`: at KILLS["worker"] the worker is killed, at KILLS["driver"] the
driver. Where the file says ALONE, one process does everything, and is killed each time.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from samples import Workers
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

import search
from search import DataSplits, Score, SearchConfig, Task, TrainingContext
from search.scheduling import own_ray
from search.tasks.regression import Determination

KILLS = {"worker": 10, "driver": 30}
"""Each in the middle of an epoch of four steps."""

ALONE = "alone"

_DRIVER, _STEPS = (Path(__file__).with_name(name) for name in ("driver", "steps"))


class Fuse(nn.Module):
    """Changes nothing; see above."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and torch.is_grad_enabled() and x.device.type != "meta":
            _count()
        return x


def _count() -> None:
    if not _DRIVER.exists():
        return
    name = _DRIVER.read_text()
    driver = os.getpid() if name == ALONE else int(name)
    if name != ALONE and driver in (os.getpid(), os.getppid()):  # which try everything out first
        return
    with _STEPS.open("ab") as steps:
        steps.write(b".")
    if _STEPS.stat().st_size == KILLS["worker"]:
        os.kill(os.getpid(), signal.SIGKILL)
    if _STEPS.stat().st_size == KILLS["driver"]:
        os.kill(driver, signal.SIGKILL)
        time.sleep(60)  # Ray ends this process meanwhile


def run_alone(config: SearchConfig) -> None:
    """The search in this process, which is a new one."""
    patch = pytest.MonkeyPatch()
    Workers().take_over(patch)
    patch.setattr(own_ray, "begin", lambda share: None)
    search.run(config)


def per_image(outputs: int = 2) -> nn.Module:
    """As many numbers for a picture 1×6×6."""
    return nn.Sequential(
        *(Fuse(), nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, outputs)),
    )


def per_pixel() -> nn.Module:
    """A class out of two for each pixel of a picture 1×6×6."""
    return nn.Sequential(
        *(Fuse(), nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
        nn.Conv2d(8, 2, 1),
    )


def one_number() -> nn.Module:
    """For a picture 1×6×6."""
    return nn.Sequential(per_image(1), nn.Flatten(0))


def _splits(targets: Any) -> DataSplits:
    generator = torch.Generator().manual_seed(0)
    parts = {}
    for part, count in (("train", 64), ("validation", 32), ("test", 32)):
        pictures = torch.randn(count, 1, 6, 6, generator=generator)
        parts[part] = TensorDataset(pictures, targets(pictures))
    return DataSplits(**parts)


def classes() -> DataSplits:
    return _splits(lambda pictures: (pictures.mean((1, 2, 3)) > 0).long())


def labels() -> DataSplits:
    def both(pictures: Tensor) -> Tensor:
        bright = pictures.mean((1, 2, 3)) > 0
        return torch.stack([bright, ~bright], 1).long()

    return _splits(both)


def pixels() -> DataSplits:
    return _splits(lambda pictures: (pictures[:, 0] > 0).long())


def numbers() -> DataSplits:
    return _splits(lambda pictures: pictures.mean((1, 2, 3)))


class ByStep(Task):
    """Says its loss of whole minibatches only, and measures by itself."""

    score = Score("R²", is_share=False)

    def training_step(self, model: nn.Module, batch: Any) -> Tensor:
        pictures, targets = batch
        return F.mse_loss(model(pictures), targets)

    def evaluate(self, model: nn.Module, loader: Any) -> float:
        metric = Determination()
        model.eval()
        with torch.no_grad():
            for pictures, targets in loader.in_order():
                metric.update(model(pictures), targets)
        return metric.compute()


class ByLoop(Task):
    """Has a training loop of its own and says no loss."""

    score = Score("R²", is_share=False)

    def metric(self) -> Determination:
        return Determination()

    def train(self, model: nn.Module, context: TrainingContext) -> None:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for _ in context.epochs_left:
            for pictures, targets in context.batches():
                loss = F.mse_loss(model(pictures), targets)
                optimizer.zero_grad()
                (loss + context.penalty(model)).backward()
                optimizer.step()
                context.after_step(model)
            context.report(train_loss=float(loss.detach()))
