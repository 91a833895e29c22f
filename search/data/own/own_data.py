"""Data of people's own: Datasets that a callable returns, split where a part is missing.

What is sent to other processes are the settings and which samples make up each part; there the
callable is called again.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pruning.errors import DataError
from pruning.networks.nested_tensors import tensors_in
from search.config.data_config import DataConfig
from search.data.data import EVALUATION_BATCH, Data, Part, Sample
from search.data.own.data_splits import DataSplits, splits_of
from search.data.own.labels import (
    check_labels,
    class_names,
    class_number,
    known_labels,
    target_of,
)
from search.data.own.minibatches import DatasetLoader, PairCollate, in_float32, in_words
from search.data.own.parts import (
    Chosen,
    Selection,
    Streamed,
    failing_in_one_line,
    is_stream,
    streamed,
)
from search.data.own.seeded_generators import seeded
from search.data.stratified import require_every_class, require_no_fraction, used_and_held_out

Progress = Callable[[int, int], None]

_READ_AT_ONCE = 64


@final
@dataclass(frozen=True, eq=False)
class DatasetData(Data):
    """People's own Datasets.

    selections: what makes up each part.  example: the first sample of `train`.
    """

    name: str
    config: DataConfig
    selections: Mapping[Part, Selection]
    classes: tuple[str, ...]
    example: Sample
    notes: tuple[str, ...] = ()

    def count(self, part: Part) -> int:
        return len(self.selections[part])

    @property
    def sample(self) -> Sample:
        return self.example

    @property
    def num_bytes(self) -> int:
        return sum(8 * len(selection) for selection in self.selections.values())

    def loader(
        self, part: Part, *, device: torch.device, batch_size: int = EVALUATION_BATCH
    ) -> DatasetLoader:
        splits, selection = splits_of(self.config), self.selections[part]
        dataset = splits.datasets.get(selection.source)
        name = _name_of(selection.source, self.name)
        if dataset is None:
            raise DataError(f"{name} is no longer there: {self.name} must always return the same")
        return DatasetLoader(
            selection.reader(dataset, name),
            len(selection),
            collate=PairCollate(name, splits.collate_fn),
            batch_size=batch_size,
            device=device,
            num_processes=self.config.workers,
        )

    def few(self, count: int) -> DatasetData:
        few = {part: selection.first(count) for part, selection in self.selections.items()}
        return replace(self, selections=few)

    def sent(self) -> DatasetData:
        root = os.path.abspath(self.config.root)
        return replace(self, config=replace(self.config, root=root))


@dataclass(frozen=True, eq=False)
class _Survey:
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


def load(
    config: DataConfig, *, has_classes: bool, seed: int, progress: Progress | None = None
) -> DatasetData:
    """The Datasets that the callable named by `config` returns, with a validation part.

    has_classes: whether whole numbers as targets are classes; then parts keep their shares, and
    every target is looked at.  seed: of the split.  progress: told of samples that are read.
    Raises DataError for a callable that fails or returns something else, Datasets that are empty,
    items that are no pairs or cannot be put together, and labels that are no classes.
    """
    splits_of.cache_clear()  # people may have changed what it returns
    splits = splits_of(config)
    surveys = {
        part: _surveyed(dataset, part, config, has_classes=has_classes, progress=progress)
        for part, dataset in splits.datasets.items()
    }
    inputs, targets = _first_minibatches(splits, surveys, config)
    classes = _classes(splits, surveys, targets, has_classes=has_classes)
    for part, survey in surveys.items():
        if survey.labels is not None:
            check_labels(survey.labels, part, classes, config.source)
    train, validation, note = _train_and_validation(surveys, classes, config, seed)
    notes = [*(survey.note for survey in surveys.values()), note]
    return DatasetData(
        name=config.source,
        config=config,
        selections={
            "train": train,
            "validation": validation,
            "test": surveys["test"].selection(),
        },
        classes=classes,
        example=Sample(inputs, classes, targets),
        notes=tuple(filter(None, notes)),
    )


def _name_of(part: Part, source: str) -> str:
    return f"the {part} part of {source}"


def _surveyed(
    dataset: Any,
    part: Part,
    config: DataConfig,
    *,
    has_classes: bool,
    progress: Progress | None,
) -> _Survey:
    name = _name_of(part, config.source)
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


def _by_number(dataset: Any, part: Part, name: str, has_classes: bool) -> _Survey:
    """Without reading more than a few samples."""
    with failing_in_one_line(f"the length of {name}"):
        count = len(dataset)
    if count == 0:
        return _Survey(part, 0, None, is_stream=False)
    with failing_in_one_line(f"sample 0 of {name}"):
        first = dataset[0]
    labels = None
    if has_classes and class_number(target_of(first)) is not None:
        labels = known_labels(dataset)
        # what is known may be of before a transform, or of something else
        places = (0, count // 2, count - 1)
        if labels is not None and any(
            class_number(target_of(dataset[place])) != int(labels[place]) for place in places
        ):
            labels = None
    return _Survey(part, count, first, is_stream=False, labels=labels)


def _stream(dataset: Any, part: Part, name: str, has_classes: bool) -> _Survey:
    """Read once, unless it knows its length and nothing has to be known of its targets."""
    items = streamed(dataset, 0, name)
    first = next(items, None)
    if first is None:
        return _Survey(part, 0, None, is_stream=True)
    numbered = has_classes and class_number(target_of(first)) is not None
    if hasattr(dataset, "__len__") and not numbered:
        return _Survey(part, len(dataset), first, is_stream=True)
    numbers, count = [], 0
    for count, item in enumerate(itertools.chain([first], items), start=1):
        if numbered:
            numbers.append(_label(item, count - 1, name))
    labels = torch.tensor(numbers) if numbered else None
    note = f"{name} was read once, to count its {count:,} samples"
    return _Survey(part, count, first, is_stream=True, labels=labels, note=note)


def _label(item: Any, number: int, name: str) -> int:
    label = class_number(target_of(item))
    if label is None:
        raise DataError(
            f"sample {number} of {name} must have the number of a class as its target, as sample "
            f"0 has, got {in_words(target_of(item))}"
        )
    return label


def _read_labels(
    dataset: Any, survey: _Survey, name: str, workers: int | None, progress: Progress | None
) -> Tensor:
    """The class of every sample; `progress` is told how many are read, of how many."""
    loader = DatasetLoader(
        survey.selection().reader(dataset, name),
        survey.count,
        collate=_targets_alone,
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


def _first_minibatches(
    splits: DataSplits, surveys: Mapping[Part, _Survey], config: DataConfig
) -> tuple[Any, Any]:
    """A minibatch of the first sample of `train`; DataError if that of any part cannot be one."""
    minibatches = {}
    for part, survey in surveys.items():
        name = _name_of(part, config.source)
        if splits.collate_fn is None:
            _require_tensors_to_be(survey.first, f"sample 0 of {name}")
        with seeded(0):
            minibatch = PairCollate(name, splits.collate_fn)([survey.first])
        minibatches[part] = in_float32(minibatch)
        if next(tensors_in(minibatches[part][0]), None) is None:
            raise DataError(
                f"inputs of {name} must be a tensor, a tuple or a mapping of them, got "
                f"{in_words(minibatch[0])}"
            )
    inputs, targets = minibatches["train"]
    return inputs, targets


def _require_tensors_to_be(item: Any, what: str) -> None:
    """DataError for images that are no tensors yet."""
    for value in _leaves(item):
        is_picture = isinstance(value, Image.Image)
        is_array = isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim > 1
        if is_picture or is_array:
            kind = "PIL image" if is_picture else "numpy array of bytes"
            raise DataError(
                f"{what} holds a {kind}, which no network reads: give the Dataset a transform, "
                "such as torchvision.transforms.ToTensor()"
            )


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, tuple | list):
        for part in value:
            yield from _leaves(part)
    else:
        yield value


def _classes(
    splits: DataSplits, surveys: Mapping[Part, _Survey], targets: Any, *, has_classes: bool
) -> tuple[str, ...]:
    """The names that are given; or, where targets are classes, numbers."""
    given = tuple(map(str, splits.classes)) or class_names(splits.train)
    if given or not has_classes:
        return given
    labels = [survey.labels for survey in surveys.values() if survey.labels is not None]
    if labels:
        return tuple(map(str, range(max(int(part.max()) for part in labels) + 1)))
    if isinstance(targets, Tensor) and targets.ndim == 2 and targets.eq(targets.bool()).all():
        return tuple(map(str, range(targets.shape[1])))
    return ()


def _train_and_validation(
    surveys: Mapping[Part, _Survey], classes: Sequence[str], config: DataConfig, seed: int
) -> tuple[Selection, Selection, str]:
    """The samples of both parts, and what people should know of the split; maybe empty."""
    train, own = surveys["train"], surveys.get("validation")
    if train.is_stream:
        return _parted_stream(train, own, config)
    used, held_out = used_and_held_out(
        train.labels,
        train.count,
        config,
        torch.Generator().manual_seed(seed),
        has_validation=own is not None,
    )
    if len(used) == 0:
        raise DataError(
            f"{_name_of('train', config.source)} has {train.count} samples: too few to hold some "
            "out for validation"
        )
    if train.labels is not None:
        require_every_class(train.labels[used], classes, len(held_out), "sample")
    validation = train.selection(held_out) if own is None else own.selection()
    return train.selection(used), validation, ""


def _parted_stream(
    train: _Survey, own: _Survey | None, config: DataConfig
) -> tuple[Selection, Selection, str]:
    total = min(train.count, config.limit_train or train.count)
    if own is not None:
        require_no_fraction(config)
        return Streamed("train", total), own.selection(), ""
    every = max(2, round(1 / config.validation_fraction))
    parts = [Streamed("train", total, every, is_held_out) for is_held_out in (False, True)]
    if min(map(len, parts)) == 0:
        raise DataError(
            f"{_name_of('train', config.source)} has {total} samples: too few to hold out every "
            f"{every}th for validation"
        )
    note = (
        f"every {every}th sample of {_name_of('train', config.source)} is held out for validation, "
        "so that it has to come in the same order in every epoch: random generators are set alike "
        "for each; a validation part of its own would leave it free"
    )
    return parts[0], parts[1], note
