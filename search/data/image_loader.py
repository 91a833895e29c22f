"""Minibatches of normalised images, varied at random for training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from pruning.errors import DataError
from search.data.data import Loader, samples_trained_on
from search.data.image_sources import ImageSource, ImageSplit
from search.data.opened_dataset import Augmentation
from search.system.device_memory import free_device_memory

_VARIED_AT_ONCE_BYTES = 32 << 20
"""Of images as floats."""

_AS_THEY_ARE = Augmentation(crop_padding=0, flip=False)


@final
class ImageLoader(Loader):
    """Normalised minibatches of one part of a data set, prepared on `device`.

    Images in memory are moved to the device once, as bytes. Batches are pairs of images,
    float32 (n, C, H, W) in channels-last order with mean 0 and deviation 1 per channel, and
    labels, int64 (n,). Raises DataError where not even one minibatch fits the device.
    """

    def __init__(
        self,
        source: ImageSource,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        augmentation: Augmentation,
        batch_size: int,
        device: torch.device,
    ) -> None:
        _require_room(source, batch_size, device)
        self._source = source.to(device)
        self._batch_size, self._augmentation = batch_size, augmentation
        deviations = torch.tensor(std, dtype=torch.float32, device=device).view(-1, 1, 1)
        means = torch.tensor(mean, dtype=torch.float32, device=device).view(-1, 1, 1)
        self._factor = 1 / (255 * deviations)
        self._offset = -means / deviations

    def in_order(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, chunk in self._read(torch.arange(len(self._source)), self._batch_size):
            yield self._normalised(images), self._source.labels[chunk]

    def shuffled(
        self, generator: torch.Generator, *, augmented: bool = True
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """As `Loader.shuffled`; every image is cropped, mirrored and transformed at random.

        Around the image are black pixels (zeros before normalisation), as in the papers.
        """
        augmentation = self._augmentation if augmented else _AS_THEY_ARE
        count = len(self._source)
        padding = augmentation.crop_padding
        order = torch.randperm(count, generator=generator)
        rows, columns = torch.randint(2 * padding + 1, (2, count), generator=generator)
        flips = torch.rand(count, generator=generator) < (0.5 if augmentation.flip else 0.0)
        shifts = torch.stack([rows, columns, flips.long()]).to(self._factor.device)
        start, batch_size = 0, self._batch_size
        at_once = batch_size * self._batches_at_once(augmentation)
        for images, chunk in self._read(order[: samples_trained_on(count, batch_size)], at_once):
            rows, columns, flips = shifts[:, start : start + len(images)]
            start += len(images)
            varied = crop_and_flip(images, rows, columns, flips.bool(), padding)
            if augmentation.transform is not None:
                varied = _transformed(varied, augmentation.transform, generator)
            parts = (self._normalised(varied), self._source.labels[chunk])
            yield from zip(*(torch.split(part, batch_size) for part in parts), strict=True)

    def _batches_at_once(self, augmentation: Augmentation) -> int:
        """Minibatches that are varied together: on a GPU several, in as many kernels as one.

        On a CPU what one minibatch takes stays in its caches; files are decoded one ahead, and
        transforms draw their random numbers for one.
        """
        device = self._factor.device
        in_memory = isinstance(self._source, ImageSplit) and augmentation.transform is None
        if device.type == "cpu" or not in_memory:
            return 1
        floats = 4 * math.prod(self._source.image_shape) * self._batch_size
        return max(1, _VARIED_AT_ONCE_BYTES // floats)

    def _read(self, order: Tensor, at_once: int) -> Iterator[tuple[Tensor, Tensor]]:
        batches = self._source.read(order, at_once)
        chunks = torch.split(order.to(self._factor.device), at_once)
        return zip(batches, chunks, strict=True)

    def _normalised(self, images: Tensor) -> Tensor:
        floats = images.to(torch.float32, memory_format=torch.channels_last)
        return floats.mul_(self._factor).add_(self._offset)


def _require_room(source: ImageSource, batch_size: int, device: torch.device) -> None:
    count, room = min(batch_size, len(source)), free_device_memory(device)
    needed = 4 * count * math.prod(source.image_shape)
    if needed > room:
        size = "×".join(map(str, source.image_shape))
        raise DataError(
            f"a minibatch of {count} images of {size} takes {needed / 1e9:.1f} GB, but "
            f"{room / 1e9:.1f} GB of {device} are free: lower --batch-size or --image-size"
        )


def _transformed(
    images: Tensor, transform: Callable[[Tensor], Tensor], generator: torch.Generator
) -> Tensor:
    """The images after `transform`, for which torch's global generator is seeded meanwhile."""
    seed = int(torch.randint(2**62, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return transform(images)


def crop_and_flip(
    images: Tensor, rows: Tensor, columns: Tensor, flips: Tensor, padding: int
) -> Tensor:
    """A window of each image after padding it with zeros, mirrored where `flips` is true.

    `images` is (n, C, H, W) of any type; window i starts at row rows[i] and column columns[i]
    of the padded image, int64 (n,) from 0 to 2·padding; `flips` is bool (n,). Returns
    (n, C, H, W).
    """
    count, channels, height, width = images.shape
    padded = F.pad(images, (padding,) * 4)
    down = torch.arange(height, device=images.device) + rows[:, None]
    across = torch.arange(width, device=images.device).expand(count, width)
    across = torch.where(flips[:, None], width - 1 - across, across) + columns[:, None]
    places = down[:, :, None] * padded.shape[3] + across[:, None, :]
    places = places.view(count, 1, height * width).expand(count, channels, -1)
    return padded.flatten(2).gather(2, places).view(images.shape)
