"""Tensors and numbers inside of what operators and networks are given and return."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
from torch import Tensor, nn

_SCALARS = frozenset({int, float, bool, str, type(None)})
"""Most of what operators are given, told at once: tracing asks for tensors all the time."""


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Every tensor in nested tuples, lists and mappings."""
    tensors: list[Tensor] = []
    _add_tensors(value, tensors)
    return iter(tensors)


def _add_tensors(value: Any, tensors: list[Tensor]) -> None:
    if type(value) in _SCALARS:
        return
    if isinstance(value, Tensor):
        tensors.append(value)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _add_tensors(item, tensors)
    elif isinstance(value, Mapping):
        for item in value.values():
            _add_tensors(item, tensors)


def num_samples(inputs: Any) -> int:
    """How many samples a minibatch has: the length of the first list, or tensor, in it.

    Detectors are given lists of images. ValueError for inputs without either.
    """
    if isinstance(inputs, list) or (isinstance(inputs, Tensor) and inputs.dim()):
        return len(inputs)
    parts: Iterable[Any] = ()
    if isinstance(inputs, Mapping):
        parts = inputs.values()
    elif isinstance(inputs, tuple):
        parts = inputs
    for part in parts:
        with suppress(ValueError):
            return num_samples(part)
    raise ValueError(f"{type(inputs).__name__} holds no tensor")


def returned_tensors(value: Any, seen: set[int]) -> Iterator[Tensor]:
    """Every tensor in what a network returns, objects of any kind included."""
    if isinstance(value, Tensor):
        yield value
    if id(value) in seen or isinstance(value, Tensor | nn.Module | type | str | int | float):
        return
    seen.add(id(value))
    if isinstance(value, Mapping):
        parts: Iterable[Any] = value.values()
    elif isinstance(value, list | tuple):
        parts = value
    else:
        slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
        parts = [getattr(value, name, None) for name in (*getattr(value, "__dict__", ()), *slots)]
    for part in parts:
        yield from returned_tensors(part, seen)


def numbers_in(value: Any) -> Iterator[float]:
    """Every number in nested tuples, lists, mappings and arrays; of complex ones both parts."""
    numbers: list[float] = []
    _add_numbers(value, numbers)
    return iter(numbers)


def _add_numbers(value: Any, numbers: list[float]) -> None:
    if isinstance(value, (int, float)):
        numbers.append(float(value))
    elif type(value) in _SCALARS or isinstance(value, Tensor):
        return
    elif isinstance(value, (list, tuple)):
        for item in value:
            _add_numbers(item, numbers)
    elif isinstance(value, (complex, np.complexfloating)):
        numbers += (float(value.real), float(value.imag))
    elif isinstance(value, (np.ndarray, np.generic)):
        _add_numbers(value.tolist(), numbers)
    elif isinstance(value, Mapping):
        _add_numbers(tuple(value.values()), numbers)
