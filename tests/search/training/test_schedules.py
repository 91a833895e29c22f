"""Every schedule against its closed form and torch's scheduler, and pushes against steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from pruning import to_sigmoid_batchnorm
from search.config.training_config import TrainingConfig
from search.training.optimizers import Stepper
from search.training.schedules import learning_rates, total_push

EPOCHS, STEPS = 30, 7
HIGHEST = 0.2


def rates(**settings: Any) -> list[float]:
    config = TrainingConfig(learning_rate=HIGHEST, epochs=EPOCHS, **settings)
    return learning_rates(config, EPOCHS, STEPS).tolist()


def by_torch(make: Callable[[torch.optim.Optimizer], LRScheduler]) -> list[float]:
    """The rates that a scheduler of torch sets, stepped after every step."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=HIGHEST)
    scheduler = make(optimizer)
    found = []
    for _ in range(EPOCHS * STEPS):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def milestones(*epochs: int, gamma: float) -> Callable[[torch.optim.Optimizer], LRScheduler]:
    return lambda optimizer: lr_scheduler.MultiStepLR(
        optimizer, [epoch * STEPS for epoch in epochs], gamma
    )


def rising(epochs: int, optimizer: torch.optim.Optimizer) -> LRScheduler:
    steps = epochs * STEPS
    return lr_scheduler.LinearLR(optimizer, 1 / steps, total_iters=steps - 1)


def warm_cosine(optimizer: torch.optim.Optimizer) -> LRScheduler:
    cosine = lr_scheduler.CosineAnnealingLR(optimizer, (EPOCHS - 5) * STEPS)
    return lr_scheduler.SequentialLR(optimizer, [rising(5, optimizer), cosine], [5 * STEPS])


def one_cycle(share: float) -> Callable[[torch.optim.Optimizer], LRScheduler]:
    return lambda optimizer: lr_scheduler.OneCycleLR(
        optimizer, HIGHEST, EPOCHS * STEPS, pct_start=share, cycle_momentum=False
    )


@pytest.mark.parametrize(
    ("settings", "make"),
    [
        ({"schedule": "rni"}, milestones(15, 23, gamma=0.1)),  # 22.5 lies within epoch 22
        ({"schedule": "copycat"}, milestones(9, 18, 27, gamma=0.2)),
        ({"schedule": "step"}, milestones(10, 20, gamma=0.1)),
        (
            {"schedule": "step", "drop_at": (0.1, 0.5, 0.9), "drop_by": 4.0},
            milestones(3, 15, 27, gamma=0.25),
        ),
        ({"schedule": "constant"}, milestones(gamma=0.1)),
        (
            {"schedule": "cosine"},
            lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * STEPS),
        ),
        ({"schedule": "cosine", "warmup_epochs": 5}, warm_cosine),
        ({"schedule": "constant", "warmup_epochs": 4}, lambda optimizer: rising(4, optimizer)),
        (
            {"schedule": "step", "warmup_epochs": 4},
            lambda optimizer: lr_scheduler.ChainedScheduler(
                [rising(4, optimizer), milestones(10, 20, gamma=0.1)(optimizer)]
            ),
        ),
        ({"schedule": "one-cycle"}, one_cycle(0.3)),
        ({"schedule": "one-cycle", "warmup_epochs": 6}, one_cycle(0.2)),
    ],
)
def test_a_schedule_is_torchs(
    settings: dict[str, Any], make: Callable[[torch.optim.Optimizer], LRScheduler]
):
    assert rates(**settings) == pytest.approx(by_torch(make), rel=1e-9, abs=1e-12)


def test_a_cosine_falls_from_the_highest_rate_to_almost_nothing():
    found, count = rates(schedule="cosine"), EPOCHS * STEPS
    expected = [HIGHEST * (1 + np.cos(np.pi * step / count)) / 2 for step in range(count)]
    assert found == pytest.approx(expected)
    assert found[0] == HIGHEST
    assert found[count // 2] == pytest.approx(HIGHEST / 2)


def test_a_warm_up_rises_by_the_same_amount_in_every_step():
    found = rates(schedule="constant", warmup_epochs=3)
    assert np.diff(found[: 3 * STEPS]) == pytest.approx(HIGHEST / (3 * STEPS))
    assert found[0] == pytest.approx(HIGHEST / (3 * STEPS))
    assert found[3 * STEPS - 1 :] == [HIGHEST] * (27 * STEPS + 1)


@pytest.mark.parametrize("schedule", ["rni", "copycat", "step", "cosine", "one-cycle", "constant"])
@pytest.mark.parametrize(("epochs", "steps"), [(1, 1), (1, 2), (2, 1), (0, 5), (3, 1)])
@pytest.mark.parametrize("warmup", [0, 1])
def test_the_shortest_training_has_a_rate_in_every_step(
    schedule: Any, epochs: int, steps: int, warmup: int
):
    config = TrainingConfig(learning_rate=HIGHEST, schedule=schedule, warmup_epochs=warmup)
    found = learning_rates(config, epochs, steps)
    assert found.shape == (epochs * steps,)
    assert np.all((found > 0) & (found <= HIGHEST))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"schedule": "cosine", "warmup_epochs": 2},
        {"schedule": "one-cycle"},
        {"schedule": "step", "nesterov": False, "clip_norm": 1e-6},
        {"schedule": "constant", "optimizer": "adamw", "learning_rate": 0.01},
        {"schedule": "one-cycle", "optimizer": "adamw", "learning_rate": 0.01, "clip_norm": 1e-6},
    ],
)
def test_total_push_is_how_far_a_penalty_of_unit_gradient_moves_a_scale(settings: dict[str, Any]):
    """The loss moves other weights. Momentum has to build up: 0.9ᵗ of step t is missing from SGD's,
    with t from 1, or from 2 for Nesterov's, which looks a step ahead.
    """
    model = nn.Sequential(nn.Linear(2, 3), to_sigmoid_batchnorm(nn.BatchNorm1d(3))).double()
    config = TrainingConfig(epochs=EPOCHS, **settings)
    scales = model[1].weight
    before = scales.detach().clone()
    rates = learning_rates(config, EPOCHS, STEPS)
    stepper = Stepper(model, config)
    for rate in rates:
        stepper.backward(model[0].weight.square().sum())
        stepper.set_rate(rate)
        stepper.step(1e-3 * scales.sum())
    missing = 0.0
    if config.optimizer == "sgd":
        first = 2 if config.nesterov else 1
        lacking = 0.9 ** np.arange(first, len(rates) + first) / (1 - 0.9)
        missing = float((10 * rates * lacking).sum())
    moved = (before - scales.detach()) / 1e-3
    push = total_push(config, EPOCHS, STEPS)
    assert moved.tolist() == pytest.approx([push - missing] * 3, rel=1e-9)
    assert missing < 0.15 * push
