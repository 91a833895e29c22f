"""Datasets of other people: what their callables return, and what goes wrong with them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from search.data.own.data_splits import DataSplits

NUM_CLASSES = 3


class Numbered(Dataset[tuple[Tensor, int]]):
    """Sample i is the number `start` + i and of class i modulo 3; noise is added, if wanted."""

    def __init__(self, count: int, start: int = 0, *, noisy: bool = False) -> None:
        self.count, self.start, self.noisy = count, start, noisy

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not 0 <= index < self.count:
            raise IndexError(index)
        noise = 0.0
        if self.noisy:
            noise = (random.random() + np.random.random() + torch.rand(()).item()) / 10
        return torch.full((1, 4), self.start + index + noise), (self.start + index) % NUM_CLASSES


class WithTargets(Numbered):
    """As torchvision's; it may only be read where it is said so."""

    classes = ("ash", "birch", "cedar")

    @property
    def targets(self) -> list[int]:
        return [(self.start + index) % NUM_CLASSES for index in range(self.count)]


class Stream(IterableDataset[tuple[Tensor, int]]):
    """The same one after another; shuffled by Python's generator, if wanted."""

    def __init__(self, count: int, start: int = 0, *, shuffled: bool = False) -> None:
        self.samples, self.shuffled = Numbered(count, start, noisy=shuffled), shuffled

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        order = list(range(len(self.samples)))
        if self.shuffled:
            random.shuffle(order)
        for index in order:
            yield self.samples[index]


def plain() -> tuple[Any, Any]:
    return Numbered(60), Numbered(12, start=100)


def noisy() -> tuple[Any, Any]:
    return Numbered(60, noisy=True), Numbered(12, start=100, noisy=True)


def with_targets() -> dict[str, Any]:
    parts = {"train": 60, "validation": 9, "test": 12}
    starts = {"train": 0, "validation": 100, "test": 200}
    return {part: WithTargets(count, starts[part]) for part, count in parts.items()}


def streams() -> DataSplits:
    return DataSplits(train=Stream(60), test=Stream(12, start=100))


def shuffled_streams() -> DataSplits:
    return DataSplits(train=Stream(60, shuffled=True), test=Stream(12, start=100))


def streams_of_all_parts() -> tuple[Any, Any, Any]:
    return Stream(60, shuffled=True), Stream(9, start=100), Stream(12, start=200)


class Pairs(Dataset[Any]):
    """The samples of a list, as they are."""

    def __init__(self, *samples: Any) -> None:
        self.samples = samples * 10

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        return self.samples[index]


def nested() -> tuple[Any, Any]:
    """Two inputs by name, one of them a pair; a number to be learned, of 64 bits."""
    inputs = {"pair": (torch.zeros(2), torch.ones(3)), "count": 7}
    return Pairs((inputs, 0.5)), Pairs((inputs, 1.5))


def labelled_by_vectors() -> tuple[Any, Any]:
    x = torch.zeros(1, 4)
    return tuple(Pairs((x, torch.tensor([0.0, 1.0, 1.0, 0.0]))) for _ in range(2))


def one_collate_fn(items: list[Any]) -> list[Any]:
    return [torch.stack([x for x, _ in items]) * 2, torch.tensor([y for _, y in items])]


def collated() -> DataSplits:
    return DataSplits(Numbered(60), Numbered(12, start=100), collate_fn=one_collate_fn)


def at_root(root: str) -> tuple[Any, Any]:
    (Numbered(1)[0], open(root).close())
    return plain()


CALLS: list[str] = []
"""A word for each time that `counted` was called."""


def counted() -> tuple[Any, Any]:
    CALLS.append("called")
    return plain()


# ---- what goes wrong


def raises() -> None:
    raise ValueError("no\nluck")


def without_length() -> tuple[Any, Any]:
    class Endless(Dataset[Any]):
        def __getitem__(self, index: int) -> Any:
            return Numbered(1)[0]

    return Endless(), Numbered(12)


def raising_items() -> tuple[Any, Any]:
    return Numbered(60), Pairs_that_raise()


class Pairs_that_raise(Numbered):  # noqa: N801
    def __init__(self) -> None:
        super().__init__(12)

    def __getitem__(self, index: int) -> Any:
        if index == 5:
            raise KeyError("gone")
        return super().__getitem__(index)


def nothing() -> None:
    return None


def one_dataset() -> Any:
    return Numbered(60)


def no_test() -> dict[str, Any]:
    return {"train": Numbered(60)}


def misspelt() -> dict[str, Any]:
    return {"train": Numbered(60), "valid": Numbered(3), "test": Numbered(12)}


def loaders() -> tuple[Any, Any]:
    return DataLoader(Numbered(60)), DataLoader(Numbered(12))


def texts() -> tuple[Any, Any]:
    return "train", "test"


def generators() -> tuple[Any, Any]:
    return iter(Stream(60)), iter(Stream(12))


def empty() -> tuple[Any, Any]:
    return Numbered(60), Numbered(0)


def empty_stream() -> tuple[Any, Any]:
    return Stream(60), Stream(0)


def twice_the_same() -> tuple[Any, Any]:
    samples = Numbered(60)
    return samples, samples


def triples() -> tuple[Any, Any]:
    return Pairs((torch.zeros(2), torch.zeros(2), 1)), Numbered(12)


def bare_tensors() -> tuple[Any, Any]:
    return Pairs(torch.zeros(2)), Numbered(12)


def pictures() -> tuple[Any, Any]:
    return Numbered(60), Pairs((Image.new("RGB", (4, 4)), 0))


def arrays() -> tuple[Any, Any]:
    return Pairs((np.zeros((4, 4, 3), np.uint8), 0)), Numbered(12)


def of_many_sizes() -> tuple[Any, Any]:
    return Pairs((torch.zeros(2), 0), (torch.zeros(3), 1), (torch.zeros(2), 2)), Numbered(12)


def label_outside() -> dict[str, Any]:
    return {"train": Numbered(60), "test": Numbered(12), "classes": ["a", "b"]}


def label_below() -> tuple[Any, Any]:
    return TensorDataset(torch.zeros(9, 2), torch.arange(-1, 8)), Numbered(12)


def only_labels_below() -> tuple[Any, Any]:
    train, test = (TensorDataset(torch.zeros(9, 2), torch.full((9,), -1)) for _ in range(2))
    return train, test


def class_without_samples() -> tuple[Any, Any]:
    return TensorDataset(torch.zeros(60, 2), torch.arange(60).clamp(max=1) * 2), Numbered(12)


def floats_as_labels() -> tuple[Any, Any]:
    return tuple(Pairs((torch.zeros(1, 4), 0.5)) for _ in range(2))


def mixed_labels() -> tuple[Any, Any]:
    return Pairs((torch.zeros(2), 0), (torch.zeros(2), "b")), Numbered(12)


def too_few() -> tuple[Any, Any]:
    return Numbered(1), Numbered(12)


def collate_that_raises() -> DataSplits:
    def collate(items: list[Any]) -> Any:
        raise TypeError("cannot collate")

    return DataSplits(Numbered(60), Numbered(12), collate_fn=collate)


def collate_of_one() -> DataSplits:
    return DataSplits(Numbered(60), Numbered(12), collate_fn=lambda items: torch.zeros(2))


def with_fewer() -> tuple[Any, Any]:
    return Numbered(59), Numbered(12)


class Masks(Dataset[tuple[Tensor, Tensor]]):
    """Noise 3×32×32, and the class of every pixel: 0 on the left, 1 on the right."""

    classes = ("left", "right")

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(index))
        sides = (torch.arange(32) >= 16).long()
        return image, sides.expand(32, 32).contiguous()


def masks() -> DataSplits:
    """Images to segment."""
    return DataSplits(train=Masks(), test=Masks())


class Brightness(Dataset[tuple[Tensor, Tensor]]):
    """Noise 1×8×8 of some brightness, which is to be learned."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self._targets = torch.rand(60, generator=generator)
        noise = torch.randn(60, 1, 8, 8, generator=generator)
        self._images = noise + self._targets[:, None, None, None]

    def __len__(self) -> int:
        return len(self._targets)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self._images[index], self._targets[index]


def brightness() -> DataSplits:
    """Images with one number each."""
    return DataSplits(train=Brightness(0), test=Brightness(1))
