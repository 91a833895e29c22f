"""The call of a torch function that operators belong to, and where activations meet in one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

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
        self._arguments: Any = ()
        self._query_rows: tuple[Rows, ...] = ()

    def begin(self, func: Any, arguments: Any) -> None:
        """Note the call, with its arguments, that the next operators belong to."""
        self._present = self.sites.next(func)
        self._arguments = arguments
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
        arguments = tuple(
            (place, self._labelled.axes(leaf))
            for place, leaf in enumerate(tree_leaves(self._arguments))
            if isinstance(leaf, Tensor) and not self._labelled.is_parameter(leaf)
        )
        self.contracted.append(Contraction(self._present, labels, arguments, self._query_rows))
