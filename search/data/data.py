"""What every data set is to those who train: three parts, read in minibatches."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch

from pruning.cost import ExampleInput
from pruning.networks.nested_tensors import tensors_in

Part = Literal["train", "validation", "test"]

Batch = Any
"""A minibatch on the device: inputs and targets, unless the task has a training step of its own.

Inputs are what the network is called with: a tensor, a tuple of arguments or a mapping of them.
"""

_EVALUATION_BYTES = 24 << 20
_MOST_EVALUATED = 500
"""Samples; more of them gain nothing, however small they are."""


@dataclass(frozen=True, eq=False)
class Sample:
    """What one sample is like, as a minibatch of one on the CPU.

    inputs: what the network is called with, such as zeros 1×C×H×W.  targets: what it is to learn;
    None where that is not known before the data are read.  classes: see `Data`.
    """

    inputs: ExampleInput
    classes: tuple[str, ...] = ()
    targets: Any = None


class Loader(ABC):
    """One part of a data set in minibatches on a device."""

    @abstractmethod
    def in_order(self) -> Iterator[Batch]:
        """Every sample once, as it is."""

    @abstractmethod
    def shuffled(self, generator: torch.Generator, *, augmented: bool = True) -> Iterator[Batch]:
        """One epoch of training: a random order, samples varied at random if `augmented`.

        The last minibatch may be short; if only one sample were left for it, that sample sits out
        this epoch, because batch norm cannot train on one. All random numbers come from
        `generator`, a CPU generator.
        """


class Data(ABC):
    """A data set whose parts share no sample.

    name: as settings have it.  classes: their names, in the order of their numbers; empty where
    targets are no classes.  notes: what people should know of it.
    memory_format: of images in minibatches, which convolutions have their weights in, too.
    """

    name: str
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()
    memory_format: ClassVar[torch.memory_format] = torch.preserve_format

    @abstractmethod
    def count(self, part: Part) -> int:
        """How many samples a part has."""

    @property
    @abstractmethod
    def sample(self) -> Sample:
        """What one sample is like; its numbers need not be those of any."""

    @property
    @abstractmethod
    def num_bytes(self) -> int:
        """What it takes in memory, or in a message to another process."""

    @abstractmethod
    def loader(self, part: Part, *, device: torch.device, batch_size: int | None = None) -> Loader:
        """A part in minibatches of so many samples; by default of `evaluation_batch`."""

    @property
    def evaluation_batch(self) -> int:
        """Samples of a minibatch that is only looked at, from 1 to 500: inputs of 24 MiB.

        A network that keeps 50 times as much as it reads then takes about 1.2 GB. It follows from
        the size of a sample alone, in 4 bytes a number, so that scores come out the same again.
        """
        numbers = sum(tensor.numel() for tensor in tensors_in(self.sample.inputs))
        return max(1, min(_MOST_EVALUATED, _EVALUATION_BYTES // max(1, 4 * numbers)))

    @abstractmethod
    def few(self, count: int) -> Self:
        """The same with at most so many samples in each part."""

    @property
    def record(self) -> Mapping[str, Any]:
        """What who uses a trained network has to know of its inputs, such as mean and deviation."""
        return {}

    def sent(self) -> Self:
        """The same for processes that may have another current folder."""
        return self

    def scoring_batches(
        self, count: int, *, batch_size: int, seed: int, device: torch.device
    ) -> Iterator[Batch]:
        """At most `count` minibatches of training samples as they are, in an order from `seed`."""
        loader = self.loader("train", batch_size=batch_size, device=device)
        generator = torch.Generator().manual_seed(seed)
        return itertools.islice(loader.shuffled(generator, augmented=False), count)


def steps_per_epoch(num_samples: int, batch_size: int) -> int:
    """Optimisation steps in one epoch: a last batch of a single sample is left out."""
    return math.ceil(samples_trained_on(num_samples, batch_size) / batch_size)


def samples_trained_on(num_samples: int, batch_size: int) -> int:
    """All of them, or all but one where the last batch would be a single sample."""
    lonely = batch_size > 1 and num_samples % batch_size == 1
    return num_samples - lonely
