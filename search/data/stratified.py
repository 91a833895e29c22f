"""Random parts of labelled images that keep the shares of the classes."""

from __future__ import annotations

import torch
from torch import Tensor

from pruning.errors import DataError
from search.config.data_config import DataConfig
from search.data.image_sources import ImageSource
from search.data.opened_dataset import OpenedDataset


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


def train_and_validation(
    opened: OpenedDataset, config: DataConfig, generator: torch.Generator
) -> tuple[ImageSource, ImageSource]:
    """The training images used, parted into those to learn from and those to choose by."""
    images = opened.train
    if config.limit_train is not None and config.limit_train < len(images):
        images = images.take(stratified_sample(images.labels, config.limit_train, generator))
    held_out = max(1, round(config.validation_fraction * len(images)))
    chosen = stratified_sample(images.labels, held_out, generator)
    rest = torch.ones(len(images), dtype=torch.bool)
    rest[chosen] = False
    train = images.take(rest.nonzero().squeeze(1))
    counts = torch.bincount(train.labels, minlength=len(opened.classes)).tolist()
    for name, count in zip(opened.classes, counts, strict=True):
        if count == 0:
            raise DataError(
                f"class {name!r} has no training image left among {len(images)} with "
                f"{held_out} held out; use more images or a smaller validation fraction"
            )
    return train, images.take(chosen)
