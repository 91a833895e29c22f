"""How weights lie in memory beside images."""

from __future__ import annotations

import torch
from torch import nn

_LAID_OUT = (nn.Conv2d, nn.ConvTranspose2d)
"""Themselves, no classes derived from them: those may read their weights in other ways."""


def laid_out(model: nn.Module, memory_format: torch.memory_format) -> nn.Module:
    """The model, whose convolutions have their weights in this format from now on.

    Other parameters and buffers stay as they are: people's networks view them as rows, or have
    some of five dimensions, which have no channels_last.
    """
    for module in model.modules():
        if type(module) in _LAID_OUT:
            weight = module.weight
            assert isinstance(weight, nn.Parameter)
            weight.data = weight.data.to(memory_format=memory_format)
    return model
