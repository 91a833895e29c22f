"""Fresh weights for a network of whatever shapes its layers now have."""

from __future__ import annotations

import math

import torch
from torch import nn


class ZooNetwork(nn.Module):
    """A network that can draw all its weights again after its layers were resized.

    `reset_parameters` reads every shape from the parameters themselves, so that a network
    whose layers were narrowed (or widened) starts as if it had been written that way.
    """

    def __init__(self, norm_scale: float) -> None:
        super().__init__()
        self._norm_scale = norm_scale

    def reset_parameters(self) -> None:
        """Draw fresh weights from torch's global generator.

        The recipe of the RNI authors' experiments: convolutions N(0, √(2 / (k²·out))) and zero
        bias, linear layers N(0, 0.01) and zero bias, batch norms a constant scale and zero
        offset. A batch norm without offset (σBN) draws its own scale.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                _reset_convolution(module)
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
                _zero(module.bias)
            elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.reset_parameters()
                if module.bias is not None:
                    nn.init.constant_(module.weight, self._norm_scale)


def _reset_convolution(module: nn.Conv2d) -> None:
    out_channels, _, height, width = module.weight.shape
    nn.init.normal_(module.weight, std=math.sqrt(2 / (height * width * out_channels)))
    _zero(module.bias)


def _zero(bias: torch.Tensor | None) -> None:
    if bias is not None:
        nn.init.zeros_(bias)
