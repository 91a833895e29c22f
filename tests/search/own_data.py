"""Data of any structure for the tests of search/, held in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from search.data.data import Batch, Data, Loader, Part, Sample

PARTS: tuple[Part, ...] = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class OwnData(Data):
    """Nested tuples, lists and mappings of tensors N×… for each part: (inputs, targets)."""

    parts: Mapping[Part, Batch]
    classes: tuple[str, ...] = ()
    name: str = "own"

    def count(self, part: Part) -> int:
        return _length(self.parts[part])

    @property
    def sample(self) -> Sample:
        inputs, targets = _cut(self.parts["train"], torch.arange(1))
        return Sample(inputs, self.classes, targets)

    @property
    def num_bytes(self) -> int:
        return 0

    def loader(self, part: Part, *, device: torch.device, batch_size: int | None = None) -> Loader:
        return OwnLoader(self.parts[part], batch_size or self.evaluation_batch, device)

    def few(self, count: int) -> OwnData:
        few = {part: _cut(self.parts[part], torch.arange(count)) for part in PARTS}
        return replace(self, parts=few)


@dataclass(frozen=True)
class OwnLoader(Loader):
    """One part."""

    samples: Batch
    batch_size: int
    device: torch.device

    def in_order(self) -> Iterator[Batch]:
        return self._batches(torch.arange(_length(self.samples)))

    def shuffled(self, generator: torch.Generator, *, augmented: bool = True) -> Iterator[Batch]:
        order = torch.randperm(_length(self.samples), generator=generator)
        return self._batches(order)

    def _batches(self, order: Tensor) -> Iterator[Batch]:
        for numbers in order.split(self.batch_size):
            yield _on(_cut(self.samples, numbers), self.device)


def own_data(make: Any, *, classes: tuple[str, ...] = (), counts: tuple[int, ...] = (64, 32, 32)):
    """Data whose parts `make(count, generator)` gives, as inputs and targets."""
    generator = torch.Generator().manual_seed(0)
    parts = {part: make(n, generator) for part, n in zip(PARTS, counts, strict=True)}
    return OwnData(parts, classes)


def _mapped(value: Any, change: Any) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {name: _mapped(part, change) for name, part in value.items()}
    return type(value)(_mapped(part, change) for part in value)


def _cut(value: Any, numbers: Tensor) -> Any:
    return _mapped(value, lambda tensor: tensor[numbers])


def _on(value: Any, device: torch.device) -> Any:
    return _mapped(value, lambda tensor: tensor.to(device))


def _length(value: Any) -> int:
    if isinstance(value, Tensor):
        return len(value)
    return _length(next(iter(value.values() if isinstance(value, Mapping) else value)))
