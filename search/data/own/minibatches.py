"""Minibatches of people's Datasets: the same whoever reads them, in this process or in others."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from pruning.errors import DataError
from search.data.data import Batch, Loader, samples_trained_on
from search.data.own.parts import Reader, failing_in_one_line
from search.data.own.seeded_generators import seeded
from search.data.reading_processes import num_reading_processes

Collate = Callable[[list[Any]], Any]

_Request = tuple[int, tuple[int, ...]]
"""A seed of random numbers, and the places of the samples in their part."""

_PROCESSES_PAY_ABOVE = 1000
"""Samples; starting processes takes as long as reading some hundred."""

_SEEDS = 2**32


@final
class DatasetLoader(Loader):
    """A part of a Dataset in minibatches, moved to `device`.

    The order of samples and the random numbers that their transforms draw come from the generator
    that `shuffled` is given, for each minibatch anew, and are the same with any number of
    processes; in order, they are the same each time. Transforms are the Dataset's own, and are
    applied whether or not samples are to be augmented. Iterable Datasets have their own order.
    float64 becomes float32, as networks are trained in.
    """

    def __init__(
        self,
        reader: Reader,
        count: int,
        *,
        collate: Collate,
        batch_size: int,
        device: torch.device,
        num_processes: int | None = None,
    ) -> None:
        self._reader, self._count = reader, count
        self._batch_size, self._device = batch_size, device
        self._minibatches = _Minibatches(reader, collate)
        self._requests: list[_Request] = []
        processes = num_reading_processes(num_processes, count, pays_above=_PROCESSES_PAY_ABOVE)
        num_batches = math.ceil(count / batch_size)
        processes = min(processes, 1 if reader.is_ordered else num_batches, num_batches - 1)
        self._ahead = self._in_processes(processes) if processes else None

    def in_order(self) -> Iterator[Batch]:
        return self._read(torch.arange(self._count), torch.Generator().manual_seed(0))

    def shuffled(self, generator: torch.Generator, *, augmented: bool = True) -> Iterator[Batch]:  # noqa: ARG002
        places = torch.arange(self._count)
        if not self._reader.is_ordered:
            places = torch.randperm(self._count, generator=generator)
        return self._read(places[: samples_trained_on(self._count, self._batch_size)], generator)

    def _read(self, places: Tensor, generator: torch.Generator) -> Iterator[Batch]:
        chunks = torch.split(places, self._batch_size)
        seeds = torch.randint(_SEEDS, (len(chunks),), generator=generator)
        requests = [(s, tuple(c.tolist())) for s, c in zip(seeds.tolist(), chunks, strict=True)]
        for answer in self._answers(requests):
            if isinstance(answer, DataError):
                raise answer
            yield answer.on(self._device)

    def _answers(self, requests: list[_Request]) -> Iterator[_Minibatch | DataError]:
        if self._ahead is None:
            return map(self._minibatches.__getitem__, requests)
        self._requests[:] = requests
        return iter(self._ahead)

    def _in_processes(self, number: int) -> DataLoader[Any]:
        """What reads `self._requests` in processes that stay from one epoch to the next."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This DataLoader will create")  # as was asked for
            return DataLoader(
                self._minibatches,
                batch_size=None,
                sampler=self._requests,
                num_workers=number,
                collate_fn=_unchanged,
                pin_memory=self._device.type == "cuda",
                persistent_workers=True,
                generator=torch.Generator(),  # or it would draw from torch's global one
            )


class _Minibatches(Dataset[Any]):
    """What a DataLoader runs in its processes; errors travel as values, to keep their message."""

    def __init__(self, reader: Reader, collate: Collate) -> None:
        self._reader, self._collate = reader, collate

    def __getitem__(self, request: _Request) -> _Minibatch | DataError:
        seed, places = request
        try:
            with seeded(seed):
                return _Minibatch(self._collate(self._reader.items(seed, places)))
        except DataError as error:
            return error


@dataclass(frozen=True)
class _Minibatch:
    """One that DataLoaders leave as it is: they would make lists of tuples."""

    content: Any

    def pin_memory(self) -> _Minibatch:
        """For DataLoaders: a copy that a GPU reads while others work."""
        return _Minibatch(_each_tensor(self.content, Tensor.pin_memory))

    def on(self, device: torch.device) -> Any:
        """The content on `device`."""
        content = in_float32(self.content)
        return _each_tensor(content, lambda tensor: tensor.to(device, non_blocking=True))


def _unchanged(minibatch: Any) -> Any:
    return minibatch


def in_float32(minibatch: Any) -> Any:
    """The same with float64 as float32."""
    return _each_tensor(minibatch, lambda t: t.float() if t.dtype == torch.float64 else t)


def _each_tensor(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same nested tuples, lists and mappings, with every tensor changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {name: _each_tensor(part, change) for name, part in value.items()}
    if isinstance(value, list):
        return [_each_tensor(part, change) for part in value]
    if isinstance(value, tuple):
        return tuple(_each_tensor(part, change) for part in value)
    return value


@dataclass(frozen=True)
class PairCollate:
    """Makes a minibatch, a pair of inputs and targets, of items.

    name: of the data, for messages.  collate_fn: people's own; by default torch's, with tuples as
    the items have them.
    Raises DataError for items that torch's cannot put together, and for what is no pair.
    """

    name: str
    collate_fn: Collate | None = None

    def __call__(self, items: list[Any]) -> Any:
        if self.collate_fn is None:
            for item in items:
                self._require_pair(item, f"items of {self.name}")
            with failing_in_one_line(f"putting {len(items)} items of {self.name} together"):
                return tuple(_like(default_collate(items), items[0]))
        with failing_in_one_line(f"the collate_fn of {self.name}"):
            batch = self.collate_fn(items)
        self._require_pair(batch, f"minibatches of {self.name}, which its collate_fn makes,")
        return tuple(batch)

    @staticmethod
    def _require_pair(value: Any, what: str) -> None:
        if not isinstance(value, tuple | list) or len(value) != 2:
            raise DataError(
                f"{what} must be pairs (inputs, targets), got {in_words(value)}: put several "
                "inputs into a tuple or a mapping, as the network takes them"
            )


def _like(batch: Any, item: Any) -> Any:
    """The minibatch with tuples where the item has them: torch makes lists of them."""
    if isinstance(item, Mapping):
        return {name: _like(batch[name], part) for name, part in item.items()}
    if isinstance(item, tuple | list) and isinstance(batch, tuple | list):
        parts = [_like(b, part) for b, part in zip(batch, item, strict=True)]
        return parts if isinstance(item, list) else tuple(parts)
    return batch


def in_words(value: Any) -> str:
    """What an item is, for messages, such as "a tuple of 3" or "a Tensor of shape (3, 8, 8)"."""
    name = type(value).__name__
    if isinstance(value, tuple | list):
        return f"a {name} of {len(value)}"
    if isinstance(value, Mapping):
        return f"a {name} with {', '.join(map(str, value))}"[:80]
    shape = getattr(value, "shape", None)
    return f"a {name}" if shape is None else f"a {name} of shape {tuple(shape)}"
