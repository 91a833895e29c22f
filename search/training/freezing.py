"""Training a part of a network: what learns on while everything else stays as it is."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from pruning.cost import ExampleInput, called, in_mode
from pruning.errors import ModelError
from pruning.networks.torch_interior import BatchNorm, Convolution


@contextmanager
def frozen_but(
    model: nn.Module, parts: Collection[str], example_input: ExampleInput
) -> Iterator[None]:
    """While this is open, only these parts of `model` require gradients, as far as they did.

    parts: of search.config.gates_config.FREEZABLE; everything if there is none. Running statistics
        of batch normalisations go on.
    example_input: where the model is; it runs on it once, if the last layer is asked for.
    Raises ModelError if nothing would be left to learn.

    Source: Haider and Taj, "Comprehensive Online Network Pruning via Learnable Scaling Factors",
    §5.6 ("all the layers except BatchNorm and Dense").
    """
    if not parts:
        yield
        return
    learning = {id(p) for p in _parameters(model, parts, example_input)}
    frozen = [p for p in model.parameters() if p.requires_grad and id(p) not in learning]
    if not any(p.requires_grad and id(p) in learning for p in model.parameters()):
        raise ModelError(
            f"{type(model).__name__} has nothing that learns but for {' and '.join(parts)}: leave "
            "freeze_but out, or name something that it has"
        )
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)


def _parameters(
    model: nn.Module, parts: Collection[str], example_input: ExampleInput
) -> Iterator[nn.Parameter]:
    if "batchnorm" in parts:
        for module in model.modules():
            if isinstance(module, BatchNorm):
                yield from module.parameters(recurse=False)
    if "last" in parts and (last := _last_layer(model, example_input)) is not None:
        yield from last.parameters(recurse=False)


def _last_layer(model: nn.Module, example_input: ExampleInput) -> nn.Module | None:
    """The convolution or linear layer that runs last."""
    ran: list[nn.Module] = []

    def note(module: nn.Module, _inputs: Any, _output: Any) -> None:
        ran.append(module)

    handles = [
        module.register_forward_hook(note)
        for module in model.modules()
        if isinstance(module, nn.Linear | Convolution)
    ]
    try:
        with torch.no_grad(), in_mode(model, training=False):
            called(model, example_input)
    finally:
        for handle in handles:
            handle.remove()
    return ran[-1] if ran else None
