"""Convolutions of few positions as products of matrices, on a CPU.

oneDNN takes the pixels of a row together, so that it multiplies hardly anything at once where a
network has become 4×4 or 2×2 positions small. There a convolution is one product instead: the
patches that it looks at, a row each, with its weights. In one thread of a Xeon with AMX, batch 64,
512 → 512 channels at 2×2, the gradient of the weights takes 4 ms instead of 43 in bfloat16, and
10 instead of 42 in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.overrides import TorchFunctionMode

from pruning.gates.recomputation import recomputing

_MOST_POSITIONS = 16
"""Of an output: 4×4. At 8×8 the two are about as fast."""

_LEAST_CHANNELS = 64
"""Of the input. Below, there is too little to multiply for it to matter."""

_BY_DEFAULT = (1, 0, 1, 1)
"""Stride, padding, dilation and groups of torch's convolution."""


def patching(model: nn.Module, device: torch.device) -> Callable[[], AbstractContextManager[None]]:
    """Makes blocks in which convolutions of few positions are products of matrices, on a CPU.

    The same numbers as before up to rounding. A network that is compiled runs as it is. What
    gradient checkpointing runs again in the backward pass runs as it ran.
    """
    modules = list(model.modules())
    is_compiled = any(getattr(module, "_compiled_call_impl", None) for module in modules)
    if device.type != "cpu" or is_compiled or not any(map(_could_fit, modules)):
        return nullcontext
    return _patch_convolutions


@contextmanager
def _patch_convolutions() -> Iterator[None]:
    with recomputing(_patched, lambda: None), _PatchConvolutions():
        yield


def _patched(function: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        with _PatchConvolutions():
            return function(*args, **kwargs)

    return run


def patches(images: Tensor, kernel: tuple[int, int], stride: int, padding: int) -> Tensor:
    """What each position of a convolution looks at: (n, C, H, W) → (n, H', W', C · kernel).

    A patch has its pixels one after the other, and of each pixel the channels.
    """
    result: Tensor = _Patches.apply(images, kernel, stride, padding)
    return result


def _could_fit(module: nn.Module) -> bool:
    return (
        isinstance(module, nn.Conv2d)
        and module.groups == 1
        and module.in_channels >= _LEAST_CHANNELS
        and module.kernel_size > (1, 1)
    )


class _PatchConvolutions(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is F.conv2d and not kwargs and (result := _convolution(*args)) is not None:
            return result
        return func(*args, **(kwargs or {}))


def _convolution(
    images: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *sizes: Any,
) -> Tensor | None:
    """The convolution as a product; None for one that is better, or only, done otherwise.

    sizes: stride, padding, dilation and groups, as for torch's.
    """
    given: list[Any] = [*sizes, *_BY_DEFAULT[len(sizes) :]]
    stride, padding, dilation, groups = given
    step, around, spread = _same(stride), _same(padding), _same(dilation)
    if images.dim() != 4 or groups != 1 or spread != 1 or step is None or around is None:
        return None
    out_channels, channels, *kernel = weight.shape
    height, width = (
        (size + 2 * around - side) // step + 1
        for size, side in zip(images.shape[2:], kernel, strict=True)
    )
    is_small = 0 < height * width <= _MOST_POSITIONS and min(height, width) > 0
    if not is_small or channels < _LEAST_CHANNELS or kernel == [1, 1]:
        return None
    rows = patches(images, (kernel[0], kernel[1]), step, around)
    matrix = weight.permute(0, 2, 3, 1).reshape(out_channels, -1)
    return F.linear(rows, matrix, bias).permute(0, 3, 1, 2)


def _same(sizes: Any) -> int | None:
    """The one number that all of these are; None for different ones and for words."""
    if isinstance(sizes, int):
        return sizes
    is_same = isinstance(sizes, tuple | list) and len(set(sizes)) == 1
    return int(sizes[0]) if is_same and isinstance(sizes[0], int) else None


class _Patches(Function):
    @staticmethod
    def forward(
        ctx: Any, images: Tensor, kernel: tuple[int, int], stride: int, padding: int
    ) -> Tensor:
        ctx.shape, ctx.kernel, ctx.stride, ctx.padding = images.shape, kernel, stride, padding
        padded = F.pad(images.permute(0, 2, 3, 1), (0, 0) + (padding,) * 4)
        padded = padded.contiguous()
        count, height, width, channels = padded.shape
        sizes = [(height - kernel[0]) // stride + 1, (width - kernel[1]) // stride + 1]
        sample, down, across, next_channel = padded.stride()
        windows = padded.as_strided(
            (count, *sizes, *kernel, channels),
            (sample, stride * down, stride * across, down, across, next_channel),
        )
        return windows.reshape(count, *sizes, -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (gradient,) = gradients
        count, channels, height, width = ctx.shape
        stride, padding = ctx.stride, ctx.padding
        windows = gradient.unflatten(3, (*ctx.kernel, channels))
        rows, columns = windows.shape[1:3]
        padded = gradient.new_zeros(count, height + 2 * padding, width + 2 * padding, channels)
        for down in range(ctx.kernel[0]):
            for across in range(ctx.kernel[1]):
                seen = padded[:, down:, across:]
                seen = seen[:, : stride * rows : stride, : stride * columns : stride]
                seen += windows[:, :, :, down, across]
        whole = padded[:, padding : padding + height, padding : padding + width]
        return whole.permute(0, 3, 1, 2), None, None, None
