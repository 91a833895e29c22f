"""Minibatches of people's Datasets: the same whoever reads them, in this process or in others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, final

import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from pruning.errors import DataError
from search.data.data import Batch, Loader, samples_trained_on
from search.data.own.parts import Reader, failing_in_one_line
from search.data.own.seeded_generators import seeded
from search.data.reading_processes import ReadingProcesses, num_reading_processes

Collate = Callable[[list[Any]], Any]

Request = tuple[int, tuple[int, ...]]
"""A seed of random numbers, and the places of the samples in their part."""

_PROCESSES_PAY_ABOVE = 256
"""Samples; processes stay, so that starting them has to pay over all epochs alone."""

_SEEDS = 2**32


class Ahead(Protocol):
    """Answers requests in so many processes, see `ReadingProcesses.answers`."""

    def __call__(
        self, requests: Sequence[Request], number: int, *, pinned: bool
    ) -> Iterator[Any]: ...


@final
class DatasetLoader(Loader):
    """A part of a Dataset in minibatches, moved to `device`.

    The order of samples and the random numbers that their transforms draw come from the generator
    that `shuffled` is given, for each minibatch anew, and are the same with any number of
    processes; in order, they are the same each time. Transforms are the Dataset's own, and are
    applied whether or not samples are to be augmented. Iterable Datasets have their own order.
    float64 becomes float32, as networks are trained in.

    ahead: by what processes answer requests; by default by some of its own.
    """

    def __init__(
        self,
        minibatches: Minibatches,
        count: int,
        *,
        batch_size: int,
        device: torch.device,
        num_processes: int | None = None,
        ahead: Ahead | None = None,
    ) -> None:
        self._minibatches, self._count = minibatches, count
        self._batch_size, self._device = batch_size, device
        processes = num_reading_processes(num_processes, count, pays_above=_PROCESSES_PAY_ABOVE)
        if minibatches.is_ordered:
            processes = min(processes, 1)
        self._num_processes = processes if count > batch_size else 0
        self._ahead: Ahead = ahead or ReadingProcesses(minibatches).answers

    def in_order(self) -> Iterator[Batch]:
        return self._read(torch.arange(self._count), torch.Generator().manual_seed(0))

    def shuffled(self, generator: torch.Generator, *, augmented: bool = True) -> Iterator[Batch]:  # noqa: ARG002
        places = torch.arange(self._count)
        if not self._minibatches.is_ordered:
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

    def _answers(self, requests: list[Request]) -> Iterator[_Minibatch | DataError]:
        if not self._num_processes:
            return map(self._minibatches.__getitem__, requests)
        pinned = self._device.type == "cuda"
        return self._ahead(requests, self._num_processes, pinned=pinned)


class Minibatches(Dataset[Any]):
    """The minibatches of one part, by request; errors travel as values, to keep their message."""

    def __init__(self, reader: Reader, collate: Collate) -> None:
        self._reader, self._collate = reader, collate

    @property
    def is_ordered(self) -> bool:
        """Whether they are to be asked for in their order, of one process."""
        return self._reader.is_ordered

    def __getitem__(self, request: Request) -> _Minibatch | DataError:
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
