"""What a network computes and no operator reads: its outputs, wherever it leaves them."""

from __future__ import annotations

import itertools

from torch import Tensor

from pruning.graph.operators.rule import Call, aten_names
from pruning.tracer.tensor_dict import TensorDict

_COPIES = frozenset(aten_names("clone detach alias _to_copy lift_fresh"))
"""Operators whose result is another form of all that they were given."""


class UnreadTensors:
    """The tensors of a run that are still alive and that nothing but copies was made of."""

    def __init__(self) -> None:
        self._value_of: TensorDict[int] = TensorDict()
        self._read: set[int] = set()
        self._numbers = itertools.count()

    def note(self, call: Call) -> None:
        """Note what a call reads and makes. A copy is of the same value as what it was made of."""
        if call.name in _COPIES:
            value = self._value_of.get(call.tensors[0])
        else:
            self._read.update(self._value_of.get(tensor, -1) for tensor in call.tensors)
            value = None
        for output in call.outputs:
            self._value_of[output] = next(self._numbers) if value is None else value

    def alive(self) -> list[Tensor]:
        """Those that somebody still holds."""
        return [tensor for tensor, value in self._value_of.items() if value not in self._read]
