"""Data of people's own: Datasets that a callable returns, split where a part is missing.

What is sent to other processes are the settings and which samples make up each part; there the
callable is called again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, final

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from pruning.errors import DataError
from pruning.networks.nested_tensors import tensors_in
from search.config.data_config import DataConfig
from search.data.data import Data, Part, Sample
from search.data.own.data_splits import DataSplits, splits_of
from search.data.own.labels import (
    check_labels,
    class_names,
)
from search.data.own.minibatches import (
    DatasetLoader,
    Minibatches,
    PairCollate,
    Request,
    in_float32,
    in_words,
)
from search.data.own.parts import (
    Selection,
    Streamed,
)
from search.data.own.seeded_generators import seeded
from search.data.own.survey import Progress, Survey, part_name, surveyed
from search.data.reading_processes import ReadingProcesses
from search.data.stratified import require_every_class, require_no_fraction, used_and_held_out


class _Parts(Dataset[Any]):
    """The minibatches of every part, by part and request, as processes answer them."""

    def __init__(self, name: str, config: DataConfig, selections: Mapping[Part, Selection]) -> None:
        self._name, self._config, self._selections = name, config, selections
        self._read: dict[Part, Minibatches] = {}

    def of(self, part: Part) -> Minibatches:
        """Those of a part, read from the beginning; DataError if it is another one now."""
        splits, selection = splits_of(self._config), self._selections[part]
        dataset = splits.datasets.get(selection.source)
        name = part_name(selection.source, self._name)
        if dataset is None:
            raise DataError(f"{name} is no longer there: {self._name} must always return the same")
        collate = PairCollate(name, splits.collate_fn)
        return Minibatches(selection.reader(dataset, name), collate)

    def __getitem__(self, request: tuple[Part, Request]) -> Any:
        part, of_part = request
        try:
            if part not in self._read:
                self._read[part] = self.of(part)
        except DataError as error:
            return error
        return self._read[part][of_part]


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

    @cached_property
    def _processes(self) -> ReadingProcesses:
        """Those that read ahead, which end with this object."""
        return ReadingProcesses(self._parts)

    @cached_property
    def _parts(self) -> _Parts:
        return _Parts(self.name, self.config, self.selections)

    def count(self, part: Part) -> int:
        return len(self.selections[part])

    @property
    def sample(self) -> Sample:
        return self.example

    @property
    def num_bytes(self) -> int:
        return sum(8 * len(selection) for selection in self.selections.values())

    def loader(
        self, part: Part, *, device: torch.device, batch_size: int | None = None
    ) -> DatasetLoader:
        def ahead(requests: Sequence[Request], number: int, *, pinned: bool) -> Iterator[Any]:
            asked = [(part, request) for request in requests]
            return self._processes.answers(asked, number, pinned=pinned)

        return DatasetLoader(
            self._parts.of(part),
            self.count(part),
            batch_size=batch_size or self.evaluation_batch,
            device=device,
            num_processes=self.config.workers,
            ahead=ahead,
        )

    def few(self, count: int) -> DatasetData:
        few = {part: selection.first(count) for part, selection in self.selections.items()}
        return replace(self, selections=few)

    def sent(self) -> DatasetData:
        root = os.path.abspath(self.config.root)
        return replace(self, config=replace(self.config, root=root))


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
        part: surveyed(dataset, part, config, has_classes=has_classes, progress=progress)
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


def _first_minibatches(
    splits: DataSplits, surveys: Mapping[Part, Survey], config: DataConfig
) -> tuple[Any, Any]:
    """A minibatch of the first sample of `train`; DataError if that of any part cannot be one."""
    minibatches = {}
    for part, survey in surveys.items():
        name = part_name(part, config.source)
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
    splits: DataSplits, surveys: Mapping[Part, Survey], targets: Any, *, has_classes: bool
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
    surveys: Mapping[Part, Survey], classes: Sequence[str], config: DataConfig, seed: int
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
            f"{part_name('train', config.source)} has {train.count} samples: too few to hold some "
            "out for validation"
        )
    if train.labels is not None:
        require_every_class(train.labels[used], classes, len(held_out), "sample")
    validation = train.selection(held_out) if own is None else own.selection()
    return train.selection(used), validation, ""


def _parted_stream(
    train: Survey, own: Survey | None, config: DataConfig
) -> tuple[Selection, Selection, str]:
    total = min(train.count, config.limit_train or train.count)
    if own is not None:
        require_no_fraction(config)
        return Streamed("train", total), own.selection(), ""
    every = max(2, round(1 / config.validation_fraction))
    parts = [Streamed("train", total, every, is_held_out) for is_held_out in (False, True)]
    if min(map(len, parts)) == 0:
        raise DataError(
            f"{part_name('train', config.source)} has {total} samples: too few to hold out every "
            f"{every}th for validation"
        )
    note = (
        f"every {every}th sample of {part_name('train', config.source)} is held out for "
        "validation, so that it has to come in the same order in every epoch: random generators "
        "begin each alike; a validation part of its own would leave it free"
    )
    return parts[0], parts[1], note
