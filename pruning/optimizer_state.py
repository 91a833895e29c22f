"""An optimizer that goes on with the parameters of a smaller network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pruning.errors import ConfigError
from pruning.graph.channel_graph import ChannelGraph
from pruning.networks.torch_interior import tree_leaves
from pruning.networks.wrappers import unwrapped
from pruning.selection import KeepPlan
from pruning.surgery import kept_positions

Positions = Iterable[tuple[int, Tensor]]
"""Axes of a parameter that shrink, and the positions that stay along each."""


def carry_over(
    optimizer: torch.optim.Optimizer,
    before: nn.Module,
    after: nn.Module,
    graph: ChannelGraph,
    plan: KeepPlan,
) -> None:
    """Let `optimizer` of `before` go on, in place, with the parameters of `after`.

    after: what `remove_channels(before, graph, plan)` returned. State tensors lose what the
    parameter lost along every axis that they have in its length (momentum; the rows and columns
    of Adafactor); numbers stay. Raises ConfigError, and changes nothing, if the optimizer has no
    parameter of `before` or keeps a state that does not follow its parameter's axes (L-BFGS).
    """
    check_trains(optimizer, before)
    names = {id(parameter): name for name, parameter in unwrapped(before).named_parameters()}
    successors = dict(unwrapped(after).named_parameters())
    positions = kept_positions(graph, plan)
    states = {
        old: _carried(optimizer.state[old], old, names[id(old)], positions.get(names[id(old)], []))
        for group in optimizer.param_groups
        for old in group["params"]
        if id(old) in names and old in optimizer.state
    }
    for group in optimizer.param_groups:
        for place, old in enumerate(group["params"]):
            if id(old) in names:
                new = group["params"][place] = successors[names[id(old)]]
                if optimizer.state.pop(old, None) is not None:
                    optimizer.state[new] = states[old]


def check_trains(optimizer: torch.optim.Optimizer | None, model: nn.Module) -> None:
    """Raise ConfigError if there is no optimizer, or it has none of the parameters of `model`."""
    if optimizer is None:
        raise ConfigError(
            "channels are to be removed, which changes the network's parameters: pass the "
            "optimizer that trains them, got None"
        )
    known = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not any(id(parameter) in known for parameter in model.parameters()):
        raise ConfigError(
            f"the {type(optimizer).__name__} has no parameter of the network that is pruned: make "
            "it of that network's parameters (pruner.network.parameters())"
        )


def _carried(
    state: Mapping[str, Any], parameter: Tensor, name: str, positions: Positions
) -> dict[str, Any]:
    """The state of a parameter after it has shrunk; ConfigError for what cannot be cut."""
    for key, value in state.items():
        if not _follows(value, parameter):
            raise ConfigError(
                f"the optimizer's state {key!r} of {name} does not follow its axes, "
                f"{tuple(parameter.shape)}: make a new optimizer after pruning, or choose one with "
                "a state per weight (SGD, Adam, Adafactor of torch.optim)"
            )
    return {
        key: _cut(value, parameter, positions) if isinstance(value, Tensor) else value
        for key, value in state.items()
    }


def _follows(value: Any, parameter: Tensor) -> bool:
    """Whether every axis of a state tensor is one of the parameter's, or has a single position."""
    if not isinstance(value, Tensor):
        return not any(isinstance(leaf, Tensor) for leaf in tree_leaves(value))
    return value.dim() == 0 or (
        value.dim() == parameter.dim()
        and all(
            size in (1, whole) for size, whole in zip(value.shape, parameter.shape, strict=True)
        )
    )


def _cut(value: Tensor, parameter: Tensor, positions: Positions) -> Tensor:
    if value.dim() == 0:
        return value
    whole = value.shape
    for axis, kept in positions:
        if whole[axis] == parameter.shape[axis]:
            value = value.index_select(axis, kept.to(value.device))
    return value
