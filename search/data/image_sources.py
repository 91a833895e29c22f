"""Images of one part of a data set: in memory as bytes, or on disk as files."""

from __future__ import annotations

import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Self, final

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset

from pruning.errors import DataError
from search.data.reading_processes import ReadingProcesses, num_reading_processes
from search.system.device_memory import free_device_memory

_PROCESSES_PAY_ABOVE = 256
"""Images; processes stay, so that starting them has to pay over all epochs alone."""

_SHARE_FOR_IMAGES = 0.5
"""Of the free memory of a device, which images may fill: the rest is for the network."""


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
        """The same images and labels, delivered on `device`; images in memory are copied once."""

    @abstractmethod
    def read(self, order: Tensor, batch_size: int) -> Iterator[Tensor]:
        """The images at `order`, int64 (n,) on the CPU, in batches (≤ batch_size, C, H, W)."""


@final
@dataclass(frozen=True, eq=False)
class ImageSplit(ImageSource):
    """Images held in memory: `images` uint8 (N, C, H, W), and their `labels`.

    device: where they are delivered; by default where they are. There is one copy of them on each
    device, which ends with this object; where it would not fit beside a network, batches are
    copied one by one, from pinned memory.
    """

    images: Tensor
    labels: Tensor
    device: torch.device | None = None
    _copies: dict[torch.device, ImageSplit] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        assert self.images.dtype == torch.uint8
        assert self.images.ndim == 4
        assert len(self.images) == len(self.labels)

    def __reduce__(self) -> tuple[Any, ...]:
        """By arrays, of which processes of one machine share one copy."""
        repeated = tuple(
            slice(1 if not stride else None) for stride in self.images.stride()
        )  # grey images that were made colour ones
        return _split_of_arrays, (
            self.images[repeated].numpy(),
            self.labels.numpy(),
            tuple(self.images.shape),
        )

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
        if device == (self.device or self.images.device):
            return self
        if device not in self._copies:
            fits = self.num_bytes <= _SHARE_FOR_IMAGES * free_device_memory(device)
            images = self.images.to(device) if fits else self.images
            self._copies[device] = ImageSplit(images, self.labels.to(device), device)
        return self._copies[device]

    def read(self, order: Tensor, batch_size: int) -> Iterator[Tensor]:
        for indices in torch.split(order.to(self.images.device), batch_size):
            yield _delivered(self.images[indices], self.device or self.images.device)


def _split_of_arrays(images: Any, labels: Any, shape: tuple[int, ...]) -> ImageSplit:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # nobody does
        return ImageSplit(torch.from_numpy(images).expand(shape), torch.from_numpy(labels))


def _delivered(batch: Tensor, device: torch.device) -> Tensor:
    """The batch on the device, to which it is copied while others work."""
    if device.type == "cuda" and batch.device.type == "cpu" and not batch.is_pinned():
        batch = batch.pin_memory()
    return batch.to(device, non_blocking=True)


def reading_processes() -> ReadingProcesses:
    """What decodes the files of any ImageFiles."""
    return ReadingProcesses(_Decoder())


@final
@dataclass(frozen=True, eq=False)
class ImageFiles(ImageSource):
    """Images left in their files and decoded, as RGB, each time they are read.

    With `image_size` the largest central square of each image is scaled to that many pixels a
    side; without it, every file must have the `size` (height, width) of `reference`.
    processes: that decode ahead, of which several parts may have the same.
    """

    paths: tuple[str, ...]
    labels: Tensor
    size: tuple[int, int]
    reference: str
    image_size: int | None = None
    workers: int | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    processes: ReadingProcesses = field(repr=False, default_factory=reading_processes)

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
        if device == self.device:
            return self
        return replace(self, labels=self.labels.to(device), device=device)

    def read(self, order: Tensor, batch_size: int) -> Iterator[Tensor]:
        """As `ImageSource.read`; processes decode ahead when there is much to read.

        Raises DataError, with the path, for a file that is unreadable or of another size.
        """
        chunks = torch.split(order, batch_size)
        requests = [
            _Files(
                tuple(self.paths[index] for index in chunk.tolist()),
                self.size,
                self.reference,
                self.image_size,
            )
            for chunk in chunks
        ]
        number = num_reading_processes(self.workers, len(order), pays_above=_PROCESSES_PAY_ABOVE)
        on_gpu = self.device.type == "cuda"
        number = number if len(requests) > 1 else 0
        for batch in self.processes.answers(requests, number, pinned=on_gpu):
            if isinstance(batch, DataError):
                raise batch
            yield _delivered(batch, self.device)


@dataclass(frozen=True)
class _Files:
    """Files to decode, as ImageFiles has them."""

    paths: tuple[str, ...]
    size: tuple[int, int]
    reference: str
    image_size: int | None

    def decoded(self) -> Tensor:
        """The images, uint8 (n, 3, H, W)."""
        return torch.stack([self._decode(path) for path in self.paths])

    def _decode(self, path: str) -> Tensor:
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


class _Decoder(Dataset[Any]):
    """What processes run; errors travel as values, to keep their message."""

    def __getitem__(self, files: _Files) -> Tensor | DataError:
        try:
            return files.decoded()
        except DataError as error:
            return error


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
