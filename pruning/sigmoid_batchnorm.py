"""σBN: batch normalisation with one bounded scale per channel and no offset.

Source: Suteu and Guo, "Receding Neuron Importances for Structured Pruning", eq. 2.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruning.cost import ExampleInput
from pruning.networks.copies import check_copyable, deep_copy
from pruning.networks.torch_interior import BatchNorm, parameter_slots
from pruning.networks.wrappers import unwrapped
from pruning.scale_flow import runs_stock_code
from pruning.trained_scales import bounded_scales

_LEAST, _LARGEST = 1e-4, 0.99
"""σ(γ) that trained scales become: further out, γ would hardly learn any more."""


class SigmoidBatchNorm(BatchNorm):
    """y = σ(γ) · (x − μ) / √(s² + ε), with σ(γ) = 1 / (1 + e^−γ) in (0, 1) (RNI, eq. 2).

    The parameter `weight` is γ, shape (num_features,); there is no offset: `bias` is None.
    Input and output are as in the batch normalisation of the same dimensions, and running
    statistics are kept as there.
    """

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1) -> None:
        super().__init__(num_features, eps=eps, momentum=momentum)
        self.register_parameter("bias", None)

    @property
    def importance(self) -> Tensor:
        """σ(γ) per channel, shape (num_features,), in (0, 1) as far as numbers go.

        Subnormal values are kept; where e^−γ overflows (γ below −88 in float32) it is 0, for
        the layer, for `fold` and in every export alike.
        """
        return torch.sigmoid(self.weight)

    def reset_parameters(self) -> None:
        """γ ~ N(0, 1), as in the RNI authors' experiments; running statistics start afresh."""
        self.reset_running_stats()
        nn.init.normal_(self.weight)

    def forward(self, input: Tensor) -> Tensor:
        self._check_input_dim(input)  # type: ignore[no-untyped-call]
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


class SigmoidBatchNorm1d(SigmoidBatchNorm, nn.BatchNorm1d):
    """σBN of N×C or N×C×L."""


class SigmoidBatchNorm2d(SigmoidBatchNorm, nn.BatchNorm2d):
    """σBN of N×C×H×W."""


class SigmoidBatchNorm3d(SigmoidBatchNorm, nn.BatchNorm3d):
    """σBN of N×C×D×H×W."""


_KINDS: tuple[tuple[type[BatchNorm], type[SigmoidBatchNorm]], ...] = (
    (nn.BatchNorm1d, SigmoidBatchNorm1d),
    (nn.BatchNorm2d, SigmoidBatchNorm2d),
    (nn.BatchNorm3d, SigmoidBatchNorm3d),
)


def _with_code_of(kind: type[BatchNorm]) -> type[SigmoidBatchNorm]:
    """σBN of a class with a forward pass of its own, which runs with σ(γ) in the place of γ."""

    def forward(self: SigmoidBatchNorm, *inputs: Any, **named: Any) -> Any:
        slots: dict[str, Any] = parameter_slots(self)
        gamma, scale = slots["weight"], self.importance
        slots["weight"] = scale
        try:
            return kind.forward(self, *inputs, **named)
        finally:
            slots["weight"] = gamma

    return type(f"Sigmoid{kind.__name__}", (SigmoidBatchNorm, kind), {"forward": forward})


def _stock_of(layer: SigmoidBatchNorm) -> type[BatchNorm]:
    """The class that a σBN took the place of."""
    for stock, kind in _KINDS:
        if isinstance(layer, kind):
            return stock
    own: type[BatchNorm] = type(layer).__bases__[1]  # of _with_code_of
    return own


def to_sigmoid_batchnorm(
    model: nn.Module, *, seed: int = 0, example_input: ExampleInput | None = None
) -> nn.Module:
    """A copy of `model` in which every batch normalisation with a scale is a σBN.

    γ ~ N(0, 1) drawn from `seed`: the copy is meant to be trained. With the example input of a
    trained network, on which it runs once, γ is σ⁻¹ of the scale's size instead, once its sign,
    what it has above 1 and the offset were moved to other layers where that changes nothing (see
    pruning.trained_scales). What cannot be moved is lost: estimate the running statistics again
    (torch.optim.swa_utils.update_bn), and measure what that cost.

    Offsets are dropped; running statistics, device, dtype, mode, hooks, attributes and whether γ
    learns are kept. Parameter names stay the same. A subclass with a forward pass of its own, such
    as timm's BatchNormAct2d, runs that with σ(γ) for a scale and None for an offset. What is no
    batch normalisation of torch's (SyncBatchNorm), or was given another forward pass as an object,
    stays as it is, with a warning that names it.
    """
    generator = torch.Generator().manual_seed(seed)
    if example_input is not None:
        model = bounded_scales(model, example_input, _LARGEST)

    def gamma(old: BatchNorm) -> Tensor:
        if example_input is None:
            return torch.randn(old.num_features, generator=generator)
        return old.weight.detach().double().abs().clamp(_LEAST, _LARGEST).logit()

    def convert(old: nn.Module, recast: Recast) -> None:
        if not isinstance(old, BatchNorm) or isinstance(old, SigmoidBatchNorm) or not old.affine:
            return
        kind = next((new for stock, new in _KINDS if isinstance(old, stock)), None)
        if kind is not None and "forward" not in vars(old):
            new = recast(kind if runs_stock_code(old) else _with_code_of(type(old)))
            new.register_parameter("bias", None)
            with torch.no_grad():
                new.weight.copy_(gamma(old))

    result = _exchanged(model, convert)
    left = {
        f"{name} ({type(module).__name__})"
        for name, module in result.named_modules()
        if isinstance(module, BatchNorm)
        and module.affine
        and not isinstance(module, SigmoidBatchNorm)
    }
    if left:
        warnings.warn(
            f"no sigmoid batch normalisation for {', '.join(sorted(left))}, whose forward pass is "
            "not that of its class, or no batch normalisation of torch's: these channels have no "
            "importance to learn",
            stacklevel=2,
        )
    return result


def fold(model: nn.Module) -> nn.Module:
    """A copy of `model` of stock layers only: each σBN becomes a batch norm of equal output.

    Its weight is σ(γ), its bias 0; it learns what γ did. Everything else is kept.
    """

    def convert(old: nn.Module, recast: Recast) -> None:
        if isinstance(old, SigmoidBatchNorm):
            new = recast(_stock_of(old))
            with torch.no_grad():
                new.weight.copy_(old.importance)
            offset = torch.zeros_like(new.weight)
            new.bias = nn.Parameter(offset, requires_grad=new.weight.requires_grad)

    return _exchanged(model, convert)


Recast = Callable[[type[BatchNorm]], BatchNorm]
"""A class → a copy of the layer at hand as one of it, with all that was set on the layer."""


def _exchanged(model: nn.Module, convert: Callable[[nn.Module, Recast], None]) -> nn.Module:
    """A deep copy with what `convert` makes of modules; others are as they were."""
    model, memo = unwrapped(model), dict[int, object]()
    check_copyable(model)
    for module in model.modules():

        def recast(kind: type[BatchNorm], old: nn.Module = module) -> BatchNorm:
            memo[id(old)] = new = kind.__new__(kind)
            new.__dict__.update(copy.deepcopy(vars(old), memo))
            return new

        convert(module, recast)
    return deep_copy(model, memo)
