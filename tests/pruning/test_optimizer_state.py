"""Optimizers go on with the parameters of smaller networks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

import pytest
import torch
from networks import chain, conv, head, randomised
from torch import Tensor, nn
from torch.nn import functional as F

from pruning import KeepPlan, carry_over, remove_channels, trace
from pruning.errors import ConfigError

EXAMPLE = torch.zeros(1, 3, 6, 6)
PLAN = KeepPlan({"a": (1, 4, 5)})
optim = torch.optim

Make = Callable[[Iterable[Tensor]], optim.Optimizer]

OPTIMIZERS: dict[str, Make] = {
    "SGD": lambda p: optim.SGD(p, lr=0.01, momentum=0.9),
    "Adam": lambda p: optim.Adam(p, amsgrad=True),
    "AdamW": optim.AdamW,
    "NAdam": optim.NAdam,
    "RAdam": optim.RAdam,
    "Adamax": optim.Adamax,
    "Adadelta": optim.Adadelta,
    "Adagrad": optim.Adagrad,
    "RMSprop": lambda p: optim.RMSprop(p, momentum=0.9, centered=True),
    "Rprop": optim.Rprop,
    "ASGD": optim.ASGD,
    "Adafactor": optim.Adafactor,
}


def network() -> nn.Module:
    return randomised(chain(stem=conv(3, 8), a=conv(8, 10), b=conv(10, 8), head=head(8)))


def steps(model: nn.Module, optimizer: optim.Optimizer, count: int = 2) -> None:
    def loss() -> Tensor:
        optimizer.zero_grad()
        energy = F.cross_entropy(model(torch.ones(4, 3, 6, 6)), torch.tensor([0, 1, 2, 3]))
        energy.backward()
        return energy

    for _ in range(count):
        optimizer.step(loss)


def kept(tensor: Tensor, name: str) -> Tensor:
    """What PLAN leaves of a tensor along the axes of this parameter."""
    axis = {"a": 0, "b": 1 if name.endswith("weight") else None}.get(name.split(".", maxsplit=1)[0])
    if axis is None or tensor.dim() == 0 or tensor.shape[axis] == 1:
        return tensor
    return tensor.index_select(axis, torch.tensor([1, 4, 5]))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_state_keeps_what_its_parameter_keeps(name: str) -> None:
    model = network()
    optimizer = OPTIMIZERS[name](model.parameters())
    steps(model, optimizer)
    states = {n: copy.deepcopy(optimizer.state[p]) for n, p in model.named_parameters()}
    graph = trace(model, EXAMPLE)
    smaller = remove_channels(model, graph, PLAN)
    carry_over(optimizer, model, smaller, graph, PLAN)
    assert set(optimizer.param_groups[0]["params"]) == set(smaller.parameters())
    for parameter_name, parameter in smaller.named_parameters():
        state = optimizer.state[parameter]
        assert state.keys() == states[parameter_name].keys()
        assert any(isinstance(value, Tensor) and value.dim() for value in state.values())
        for key, value in states[parameter_name].items():
            expected = kept(value, parameter_name) if isinstance(value, Tensor) else value
            assert torch.equal(torch.as_tensor(state[key]), torch.as_tensor(expected)), key
    before = [parameter.detach().clone() for parameter in smaller.parameters()]
    steps(smaller, optimizer, 1)
    assert all(
        not torch.equal(old, new) for old, new in zip(before, smaller.parameters(), strict=True)
    )


def test_a_state_that_follows_no_axes_is_refused_before_anything_changes() -> None:
    model = network()
    optimizer = optim.LBFGS(model.parameters(), max_iter=3)
    steps(model, optimizer)
    graph = trace(model, EXAMPLE)
    with pytest.raises(ConfigError, match=r"state '.*' of stem.weight does not follow its axes"):
        carry_over(optimizer, model, remove_channels(model, graph, PLAN), graph, PLAN)
    steps(model, optimizer)


def test_the_optimizer_of_another_network_is_refused() -> None:
    model = network()
    graph = trace(model, EXAMPLE)
    smaller = remove_channels(model, graph, PLAN)
    with pytest.raises(ConfigError, match="the SGD has no parameter of the network"):
        carry_over(optim.SGD(network().parameters()), model, smaller, graph, PLAN)


def test_a_parameter_of_somebody_else_stays_in_the_optimizer() -> None:
    model, other = network(), nn.Parameter(torch.zeros(3))
    optimizer = optim.SGD([*model.parameters(), other], lr=0.1)
    graph = trace(model, EXAMPLE)
    carry_over(optimizer, model, remove_channels(model, graph, PLAN), graph, PLAN)
    assert any(parameter is other for parameter in optimizer.param_groups[0]["params"])
