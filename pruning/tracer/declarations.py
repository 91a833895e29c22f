"""What operators declare of themselves, read once per operator."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch

from pruning.networks.torch_interior import schema_of


@dataclass(frozen=True)
class Declaration:
    """What a trace asks of an operator at each of its calls.

    name: as the dispatcher has it, such as aten::add.
    is_pointwise, is_random: as torch tags it.
    is_mutable: whether it writes to an argument.
    makes_tensors: whether it is of ATen and returns tensors alone, none of them a view.
    shares_memory: per thing that it returns, whether that shares memory with an argument.
    shared_arguments: place and name of those that it writes to or returns views of.
    takes_device: whether it can be told where to make what it returns.
    """

    name: str
    is_pointwise: bool
    is_random: bool
    is_mutable: bool
    makes_tensors: bool
    shares_memory: tuple[bool, ...]
    shared_arguments: tuple[tuple[int, str], ...]
    takes_device: bool


@functools.cache
def declaration_of(operator: Any) -> Declaration:
    """The declaration of an ATen operator, or of one of another library."""
    schema, tags = schema_of(operator), operator.tags
    views = [r for r in schema.returns if r.alias_info is not None and not r.alias_info.is_write]
    are_tensors = all(str(returned.type) == "Tensor" for returned in schema.returns)
    return Declaration(
        name=schema.name,
        is_pointwise=torch.Tag.pointwise in tags,
        is_random=torch.Tag.nondeterministic_seeded in tags,
        is_mutable=schema.is_mutable,
        makes_tensors=operator.namespace == "aten" and not views and are_tensors,
        shares_memory=tuple(returned.alias_info is not None for returned in schema.returns),
        shared_arguments=tuple(
            (place, argument.name)
            for place, argument in enumerate(schema.arguments)
            if argument.alias_info is not None
        ),
        takes_device=any(argument.name == "device" for argument in schema.arguments),
    )
