"""Which samples of people's Datasets make up a part, and how they are read.

Some Datasets are asked for samples by number, others (iterable ones) give them one after another.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Self, final

from torch import Tensor
from torch.utils.data import IterableDataset

from pruning.errors import DataError, EspalierError, reason_with_place
from search.data.data import Part
from search.data.own.seeded_generators import set_seeds


def is_stream(dataset: object) -> bool:
    """Whether a Dataset gives its samples one after another, not by their numbers."""
    return isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__")


class Selection(ABC):
    """The samples of a Dataset that make up a part; it can be sent to where the Dataset is not.

    source: the part that the Dataset was given as.  total: how many samples that has.
    """

    source: Part
    total: int

    @abstractmethod
    def __len__(self) -> int:
        """How many samples there are."""

    @abstractmethod
    def first(self, count: int) -> Self:
        """At most so many of them."""

    @abstractmethod
    def reader(self, dataset: Any, name: str) -> Reader:
        """What reads them, of a Dataset called `name`; DataError if it has other samples now."""


class Reader(ABC):
    """Reads the samples of one part by their places in it, from 0."""

    is_ordered = False
    """Whether they are to be read in their order, by one process."""

    @abstractmethod
    def items(self, seed: int, places: Sequence[int]) -> list[Any]:
        """The items at these places; the global random generators are at `seed`."""


@final
@dataclass(frozen=True, eq=False)
class Chosen(Selection):
    """Samples by their numbers in the Dataset, int64 (n,)."""

    source: Part
    total: int
    numbers: Tensor

    def __len__(self) -> int:
        return len(self.numbers)

    def first(self, count: int) -> Chosen:
        return replace(self, numbers=self.numbers[:count])

    def reader(self, dataset: Any, name: str) -> Reader:
        if len(dataset) != self.total:
            raise DataError(
                f"{name} has {len(dataset):,} samples now, and had {self.total:,} when the search "
                "began: it must always have the same"
            )
        return _ChosenReader(dataset, self.numbers, name)


class _ChosenReader(Reader):
    def __init__(self, dataset: Any, numbers: Tensor, name: str) -> None:
        self._dataset, self._numbers, self._name = dataset, numbers, name

    def items(self, seed: int, places: Sequence[int]) -> list[Any]:  # noqa: ARG002
        numbers = self._numbers[list(places)].tolist()
        if getattr(self._dataset, "__getitems__", None) is None:
            return [self._item(number) for number in numbers]
        with failing_in_one_line(f"samples {numbers[0]}, … of {self._name}"):
            return list(self._dataset.__getitems__(numbers))

    def _item(self, number: int) -> Any:
        with failing_in_one_line(f"sample {number} of {self._name}"):
            return self._dataset[number]


@final
@dataclass(frozen=True)
class Streamed(Selection):
    """Samples of an iterable Dataset, in the order in which it gives them.

    total: how many of its samples are used at all.  every: where not 0, of each so many samples the
    last is held out; then the random generators begin every epoch alike, so that none changes
    sides.  is_held_out: whether those are meant, or the others.  most: at most so many of them.
    """

    source: Part
    total: int
    every: int = 0
    is_held_out: bool = False
    most: int | None = None

    def __len__(self) -> int:
        held_out = self.total // self.every if self.every else 0
        count = held_out if self.is_held_out else self.total - held_out
        return count if self.most is None else min(count, self.most)

    def first(self, count: int) -> Streamed:
        return replace(self, most=min(count, len(self)))

    def has(self, number: int) -> bool:
        """Whether the sample of this number, from 0, is one of them."""
        last = bool(self.every) and number % self.every == self.every - 1
        return last == self.is_held_out

    def reader(self, dataset: Any, name: str) -> Reader:
        return _StreamReader(dataset, self, name)


class _StreamReader(Reader):
    is_ordered = True

    def __init__(self, dataset: Any, selection: Streamed, name: str) -> None:
        self._dataset, self._selection, self._name = dataset, selection, name
        self._rest: Iterator[Any] = iter(())

    def items(self, seed: int, places: Sequence[int]) -> list[Any]:
        if places[0] == 0:
            self._rest = self._from_its_beginning(seed)
        items = list(itertools.islice(self._rest, len(places)))
        if len(items) < len(places):
            raise DataError(
                f"{self._name} ended after fewer samples than the {self._selection.total:,} that "
                "it had when they were counted: it must always give as many"
            )
        return items

    def _from_its_beginning(self, seed: int) -> Iterator[Any]:
        selection = self._selection
        stream = streamed(self._dataset, 0 if selection.every else seed, self._name)
        for number, item in enumerate(itertools.islice(stream, selection.total)):
            if selection.has(number):
                yield item


def streamed(dataset: Any, seed: int, name: str) -> Iterator[Any]:
    """The items of an iterable Dataset; before each the random generators are set by its number."""
    rest: Iterator[Any] | None = None
    for number in itertools.count():
        set_seeds(seed, number)
        with failing_in_one_line(f"sample {number} of {name}"):
            rest = iter(dataset) if rest is None else rest
            try:
                item = next(rest)
            except StopIteration:
                return
        yield item


@contextmanager
def failing_in_one_line(what: str) -> Iterator[None]:
    """Turns whatever people's code raises into a DataError that says what failed, and where."""
    try:
        yield
    except EspalierError:
        raise
    except (Exception, SystemExit) as error:
        raise DataError(f"{what} failed: {reason_with_place(error)}") from error
