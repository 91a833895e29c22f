"""Batch normalisation by the statistics of a minibatch that several processes share.

torch.nn.SyncBatchNorm is another class of layer, and for GPUs alone. Here layers stay what they
are, σBN and people's own among them: what they call is another function for a while.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

_alone = F.batch_norm


@contextmanager
def synchronized_batchnorm() -> Iterator[None]:
    """Inside the block F.batch_norm in training mode normalises over all processes' samples.

    It holds for the whole process, so that it does for what runs again in a backward pass, in
    whatever thread. All of torch.distributed's default group have to call it alike.
    """
    F.batch_norm = _together
    try:
        yield
    finally:
        F.batch_norm = _alone


def _together(  # noqa: PLR0917 - torch's arguments, in torch's order
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    tensors = (input, running_mean, running_var, weight, bias)
    if has_torch_function(tensors):
        settings: dict[str, Any] = {"training": training, "momentum": momentum, "eps": eps}
        result: Tensor = handle_torch_function(_together, tensors, *tensors, **settings)
        return result
    if not training:
        return _alone(input, running_mean, running_var, weight, bias, False, momentum, eps)
    normalized: Tensor
    normalized, mean, variance, count = _Normalized.apply(input, weight, bias, eps)
    with torch.no_grad():
        if running_mean is not None:
            running_mean.lerp_(mean.to(running_mean), momentum)
        if running_var is not None:
            running_var.lerp_((variance * count / (count - 1)).to(running_var), momentum)
    return normalized


class _Normalized(torch.autograd.Function):
    """(x − E x) / √(Var x + ε) · weight + bias per channel, axis 1, over all processes' samples.

    Each gives count, mean and sum of squared deviations of its own, which are put together (Chan,
    Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances",
    eq. 2.1); the means of gradients that the derivative needs are summed likewise.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        count, mean, variance = _statistics(x)
        normalized = _alone(x, mean, variance, weight, bias, False, 0.0, eps)
        ctx.save_for_backward(x, weight, mean, (variance + eps).rsqrt(), count)
        ctx.has_bias = bias is not None
        ctx.mark_non_differentiable(mean, variance, count)
        return normalized, mean, variance, count

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        x, weight, mean, inverse, count = ctx.saved_tensors
        axes = _all_but_channels(x)
        shape = [1, -1] + [1] * (x.dim() - 2)
        gradient = gradients[0].to(mean.dtype)
        deviations = (x.to(mean.dtype) - mean.view(shape)) * inverse.view(shape)
        own = torch.stack([gradient.sum(axes), (gradient * deviations).sum(axes)])
        shared = own.clone()
        dist.all_reduce(shared)
        offset, slope = (shared / count).view(2, *shape)
        scale = inverse if weight is None else inverse * weight.to(mean.dtype)
        of_x = (gradient - offset - deviations * slope) * scale.view(shape)
        of_weight = None if weight is None else own[1].to(weight.dtype)
        of_bias = own[0].to(x.dtype if weight is None else weight.dtype) if ctx.has_bias else None
        return of_x.to(x.dtype), of_weight, of_bias, None


def _statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Values per channel, and their mean and variance, shape (C,), over all processes."""
    precise = x if x.dtype == torch.float64 else x.float()
    variance, mean = torch.var_mean(precise, _all_but_channels(x), correction=0)
    count = x.numel() / x.shape[1]
    own = torch.cat([mean.new_full((1,), count), mean, variance * count])
    gathered = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, own)
    sizes = [1, x.shape[1], x.shape[1]]
    counts, means, squares = torch.split(torch.stack(gathered), sizes, 1)
    total = counts.sum()
    mean = (counts * means).sum(0) / total
    squares = (squares + counts * (means - mean) ** 2).sum(0)
    return total, mean, squares / total


def _all_but_channels(x: Tensor) -> list[int]:
    return [0, *range(2, x.dim())]
