"""Shortcuts around layers and blocks that have none: identity, pooling, a 1×1 convolution.

Source: Haider and Taj, "Comprehensive Online Network Pruning via Learnable Scaling Factors",
§3.2: pooling where the extent changes, then a 1×1 convolution where the channels differ.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pruning.networks.torch_interior import Convolution

_Layers = tuple[Callable[..., nn.Module], ...]
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_POOLS: _Layers = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
_ADAPTIVE_POOLS: _Layers = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)


@dataclass(frozen=True)
class Shortcut:
    """How the input of a structure comes to have the shape of its output.

    dims: spatial axes, 1 to 3.
    channels: of input and output.
    pool: without parameters; None where the extents agree.
    """

    dims: int
    channels: tuple[int, int]
    pool: nn.Module | None

    @property
    def num_params(self) -> int:
        """Parameters of the 1×1 convolution: 0 where the channels agree."""
        before, after = self.channels
        return before * after if before != after else 0

    def make(self, like: Tensor, generator: torch.Generator) -> nn.Module:
        """The shortcut as stock layers: an identity, a pooling, or both steps in a row.

        The convolution, called `project`, has no bias and draws its weights from N(0, 1/inputs),
        so that it keeps the scale of what passes. Device and dtype follow `like`; `generator`
        is one of the CPU.
        """
        pool = copy.deepcopy(self.pool)
        if not self.num_params:
            return nn.Identity() if pool is None else pool
        empty = _CONVOLUTIONS[self.dims - 1](*self.channels, 1, bias=False, device="meta")
        convolution = empty.to_empty(device="cpu")
        weight = convolution.get_parameter("weight")
        nn.init.kaiming_normal_(weight, nonlinearity="linear", generator=generator)
        steps = OrderedDict({"pool": pool} if pool is not None else {})
        steps["project"] = convolution.to(like.device, like.dtype)
        return nn.Sequential(steps)


def around_layer(layer: Convolution) -> Shortcut | None:
    """The shortcut of a convolution; None where no pooling has its extents.

    The pooling averages over the window that the convolution sees, so that the extents agree
    at any size of the image.
    """
    windows = [d * (k - 1) + 1 for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    dims, channels = len(windows), (layer.in_channels, layer.out_channels)
    if layer.padding == "same":
        return Shortcut(dims, channels, None)
    padding = [0] * dims if isinstance(layer.padding, str) else list(layer.padding)
    if all(
        s == 1 and 2 * p == w - 1 for s, p, w in zip(layer.stride, padding, windows, strict=True)
    ):
        return Shortcut(dims, channels, None)
    if layer.transposed or any(p > w // 2 for p, w in zip(padding, windows, strict=True)):
        return None
    pool = _POOLS[dims - 1](tuple(windows), layer.stride, tuple(padding), count_include_pad=False)
    return Shortcut(dims, channels, pool)


def around_block(before: torch.Size, after: torch.Size) -> Shortcut | None:
    """The shortcut from a tensor of one shape, N×C×extents, to another; None if there is none.

    Extents may shrink, channels may differ. Where no window tiles the extents the pooling is
    adaptive.
    """
    dims = len(before) - 2
    if len(after) != len(before) or not 1 <= dims <= 3 or before[0] != after[0]:
        return None
    extents = list(zip(before[2:], after[2:], strict=True))
    if any(inside < outside for inside, outside in extents):
        return None
    channels = (before[1], after[1])
    if before[2:] == after[2:]:
        return Shortcut(dims, channels, None)
    rounded_up = [-(-inside // outside) for inside, outside in extents]
    rounded_down = [inside // outside for inside, outside in extents]
    for windows, ceil_mode in ((rounded_up, True), (rounded_down, False)):
        tiles = [
            -(-i // w) if ceil_mode else i // w for (i, _), w in zip(extents, windows, strict=True)
        ]
        if tiles == list(after[2:]):
            pool = _POOLS[dims - 1](tuple(windows), tuple(windows), ceil_mode=ceil_mode)
            return Shortcut(dims, channels, pool)
    return Shortcut(dims, channels, _ADAPTIVE_POOLS[dims - 1](tuple(after[2:])))
