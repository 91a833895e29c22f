"""Deep copies of networks, and in one line why one cannot be made."""

from __future__ import annotations

import copy

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from pruning.errors import ModelError

_REMEDIES = (
    (BasePruningMethod, "call torch.nn.utils.prune.remove on it first"),
    (WeightNorm, "use torch.nn.utils.parametrizations.weight_norm, or call remove_weight_norm"),
    (SpectralNorm, "use torch.nn.utils.parametrizations.spectral_norm, or remove_spectral_norm"),
)
"""Hooks that leave tensors behind which they computed, and what to do about each."""


def deep_copy(model: nn.Module, memo: dict[int, object] | None = None) -> nn.Module:
    """A deep copy of `model`, with what `memo` has in place of what it names by id.

    Raises ModelError for a network that cannot be copied.
    """
    check_copyable(model)
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:  # whatever a module holds may raise anything
        raise ModelError(f"{type(model).__name__} cannot be copied: {error}") from error


def check_copyable(model: nn.Module) -> None:
    """Raise ModelError for parameters without values, and for tensors computed from parameters."""
    for name, module in model.named_modules():
        where = f"{type(module).__name__} {name!r}" if name else type(module).__name__
        if any(is_lazy(tensor) for tensor in module._parameters.values()):
            raise ModelError(
                f"{where} has no weights before it has seen an input: run the network once first"
            )
        for attribute, value in vars(module).items():
            if isinstance(value, Tensor) and value.grad_fn is not None:
                raise ModelError(
                    f"{where} keeps {attribute!r}, which was computed from parameters, so that it "
                    f"cannot be copied: {_remedy(module)}"
                )


def _remedy(module: nn.Module) -> str:
    hooks = tuple(module._forward_pre_hooks.values())
    for kind, remedy in _REMEDIES:
        if any(isinstance(hook, kind) for hook in hooks):
            return remedy
    return "keep a detached copy, or compute it in forward"
