"""The call of a torch function that operators belong to, and where activations meet in one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from pruning.einsum_products import einsum_products
from pruning.graph.call_sites import CallSite, CallSites
from pruning.graph.channel_labels import Labels
from pruning.networks.torch_interior import tree_leaves
from pruning.tracer.labelled_tensors import LabelledTensors
from pruning.tracer.trace_records import Contraction, Rows


class FunctionCalls:
    """contracted: every place at which two activations were multiplied and summed."""

    def __init__(self, labelled: LabelledTensors) -> None:
        self.sites = CallSites()
        self.contracted: list[Contraction] = []
        self._labelled = labelled
        self._present = CallSite("", "", 0)
        self._function: Any = None
        self._arguments: Any = ()
        self._query_rows: tuple[Rows, ...] = ()

    def begin(self, func: Any, arguments: Any) -> None:
        """Note the call, with its arguments, that the next operators belong to."""
        self._present = self.sites.next(func)
        self._function, self._arguments = func, arguments
        self._query_rows = ()

    def makes_queries(self, weights: Iterable[Tensor | None], number: int) -> None:
        """Note parameters whose first rows make one side of what the present call multiplies."""
        self._query_rows = tuple(
            Rows(name, labels, number)
            for weight in weights
            if weight is not None and (name := self._labelled.name(weight)) is not None
            for labels in self._labelled.axes(weight)[:1]
            if labels is not None
        )

    def contracts(self, labels: Labels) -> None:
        """Note that two activations are multiplied and summed along these labels."""
        summed = _summed(self._function, self._arguments[0])
        arguments = tuple(
            (
                place,
                tuple(
                    None if summed and (place, axis) not in summed else of_axis
                    for axis, of_axis in enumerate(self._labelled.axes(leaf))
                ),
            )
            for place, leaf in enumerate(tree_leaves(self._arguments))
            if isinstance(leaf, Tensor) and not self._labelled.is_parameter(leaf)
        )
        self.contracted.append(Contraction(self._present, labels, arguments, self._query_rows))


_FIRST_FACTOR = {
    **dict.fromkeys(
        (
            torch.matmul,
            Tensor.matmul,
            Tensor.__matmul__,
            torch.mm,
            Tensor.mm,
            torch.bmm,
            Tensor.bmm,
        ),
        0,
    ),
    **dict.fromkeys((torch.addmm, Tensor.addmm, torch.baddbmm, Tensor.baddbmm), 1),
}
"""Products of two matrices, and the place of the first among their arguments."""


def _summed(func: Any, args: Sequence[Any]) -> frozenset[tuple[int, int]]:
    """Over which axis of which argument a product sums: all (place, axis); none if not known.

    Several axes of an argument may carry the same channels, of which only one is summed over.
    """
    if func in _FIRST_FACTOR and len(args) > _FIRST_FACTOR[func] + 1:
        place = _FIRST_FACTOR[func]
        first, second = args[place], args[place + 1]
        return frozenset({(place, first.dim() - 1), (place + 1, max(second.dim() - 2, 0))})
    if func is torch.einsum and isinstance(args[0], str):
        operands = tree_leaves(args[1:])
        names, _ = einsum_products(args[0], [operand.dim() for operand in operands])
        everything, (_, arrow, output) = "".join(names), args[0].partition("->")
        return frozenset(
            (place, axis)
            for place, own in enumerate(names, 1)
            for axis, name in enumerate(own)
            if name.isascii() and (name not in output if arrow else everything.count(name) > 1)
        )
    return frozenset()
