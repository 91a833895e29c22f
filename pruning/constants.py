"""Numbers that a network's code works out, which may depend on how many channels there are."""

from __future__ import annotations

from pruning.nested_tensors import numbers_in
from pruning.operators.rule import Call, aten_names

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


def constants_of(call: Call) -> tuple[float, ...]:
    """Numbers among the arguments of a call that become values or scale them, so no sizes."""
    positional = () if call.name in _SIZES else call.args
    if call.name in _SIZE_LISTS:
        positional = tuple(arg for arg in call.args if not isinstance(arg, list | tuple))
    return tuple(numbers_in((positional, call.kwargs)))
