"""Images of one part of a data set: in memory as bytes, or on disk as files."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Self, final

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pruning.errors import DataError
from search.data.reading_processes import num_reading_processes

_WORKERS_PAY_ABOVE = 4096  # images; starting worker processes takes as long as a few thousand


class ImageSource(ABC):
    """Labelled images of one size.

    Images are uint8 (C, H, W) each; `labels` is int64 (N,), or float32 (N, k) of several numbers.
    """

    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    @abstractmethod
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""

    @property
    @abstractmethod
    def num_bytes(self) -> int:
        """What the object takes in memory."""

    @abstractmethod
    def take(self, indices: Tensor) -> ImageSource:
        """These images only, int64 (n,), in this order."""

    def sent(self) -> Self:
        """The same for processes that may have another current folder."""
        return self

    @abstractmethod
    def to(self, device: torch.device) -> ImageSource:
        """The same images and labels, delivered on `device`."""

    @abstractmethod
    def read(self, order: Tensor, batch_size: int) -> Iterator[Tensor]:
        """The images at `order`, int64 (n,) on the CPU, in batches (≤ batch_size, C, H, W)."""


@final
@dataclass(frozen=True, eq=False)
class ImageSplit(ImageSource):
    """Images held in memory: `images` uint8 (N, C, H, W), and their `labels`."""

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        assert self.images.dtype == torch.uint8
        assert self.images.ndim == 4
        assert len(self.images) == len(self.labels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        _, channels, height, width = self.images.shape
        return channels, height, width

    @property
    def num_bytes(self) -> int:
        return self.images.nbytes + self.labels.nbytes

    def take(self, indices: Tensor) -> ImageSplit:
        return ImageSplit(self.images[indices], self.labels[indices])

    def to(self, device: torch.device) -> ImageSplit:
        return ImageSplit(self.images.to(device), self.labels.to(device))

    def read(self, order: Tensor, batch_size: int) -> Iterator[Tensor]:
        for indices in torch.split(order.to(self.images.device), batch_size):
            yield self.images[indices]


@final
@dataclass(frozen=True, eq=False)
class ImageFiles(ImageSource):
    """Images left in their files and decoded, as RGB, each time they are read.

    With `image_size` the largest central square of each image is scaled to that many pixels a
    side; without it, every file must have the `size` (height, width) of `reference`.
    """

    paths: tuple[str, ...]
    labels: Tensor
    size: tuple[int, int]
    reference: str
    image_size: int | None = None
    workers: int | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return (3, *self.size)

    @property
    def num_bytes(self) -> int:
        return sum(map(len, self.paths)) + self.labels.nbytes

    def take(self, indices: Tensor) -> ImageFiles:
        chosen = tuple(self.paths[index] for index in indices.tolist())
        return replace(self, paths=chosen, labels=self.labels[indices])

    def sent(self) -> ImageFiles:
        return replace(self, paths=tuple(map(os.path.abspath, self.paths)))

    def to(self, device: torch.device) -> ImageFiles:
        return replace(self, labels=self.labels.to(device), device=device)

    def read(self, order: Tensor, batch_size: int) -> Iterator[Tensor]:
        """As `ImageSource.read`; worker processes decode ahead when there is much to read.

        Raises DataError, with the path, for a file that is unreadable or of another size.
        """
        loader = DataLoader(
            _Decoder(self),
            batch_sampler=[chunk.tolist() for chunk in torch.split(order, batch_size)],
            num_workers=num_reading_processes(
                self.workers, len(order), pays_above=_WORKERS_PAY_ABOVE
            ),
            collate_fn=_unchanged,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # or it would draw from torch's global one
        )
        for batch in loader:
            if isinstance(batch, DataError):
                raise batch
            yield batch.to(self.device, non_blocking=True)

    def decode(self, index: int) -> Tensor:
        """One image, uint8 (3, H, W)."""
        path = self.paths[index]
        with opened_image(path) as image:
            if self.image_size is None:
                turn_upright(image)
                pixels = _in_colour(path, image)
                self._require_size(path, pixels)
            else:
                square = (self.image_size, self.image_size)
                image.draft("RGB", square)  # lets a JPEG be decoded at a fraction of its size
                turn_upright(image)
                whole = _in_colour(path, image)
                pixels = ImageOps.fit(whole, square, Image.Resampling.BILINEAR)
            data = torch.frombuffer(bytearray(pixels.tobytes()), dtype=torch.uint8)
        return data.view(*self.size, 3).permute(2, 0, 1)

    def _require_size(self, path: str, image: Image.Image) -> None:
        width, height = image.size
        if (height, width) != self.size:
            raise DataError(
                f"images must be of one size, but {self.reference} is "
                f"{self.size[1]}×{self.size[0]} and {path} is {width}×{height}; "
                "give --image-size PIXELS to resize them all"
            )


def turn_upright(image: Image.Image) -> None:
    """Turn the image as its camera says (EXIF), and as every viewer shows it."""
    ImageOps.exif_transpose(image, in_place=True)


def _in_colour(path: str, image: Image.Image) -> Image.Image:
    """As RGB with 8 bits; 16 bits are scaled down, and numbers of unknown range refused."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        levels = torch.from_numpy(np.asarray(image).astype(np.int32))
        image = Image.fromarray(
            (levels * 255 + 32767).div(65535, rounding_mode="floor").byte().numpy()
        )
    elif image.mode in ("I", "F"):
        what = "whole numbers of 32 bits" if image.mode == "I" else "floating point numbers"
        raise DataError(
            f"image {path} is made of {what}, and which of them is white is not known: "
            "convert it to 8 or 16 bits"
        )
    return image if image.mode == "RGB" else image.convert("RGB")


class _Decoder(Dataset[Tensor]):
    """What a DataLoader runs in its workers; errors travel as values, to keep their message."""

    def __init__(self, files: ImageFiles) -> None:
        self.files = files

    def __getitems__(self, indices: list[int]) -> Tensor | DataError:
        try:
            return torch.stack([self.files.decode(index) for index in indices])
        except DataError as error:
            return error


def _unchanged(batch: Any) -> Any:
    return batch


@contextmanager
def opened_image(path: str) -> Iterator[Image.Image]:
    """The image at `path`, closed after the block; DataError with the path if unreadable."""
    try:
        with Image.open(path) as image:
            yield image
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever a broken file provokes
        raise DataError(f"cannot read image {path}: {error}") from error
