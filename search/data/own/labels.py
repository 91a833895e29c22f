"""The classes of people's Datasets: their names, and the number of each sample's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from pruning.errors import DataError
from search.data.data import Part


def class_number(target: Any) -> int | None:
    """The number of a class, where a target is a single whole number; None otherwise."""
    if isinstance(target, Tensor | np.ndarray | np.generic):
        is_whole = torch.as_tensor(target).dtype in (torch.int64, torch.int32, torch.int16)
        return int(target) if is_whole and not target.shape else None
    return target if isinstance(target, int) and not isinstance(target, bool) else None


def target_of(item: Any) -> Any:
    """The target of an item; None if that is no pair."""
    return item[1] if isinstance(item, tuple | list) and len(item) == 2 else None


def known_labels(dataset: Any) -> Tensor | None:
    """The class of every sample, int64 (n,), where the Dataset knows it without reading them.

    That is its attribute `targets` or `labels`, as torchvision's have; those of what a Subset,
    ConcatDataset or TensorDataset is made of. None if there is none, or it is something else.
    """
    if isinstance(dataset, Subset):
        whole = known_labels(dataset.dataset)
        return None if whole is None else whole[torch.as_tensor(list(dataset.indices))]
    if isinstance(dataset, ConcatDataset):
        parts = [known_labels(part) for part in dataset.datasets]
        known = [part for part in parts if part is not None]
        return torch.cat(known) if len(known) == len(parts) else None
    if isinstance(dataset, TensorDataset):
        return _numbers(dataset.tensors[-1], len(dataset))
    if getattr(dataset, "target_transform", None) is not None:
        return None
    return _numbers(getattr(dataset, "targets", getattr(dataset, "labels", None)), len(dataset))


def _numbers(values: Any, count: int) -> Tensor | None:
    try:
        numbers = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError):  # texts, nothing, lists of several lengths
        return None
    is_whole = not (numbers.is_floating_point() or numbers.is_complex())
    is_whole = is_whole and numbers.dtype != torch.bool
    return numbers.long() if is_whole and numbers.shape == (count,) else None


def class_names(dataset: Any) -> tuple[str, ...]:
    """The attribute `classes` of a Dataset, or of what it is a part of; empty if it has none."""
    for candidate in _inside(dataset):
        names = getattr(candidate, "classes", ())
        if isinstance(names, list | tuple) and names:
            return tuple(map(str, names))
    return ()


def _inside(dataset: Any) -> Iterator[Any]:
    yield dataset
    if isinstance(dataset, Subset):
        yield from _inside(dataset.dataset)
    elif isinstance(dataset, ConcatDataset):
        yield from _inside(dataset.datasets[0])


def check_labels(labels: Tensor, part: Part, classes: Sequence[str], name: str) -> None:
    """Raise DataError for a label that is not the number of a class."""
    wrong = ((labels < 0) | (labels >= len(classes))).nonzero()
    if len(wrong):
        number = int(wrong[0])
        there_are = (
            f"there are {len(classes)} classes, numbered from 0 to {len(classes) - 1}"
            if classes
            else "classes are numbered from 0"
        )
        raise DataError(
            f"sample {number} of the {part} part of {name} has the label {int(labels[number])}, "
            f"but {there_are}"
        )
