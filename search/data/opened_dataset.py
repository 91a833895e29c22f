"""What every kind of data set gives: images to train and to test, and how to vary them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from search.data.image_sources import ImageSource


@dataclass(frozen=True)
class Augmentation:
    """How training images are varied: padding in pixels before a random crop, and mirroring.

    transform: what is done after that to some images, uint8 (n, C, H, W), by random numbers of
        torch's global generator; None for nothing.
    """

    crop_padding: int
    flip: bool
    transform: Callable[[Tensor], Tensor] | None = None


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
