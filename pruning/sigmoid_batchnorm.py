"""σBN: batch normalisation with one bounded scale per channel and no offset.

Source: Suteu and Guo, "Receding Neuron Importances for Structured Pruning", eq. 2.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruning.wrappers import unwrapped


class SigmoidBatchNorm2d(nn.BatchNorm2d):
    """y = σ(γ) · (x − μ) / √(s² + ε), with σ(γ) = 1 / (1 + e^−γ) in (0, 1) (RNI, eq. 2).

    The parameter `weight` is γ, shape (num_features,); there is no offset: `bias` is None.
    Input and output are N×C×H×W. Running statistics are kept as in BatchNorm2d.
    """

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1) -> None:
        super().__init__(num_features, eps=eps, momentum=momentum)
        self.register_parameter("bias", None)

    @property
    def importance(self) -> Tensor:
        """σ(γ) per channel, shape (num_features,), in (0, 1)."""
        return torch.sigmoid(self.weight)

    def reset_parameters(self) -> None:
        """γ ~ N(0, 1), as in the RNI authors' experiments; running statistics start afresh."""
        self.reset_running_stats()
        nn.init.normal_(self.weight)

    def forward(self, input: Tensor) -> Tensor:
        self._check_input_dim(input)
        average = self.momentum if self.momentum is not None else 0.0
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                average = 1.0 / float(self.num_batches_tracked)
        return F.batch_norm(
            input,
            self.running_mean,
            self.running_var,
            weight=self.importance,
            bias=None,
            training=self.training or self.running_mean is None,
            momentum=average,
            eps=self.eps,
        )


def to_sigmoid_batchnorm(model: nn.Module, *, seed: int = 0) -> nn.Module:
    """A copy of `model` in which every BatchNorm2d with a scale is a SigmoidBatchNorm2d.

    γ ~ N(0, 1) drawn from `seed`: the copy is meant to be trained. Offsets are dropped;
    running statistics, device and dtype are kept. Parameter names stay the same.
    """
    generator = torch.Generator().manual_seed(seed)

    def convert(module: nn.Module) -> nn.Module | None:
        if type(module) is not nn.BatchNorm2d or not module.affine:
            return None
        with torch.random.fork_rng(devices=[]):  # the layer draws γ when it is made
            new = SigmoidBatchNorm2d(module.num_features, module.eps, module.momentum)
        new = new.to(module.weight.device, module.weight.dtype)
        with torch.no_grad():
            new.weight.copy_(torch.randn(module.num_features, generator=generator))
        return _with_statistics_of(module, new)

    return _exchanged(model, convert)


def fold(model: nn.Module) -> nn.Module:
    """A copy of `model` of stock layers only: each σBN becomes a BatchNorm2d of equal output.

    Its weight is σ(γ), its bias 0.
    """

    def convert(module: nn.Module) -> nn.Module | None:
        if not isinstance(module, SigmoidBatchNorm2d):
            return None
        new = nn.BatchNorm2d(module.num_features, module.eps, module.momentum)
        new = new.to(module.weight.device, module.weight.dtype)
        with torch.no_grad():
            new.weight.copy_(module.importance)
        return _with_statistics_of(module, new)

    return _exchanged(model, convert)


def _with_statistics_of(old: nn.BatchNorm2d, new: nn.BatchNorm2d) -> nn.BatchNorm2d:
    for name, buffer in old.named_buffers(recurse=False):
        new.register_buffer(name, buffer.clone())
    if old.running_mean is None:
        new.track_running_stats = False
        new.running_mean = new.running_var = new.num_batches_tracked = None
    return new.train(old.training)


def _exchanged(model: nn.Module, convert: Callable[[nn.Module], nn.Module | None]) -> nn.Module:
    """A deep copy in which `convert` replaces modules; None leaves a module as it is."""
    model, memo = unwrapped(model), dict[int, object]()
    for module in model.modules():
        replacement = convert(module)
        if replacement is not None:
            memo[id(module)] = replacement
    return copy.deepcopy(model, memo)
