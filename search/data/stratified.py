"""Random parts of samples that keep the shares of the classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pruning.errors import ConfigError, DataError
from search.config.data_config import DataConfig
from search.data.image_sources import ImageSource
from search.data.opened_dataset import OpenedDataset

TEST_FRACTION = 0.2
"""Of the samples, for the test part of data that have none; always the same ones."""


def stratified_sample(labels: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Indices, int64 (count,) ascending, of a random sample that keeps the classes' shares.

    A class with n of the N labels gets count·n/N images, rounded down or up so that the
    total is `count` (largest remainders first). `count` is at most len(labels).
    """
    assert 0 <= count <= len(labels)
    sizes = torch.bincount(labels)
    exact = sizes * count
    quotas = exact // len(labels)
    remainders = exact - quotas * len(labels)
    short = count - int(quotas.sum())
    quotas[remainders.argsort(descending=True, stable=True)[:short]] += 1
    shuffled = torch.randperm(len(labels), generator=generator)
    chosen = [
        shuffled[labels[shuffled] == label][:quota] for label, quota in enumerate(quotas.tolist())
    ]
    return torch.cat(chosen).sort().values


def without_test(labels: Tensor | None, total: int) -> tuple[Tensor, Tensor]:
    """Indices of samples to train with and to test with, for data without a test part."""
    count = max(1, round(TEST_FRACTION * total))
    test = random_sample(labels, total, count, torch.Generator().manual_seed(0))
    return _others(total, test), test


def used_and_held_out(
    labels: Tensor | None,
    total: int,
    config: DataConfig,
    generator: torch.Generator,
    *,
    has_validation: bool = False,
) -> tuple[Tensor, Tensor]:
    """Indices of samples to learn from and to choose by: none if a validation part is there.

    labels: class numbers, whose shares are kept; None for a sample of all alike.
    """
    used = torch.arange(total)
    if config.limit_train is not None and config.limit_train < total:
        used = random_sample(labels, total, config.limit_train, generator)
    if has_validation:
        require_no_fraction(config)
        return used, used[:0]
    count = max(1, round(config.validation_fraction * len(used)))
    chosen = random_sample(None if labels is None else labels[used], len(used), count, generator)
    return used[_others(len(used), chosen)], used[chosen]


def require_no_fraction(config: DataConfig) -> None:
    """ConfigError for a share to hold out of data that have a validation part of their own."""
    if config.validation_fraction != DataConfig.validation_fraction:
        raise ConfigError(
            f"validation_fraction has no effect on {config.source}, which has a validation part "
            f"of its own, got {config.validation_fraction}: leave it out",
            field="data.validation_fraction",
        )


def require_every_class(
    labels: Tensor, classes: Sequence[str], num_held_out: int, what: str = "image"
) -> None:
    """DataError for a class without a sample in the training part, whose labels these are."""
    counts = torch.bincount(labels, minlength=len(classes)).tolist()
    for name, count in zip(classes, counts, strict=True):
        if count == 0:
            raise DataError(
                f"class {name!r} has no training {what} left among {len(labels) + num_held_out} "
                f"with {num_held_out} held out; use more {what}s or a smaller validation fraction"
            )


def parted(
    opened: OpenedDataset, config: DataConfig, generator: torch.Generator
) -> tuple[ImageSource, ImageSource, ImageSource]:
    """Images to learn from, to choose by and to test with; parts that are missing are held out."""
    images, test = opened.train, opened.test
    if test is None:
        rest, chosen = without_test(class_numbers(images), len(images))
        images, test = images.take(rest), images.take(chosen)
    learned, held_out = used_and_held_out(
        class_numbers(images),
        len(images),
        config,
        generator,
        has_validation=opened.validation is not None,
    )
    train = images.take(learned)
    if (labels := class_numbers(train)) is not None:
        require_every_class(labels, opened.classes, len(held_out))
    return train, opened.validation or images.take(held_out), test


def class_numbers(images: ImageSource) -> Tensor | None:
    """The labels, if each is the number of a class."""
    labels = images.labels
    return labels if labels.ndim == 1 and not labels.is_floating_point() else None


def random_sample(
    labels: Tensor | None, total: int, count: int, generator: torch.Generator
) -> Tensor:
    """Indices, ascending, of a random sample of so many."""
    if labels is not None:
        return stratified_sample(labels, count, generator)
    return torch.randperm(total, generator=generator)[:count].sort().values


def _others(total: int, chosen: Tensor) -> Tensor:
    rest = torch.ones(total, dtype=torch.bool)
    rest[chosen] = False
    return rest.nonzero().squeeze(1)
