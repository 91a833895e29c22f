"""What every kind of data set gives: images to train and to test, and how to vary them."""

from __future__ import annotations

from dataclasses import dataclass

from search.data.image_sources import ImageSource


@dataclass(frozen=True)
class Augmentation:
    """How training images are varied: padding in pixels before a random crop, and mirroring."""

    crop_padding: int
    flip: bool


@dataclass(frozen=True)
class OpenedDataset:
    """A data set before it is split.

    test, validation: None where they have to be held out of `train`.
    notes: what people should know of it, such as what of its files is not in it.
    """

    train: ImageSource
    test: ImageSource | None
    classes: tuple[str, ...]
    augmentation: Augmentation
    notes: tuple[str, ...] = ()
    validation: ImageSource | None = None
