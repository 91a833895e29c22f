"""What the calls of a run cost, and which of them the network's outputs depend on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor

from pruning.graph.operators.rule import Call, Size
from pruning.tracer.tensor_dict import TensorDict

COUNTED = ""
"""The name of what belongs to the FLOPs; what fvcore does not count has its operator's."""


NameOf = Callable[[str], str | None]
"""From an operator to the name that its cost is counted under; None for not at all."""


def as_counted(_operator: str) -> str | None:
    return COUNTED


def not_at_all(_operator: str) -> str | None:
    return None


class Calls:
    """Costs of the operators of one run; a call whose result nobody needs costs nothing.

    So does fvcore count, because torch's tracer drops such calls. Memory, not tensors, is followed:
    whoever reads a tensor needs everything that was written there before, through whatever view.

    is_counting: whether anything is noted.
    """

    def __init__(self) -> None:
        self.is_counting = True
        self._operator = ""
        self._name_of: NameOf = as_counted
        self._costs: list[tuple[int, str, int, tuple[Size, ...]]] = []
        self._needs: list[tuple[int, ...]] = []
        self._outputs: list[int] = []
        self._writers: TensorDict[list[int]] = TensorDict()

    def begin(self, operator: str) -> None:
        """A call of this operator runs from now on."""
        self._operator = operator
        self._needs.append(())

    def count(self, factor: int, *sizes: Size) -> None:
        """The last call costs factor × Π sizes FLOPs (fvcore's convention)."""
        self._note(self._name_of(self._operator), factor, sizes)

    def leave_out(self, *sizes: Size) -> None:
        """The last call makes Π sizes multiply-adds that fvcore does not count."""
        name = self._name_of(self._operator)
        self._note(self._operator if name == COUNTED else name, 1, sizes)

    @contextmanager
    def counted_as(self, name_of: NameOf) -> Iterator[None]:
        """Inside the block what an operator costs is counted under this name, or not at all.

        Inside another such block its name stays.
        """
        before = self._name_of
        if before is as_counted or name_of is not_at_all:
            self._name_of = name_of
        try:
            yield
        finally:
            self._name_of = before

    def _note(self, name: str | None, factor: int, sizes: tuple[Size, ...]) -> None:
        if self.is_counting and name is not None:
            self._costs.append((len(self._needs) - 1, name, factor, sizes))

    def made(self, call: Call, is_alias: list[bool]) -> None:
        """The last call has made its outputs, some of which may share memory with an input."""
        read = {number for tensor in call.tensors for number in self._of(tensor)}
        for output, shares in zip(call.outputs, is_alias, strict=True):
            if shares and call.tensors:
                self._writers[output] = self._of(call.tensors[0])
            else:
                self._writers[output] = []
            self._writers[output].append(len(self._needs) - 1)
        self._needs[-1] = tuple(read)

    def gives(self, output: Tensor) -> None:
        """The network returns this tensor."""
        self._outputs += self._of(output)

    def terms(self) -> dict[str, list[tuple[int, tuple[Size, ...]]]]:
        """Factor and sizes of everything that the outputs need, by name."""
        needed, waiting = set(self._outputs), list(self._outputs)
        while waiting:
            further = set(self._needs[waiting.pop()]) - needed
            needed |= further
            waiting += further
        terms: dict[str, list[tuple[int, tuple[Size, ...]]]] = {}
        for number, name, factor, sizes in self._costs:
            if number in needed:
                terms.setdefault(name, []).append((factor, sizes))
        return terms

    def _of(self, tensor: Tensor) -> list[int]:
        """The calls that wrote to the memory of a tensor: one list for all its views."""
        if tensor not in self._writers:
            self._writers[tensor] = []
        return self._writers[tensor]
