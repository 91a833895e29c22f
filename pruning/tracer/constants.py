"""Numbers that a network's code works out, which may depend on how many channels there are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from pruning.graph.operators.rule import Call, aten_names
from pruning.networks.nested_tensors import numbers_in
from pruning.networks.torch_interior import DisableTorchFunction
from pruning.tracer.tensor_dict import TensorDict

_SIZES = frozenset(
    aten_names(
        "view _unsafe_view _reshape_alias expand repeat slice split split_with_sizes unsafe_split "
        "unsafe_split_with_sizes as_strided as_strided_ new_empty new_zeros new_ones convolution "
        "native_group_norm"
    )
)
_SIZE_LISTS = frozenset(
    aten_names("zeros ones empty full new_full constant_pad_nd affine_grid_generator")
)
"""Operators whose numbers may follow the channels: a mistake shows in the shape of what they make.

Of those in _SIZE_LISTS that is so for lists of numbers only.
"""


_FEW = 64
"""So many numbers of a tensor are compared one by one."""


class Constants:
    """Numbers that reach the operators of a run from Python, not from other operators."""

    def __init__(self) -> None:
        self._known: TensorDict[bool] = TensorDict()

    def know(self, tensors: Iterable[Tensor]) -> None:
        """Note tensors that are the network's own, its input, or made by its operators."""
        for tensor in tensors:
            self._known[tensor] = True

    def of(self, call: Call) -> tuple[float, ...]:
        """Numbers among the arguments of a call that become values or scale them, so no sizes.

        Tensors that come from elsewhere, such as from NumPy, count with what they hold.
        """
        positional = () if call.name in _SIZES else call.args
        if call.name in _SIZE_LISTS:
            positional = tuple(arg for arg in call.args if not isinstance(arg, list | tuple))
        foreign = [tensor for tensor in call.tensors if tensor not in self._known]
        return (*numbers_in((positional, call.kwargs)), *numbers_in(list(map(_values, foreign))))


def _values(tensor: Tensor) -> Any:
    """What a tensor holds; of many numbers their sum and norm; nothing of one without memory."""
    if tensor.is_meta or tensor.layout is not torch.strided or tensor.is_quantized:
        return ()
    with DisableTorchFunction():  # or a mode would take it for a call of the network
        values = tensor.detach().cpu().flatten()
        if values.numel() <= _FEW:
            return values.tolist()
        values = values.to(torch.complex128 if values.is_complex() else torch.float64)
        return [values.sum().item(), values.norm().item()]
