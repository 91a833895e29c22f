"""Steps written out: decay, clipping, and penalties that AdamW takes past its moments."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pruning import to_sigmoid_batchnorm
from search.config.training_config import TrainingConfig
from search.training.optimizers import Stepper

RATE = 0.01
BOTH = [{"optimizer": "sgd"}, {"optimizer": "adamw", "learning_rate": RATE}]


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return to_sigmoid_batchnorm(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)))


def loss_of(model: nn.Module) -> Tensor:
    inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))
    return model(inputs).pow(3).mean() * 100


def steps(model: nn.Module, count: int = 3, penalty: float = 0.0, **settings: Any) -> Stepper:
    stepper = Stepper(model, TrainingConfig(**settings))
    for _ in range(count):
        stepper.backward(loss_of(model))
        stepper.set_rate(RATE)
        stepper.step(penalty * model[1].weight.sum())
    return stepper


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adamw_is_torchs(decay: float):
    own, reference = network(), network()
    steps(own, optimizer="adamw", learning_rate=RATE, weight_decay=decay)
    scales = [reference[1].weight]
    others = list(reference[0].parameters())
    optimizer = torch.optim.AdamW(
        [
            {"params": others, "lr": RATE, "weight_decay": decay},
            {"params": scales, "lr": 10 * RATE, "weight_decay": 0.0},
        ],
        fused=True,  # as ours: other kernels round otherwise, on some processors
    )
    for _ in range(3):
        optimizer.zero_grad()
        loss_of(reference).backward()
        optimizer.step()
    for one, two in zip(own.parameters(), reference.parameters(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("settings", BOTH)
def test_scales_do_not_decay_and_weights_do(settings: dict[str, Any]):
    model = network()
    before = copy.deepcopy(model)
    stepper = Stepper(model, TrainingConfig(weight_decay=0.5, **settings))
    stepper.backward(0.0 * loss_of(model))
    stepper.set_rate(RATE)
    stepper.step(torch.zeros(()))
    assert torch.equal(model[1].weight, before[1].weight)
    assert (model[0].weight.abs() < before[0].weight.abs()).all()


@pytest.mark.parametrize("settings", BOTH)
def test_a_penalty_of_scales_is_added_to_what_a_loss_does(settings: dict[str, Any]):
    """In the first step: SGD's with Nesterov's momentum is 1.9 gradients long, AdamW's pushes 1."""
    plain, penalised = network(), network()
    steps(plain, 1, **settings)
    steps(penalised, 1, penalty=0.3, **settings)
    push = 0.3 * 10 * RATE * (1.9 if settings["optimizer"] == "sgd" else 1.0)
    moved = plain[1].weight - penalised[1].weight
    assert moved.tolist() == pytest.approx([push] * 3, rel=1e-4)
    assert torch.equal(plain[0].weight, penalised[0].weight)


def test_a_penalty_of_other_weights_is_part_of_what_adamw_sees():
    """Its first step has the length of the rate, whatever the gradient's size."""
    model = network()
    before = model[0].bias.detach().clone()
    stepper = Stepper(model, TrainingConfig(optimizer="adamw", learning_rate=RATE, weight_decay=0))
    stepper.backward(0.0 * loss_of(model))
    stepper.set_rate(RATE)
    stepper.step(1e-3 * model[0].bias.sum())
    assert (before - model[0].bias).tolist() == pytest.approx([RATE] * 3, rel=1e-3)


@pytest.mark.parametrize("bound", [1e-3, 0.5, 1e6])
def test_clipping_holds_the_norm_of_the_gradient_of_the_loss(bound: float):
    """A first step of plain SGD is rate · gradient: the scales' part ten times that."""
    model = network()
    before = copy.deepcopy(model)
    loss_of(before).backward()
    gradient = torch.cat([parameter.grad.flatten() for parameter in before.parameters()])
    steps(model, 1, clip_norm=bound, nesterov=False, weight_decay=0.0)
    moves = [(was - now) / RATE for was, now in zip(before.parameters(), model.parameters())]  # noqa: B905
    moves[2] = moves[2] / 10
    found = torch.cat([move.detach().flatten() for move in moves])
    assert found.norm().item() == pytest.approx(min(bound, gradient.norm().item()), rel=1e-3)
    cosine = nn.functional.cosine_similarity(found, gradient, dim=0)
    assert cosine.item() == pytest.approx(1, abs=1e-4)


def test_clipping_leaves_the_penalty_alone():
    settings = {"nesterov": False, "weight_decay": 0.0, "clip_norm": 1e-9}
    model = network()
    before = model[1].weight.detach().clone()
    steps(model, 1, penalty=0.3, **settings)
    assert (before - model[1].weight).tolist() == pytest.approx([0.3 * 10 * RATE] * 3, rel=1e-4)


@pytest.mark.parametrize("settings", BOTH)
def test_a_stepper_goes_on_as_if_it_had_not_stopped(settings: dict[str, Any]):
    whole, first = network(), network()
    steps(whole, 5, penalty=0.3, **settings)
    state = steps(first, 2, penalty=0.3, **settings).state_dict()
    rest = Stepper(first, TrainingConfig(**settings))
    rest.load_state_dict(state)
    for _ in range(3):
        rest.backward(loss_of(first))
        rest.set_rate(RATE)
        rest.step(0.3 * first[1].weight.sum())
    for one, two in zip(whole.parameters(), first.parameters(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("settings", BOTH)
def test_the_order_in_memory_changes_no_step(settings: dict[str, Any]):
    """Weights in channels_last, and gradients or a momentum in another order than they are."""

    def trained(weights: torch.memory_format, of_state: torch.memory_format) -> list[Tensor]:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 2))
        model = model.to(memory_format=weights)
        stepper = Stepper(model, TrainingConfig(**settings))
        stepper.set_rate(RATE)
        images = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(1))
        for _ in range(3):
            stepper.backward(model(images).pow(2).mean())
            for parameter in model.parameters():
                if parameter.dim() == 4:
                    parameter.grad = parameter.grad.contiguous(memory_format=of_state)
                    state = stepper.optimizer.state[parameter]
                    for name in [name for name, value in state.items() if value.dim()]:
                        state[name] = state[name].contiguous(memory_format=of_state)
            stepper.step(torch.zeros(()))
        assert all(
            p.is_contiguous(memory_format=weights) for p in model.parameters() if p.dim() == 4
        )
        return [parameter.detach() for parameter in model.parameters()]

    rows, channels = torch.contiguous_format, torch.channels_last
    expected = trained(rows, rows)
    for formats in ((channels, channels), (channels, rows), (rows, channels)):
        for one, two in zip(trained(*formats), expected, strict=True):
            assert torch.allclose(one, two, atol=1e-6)
