"""What is known of each tensor while it lives."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Generic, TypeVar, overload

from torch import Tensor
from torch.utils.weak import WeakIdRef

T = TypeVar("T")
D = TypeVar("D")


class TensorDict(Generic[T]):
    """Values by tensor, each as long as that lives.

    As torch's WeakIdKeyDictionary, which makes a reference at each look-up: a trace makes tens of
    thousands. An entry goes with its tensor, before another object can have the same id.
    """

    def __init__(self) -> None:
        self._values: dict[int, T] = {}
        self._references: dict[int, WeakIdRef] = {}
        owner = weakref.ref(self)  # references that hold what holds them would be a cycle

        def forget(reference: WeakIdRef) -> None:
            if (entries := owner()) is not None:
                entries._values.pop(hash(reference), None)
                entries._references.pop(hash(reference), None)

        self._forget = forget

    def __contains__(self, tensor: Tensor) -> bool:
        return id(tensor) in self._values

    def __getitem__(self, tensor: Tensor) -> T:
        return self._values[id(tensor)]

    def __setitem__(self, tensor: Tensor, value: T) -> None:
        key = id(tensor)
        self._values[key] = value
        if key not in self._references:
            self._references[key] = WeakIdRef(tensor, self._forget)

    @overload
    def get(self, tensor: Tensor) -> T | None: ...

    @overload
    def get(self, tensor: Tensor, default: D) -> T | D: ...

    def get(self, tensor: Tensor, default: D | None = None) -> T | D | None:
        """The value of a tensor, or `default` if it has none."""
        return self._values.get(id(tensor), default)

    def discard(self, tensor: Tensor) -> None:
        """Forget the value of a tensor, if it has one."""
        self._values.pop(id(tensor), None)

    def items(self) -> Iterator[tuple[Tensor, T]]:
        """Every tensor that lives, with its value."""
        for key, reference in list(self._references.items()):
            tensor = reference()
            if tensor is not None and key in self._values:
                yield tensor, self._values[key]
