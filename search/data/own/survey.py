"""What has to be known of people's Datasets before training: how many samples, of which classes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pruning.errors import DataError
from search.config.data_config import DataConfig
from search.data.data import Part
from search.data.own.labels import class_number, known_labels, target_of
from search.data.own.minibatches import DatasetLoader, Minibatches, in_words
from search.data.own.parts import (
    Chosen,
    Selection,
    Streamed,
    failing_in_one_line,
    is_stream,
    streamed,
)
from search.data.own.seeded_generators import seeded

Progress = Callable[[int, int], None]

_READ_AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class Survey:
    """What is known of a Dataset.

    labels: the class of every sample, where targets are single whole numbers.
    """

    part: Part
    count: int
    first: Any
    is_stream: bool
    labels: Tensor | None = None
    note: str = ""

    def selection(self, numbers: Tensor | None = None) -> Selection:
        """All of its samples, or those of these numbers."""
        if self.is_stream:
            return Streamed(self.part, self.count)
        numbers = torch.arange(self.count) if numbers is None else numbers
        return Chosen(self.part, self.count, numbers)


def part_name(part: Part, source: str) -> str:
    """What a Dataset is called in messages."""
    return f"the {part} part of {source}"


def surveyed(
    dataset: Any,
    part: Part,
    config: DataConfig,
    *,
    has_classes: bool,
    progress: Progress | None = None,
) -> Survey:
    """What is known of a Dataset; where it has to be read for that, a note says so.

    has_classes: whether whole numbers as targets are classes.  progress: told how many samples are
    read, of how many.  Raises DataError for one that is empty or cannot be read.
    """
    name = part_name(part, config.source)
    survey = _stream if is_stream(dataset) else _by_number
    with seeded(0):
        found = survey(dataset, part, name, has_classes)
    if found.count == 0:
        raise DataError(f"{name} has no samples")
    if is_stream(dataset) or found.labels is not None or not has_classes:
        return found
    if class_number(target_of(found.first)) is None:
        return found
    labels = _read_labels(dataset, found, name, config.workers, progress)
    note = f"{name} was read once, for its classes: an attribute `targets` would save that"
    return replace(found, labels=labels, note=note)


def _by_number(dataset: Any, part: Part, name: str, has_classes: bool) -> Survey:
    """Without reading more than a few samples."""
    with failing_in_one_line(f"the length of {name}"):
        count = len(dataset)
    if count == 0:
        return Survey(part, 0, None, is_stream=False)
    with failing_in_one_line(f"sample 0 of {name}"):
        first = dataset[0]
    labels = None
    if has_classes and class_number(target_of(first)) is not None:
        labels = known_labels(dataset)
        if labels is not None and not _are_those_of(labels, dataset, name):
            labels = None
    return Survey(part, count, first, is_stream=False, labels=labels)


def _are_those_of(labels: Tensor, dataset: Any, name: str) -> bool:
    """Whether some samples have these labels, which may be of before a transform."""
    for place in (0, len(labels) // 2, len(labels) - 1):
        with failing_in_one_line(f"sample {place} of {name}"):
            item = dataset[place]
        if class_number(target_of(item)) != int(labels[place]):
            return False
    return True


def _stream(dataset: Any, part: Part, name: str, has_classes: bool) -> Survey:
    """Read once, unless it knows its length and nothing has to be known of its targets."""
    items = streamed(dataset, 0, name)
    first = next(items, None)
    if first is None:
        return Survey(part, 0, None, is_stream=True)
    numbered = has_classes and class_number(target_of(first)) is not None
    if hasattr(dataset, "__len__") and not numbered:
        return Survey(part, len(dataset), first, is_stream=True)
    numbers, count = [], 0
    for count, item in enumerate(itertools.chain([first], items), start=1):
        if numbered:
            numbers.append(_label(item, count - 1, name))
    labels = torch.tensor(numbers) if numbered else None
    note = f"{name} was read once, to count its {count:,} samples"
    return Survey(part, count, first, is_stream=True, labels=labels, note=note)


def _label(item: Any, number: int, name: str) -> int:
    label = class_number(target_of(item))
    if label is None:
        raise DataError(
            f"sample {number} of {name} must have the number of a class as its target, as sample "
            f"0 has, got {in_words(target_of(item))}"
        )
    return label


def _read_labels(
    dataset: Any, survey: Survey, name: str, workers: int | None, progress: Progress | None
) -> Tensor:
    """The class of every sample; `progress` is told how many are read, of how many."""
    loader = DatasetLoader(
        Minibatches(survey.selection().reader(dataset, name), _targets_alone),
        survey.count,
        batch_size=_READ_AT_ONCE,
        device=torch.device("cpu"),
        num_processes=workers,
    )
    labels: list[int] = []
    for targets in loader.in_order():
        labels += [
            _label((None, target), len(labels) + i, name) for i, target in enumerate(targets)
        ]
        if progress is not None:
            progress(len(labels), survey.count)
    return torch.tensor(labels)


def _targets_alone(items: list[Any]) -> list[Any]:
    return [target_of(item) for item in items]
