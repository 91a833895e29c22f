"""What a callable of one's own returns to learn from: the Datasets of each part."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from torch.utils.data import DataLoader

from copycat.builder import Builder, current_directory_importable
from pruning.errors import DataError, EspalierError, ModelError, reason_with_place
from search.config.data_config import DataConfig
from search.data.data import Part

_EXPECTED = (
    "(train, test), (train, validation, test), a mapping with these names, or search.DataSplits"
)


@dataclass(frozen=True, eq=False)
class DataSplits:
    """Datasets to learn from, to choose by and to measure with.

    Each is a torch.utils.data.Dataset, map-style or iterable, whose items are pairs of inputs and
    targets. Inputs are what the network is called with: a tensor, a tuple of arguments or a
    mapping of them. Random numbers in items and transforms have to come from Python's, numpy's or
    torch's global generators, which are seeded for every minibatch: so training can be repeated
    and continued.

    validation: held out of `train` where it is None.
    classes: their names; by default the attribute `classes` of `train`, as torchvision has it, or
        numbers up to the highest target.
    collate_fn: makes a minibatch, a pair of inputs and targets, of a list of items; by default
        torch's.
    """

    train: Any
    test: Any
    validation: Any = None
    classes: Sequence[str] = ()
    collate_fn: Callable[[list[Any]], Any] | None = None

    @property
    def datasets(self) -> dict[Part, Any]:
        """Those that are there, by part."""
        parts: dict[Part, Any] = {"train": self.train, "test": self.test}
        return parts if self.validation is None else {**parts, "validation": self.validation}


@functools.lru_cache(maxsize=4)
def splits_of(config: DataConfig) -> DataSplits:
    """What the callable that `config.source` names returns; it is called once in a process.

    It gets the settings `root` and `download` if its signature names them.
    Raises DataError where it cannot be imported, fails or returns anything else.
    """
    builder = Builder(config.source)
    try:
        make = builder.function()
    except ModelError as error:
        raise DataError(f"data of one's own: {error}") from error
    offered = {"root": config.root, "download": config.download}
    accepted = offered.keys() & _parameter_names(make)
    try:
        with current_directory_importable():
            returned = make(**{name: offered[name] for name in sorted(accepted)})
        return _as_splits(returned, config.source)
    except EspalierError:
        raise
    except (Exception, SystemExit) as error:  # people's own code may raise anything
        raise DataError(f"{config.source} failed: {reason_with_place(error)}") from error


def _parameter_names(make: Callable[..., object]) -> set[str]:
    try:
        return set(inspect.signature(make).parameters)
    except (TypeError, ValueError):  # some callables written in C have no signature
        return set()


def _as_splits(returned: object, source: str) -> DataSplits:
    if isinstance(returned, Mapping):
        known = [field.name for field in fields(DataSplits)]
        if unknown := [str(name) for name in returned if name not in known]:
            raise DataError(
                f"{source} returned a mapping with {', '.join(unknown)}: known are "
                f"{', '.join(known)}"
            )
        returned = DataSplits(**{"train": None, "test": None, **returned})
    elif isinstance(returned, tuple) and len(returned) in (2, 3):
        train, *validation, test = returned
        returned = DataSplits(train, test, *validation)
    if not isinstance(returned, DataSplits):
        raise DataError(f"{source} must return {_EXPECTED}, got {_words(returned)}")
    for part, dataset in returned.datasets.items():
        _require_dataset(dataset, part, source)
    _require_disjoint(returned, source)
    return returned


def _words(returned: object) -> str:
    name = type(returned).__name__
    return f"a {name} of {len(returned)}" if isinstance(returned, tuple | list) else name


def _require_dataset(dataset: object, part: Part, source: str) -> None:
    if dataset is None:
        raise DataError(f"{source} returned no {part} part: it must return {_EXPECTED}")
    if isinstance(dataset, DataLoader):
        raise DataError(
            f"{source} returned a DataLoader as its {part} part: return its Dataset, of which "
            "minibatches are made here (--batch-size, --workers; a collate_fn goes into "
            "search.DataSplits)"
        )
    is_mapping = isinstance(dataset, Mapping | str | bytes)
    has_items = hasattr(dataset, "__getitem__") or hasattr(dataset, "__iter__")
    if is_mapping or not has_items or isinstance(dataset, type):
        raise DataError(
            f"{source} must return a torch.utils.data.Dataset as its {part} part, got "
            f"{type(dataset).__name__}"
        )
    if hasattr(dataset, "__next__"):
        raise DataError(
            f"{source} returned a {type(dataset).__name__} as its {part} part, which can be read "
            "only once: return a Dataset whose __iter__ begins anew"
        )


def _require_disjoint(splits: DataSplits, source: str) -> None:
    seen: dict[int, Part] = {}
    for part, dataset in splits.datasets.items():
        if (other := seen.setdefault(id(dataset), part)) != part:
            raise DataError(
                f"{source} returned the same Dataset as its {other} and its {part} part, which "
                "must not share samples"
            )
