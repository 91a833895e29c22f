"""Images to learn from: read once, kept as bytes, split without looking at the test images.

`load` opens a data set, takes `limit_train` of its training images, holds out a validation
part of those, measures the channels of the rest, and only then decodes what is left to decode.
Images are uint8 tensors (N, C, H, W) as long as they are stored; `search.data.image_loader`
normalises and augments whole batches on the device.
"""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from pruning.errors import DataError
from search.config.data_config import DataConfig
from search.data.data import Data, Part, Sample
from search.data.image_loader import ImageLoader
from search.data.image_sources import ImageFiles, ImageSource, ImageSplit, reading_processes
from search.data.named_datasets import open_dataset
from search.data.opened_dataset import Augmentation
from search.data.reading_processes import ReadingProcesses
from search.data.stratified import class_numbers, parted, random_sample
from search.system.machine import usable_memory

Progress = Callable[[int, int], None]

_READ_AT_ONCE_BYTES = 4 << 20
_RESIZED_AT_ONCE = 64
_SAMPLED_FOR_STATISTICS = 10_000


@dataclass(frozen=True, eq=False)
class ImageData(Data):
    """Images and their classes.

    `mean` and `std` are per channel, on a scale where 255 is 1, and come from `train` alone.
    notes: what of its files is not in it.
    """

    name: str
    train: ImageSource
    validation: ImageSource
    test: ImageSource
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: Augmentation
    notes: tuple[str, ...] = ()
    memory_format: ClassVar[torch.memory_format] = torch.channels_last

    def part(self, name: Part) -> ImageSource:
        """The images of one part."""
        part: ImageSource = getattr(self, name)
        return part

    def count(self, part: Part) -> int:
        return len(self.part(part))

    @property
    def sample(self) -> Sample:
        return Sample(torch.zeros(1, *self.train.image_shape), self.classes, self.train.labels[:1])

    @property
    def num_bytes(self) -> int:
        return sum(part.num_bytes for part in (self.train, self.validation, self.test))

    @property
    def record(self) -> Mapping[str, Any]:
        """Mean and deviation that images are to be normalised by."""
        return {"mean": list(self.mean), "std": list(self.std)}

    def loader(
        self, part: Part, *, device: torch.device, batch_size: int | None = None
    ) -> ImageLoader:
        return ImageLoader(
            self.part(part),
            mean=self.mean,
            std=self.std,
            augmentation=self.augmentation,
            batch_size=batch_size or self.evaluation_batch,
            device=device,
        )

    def few(self, count: int) -> ImageData:
        return replace(
            self,
            train=_first(self.train, count),
            validation=_first(self.validation, count),
            test=_first(self.test, count),
        )

    def sent(self) -> ImageData:
        return replace(
            self, train=self.train.sent(), validation=self.validation.sent(), test=self.test.sent()
        )


def _first(source: ImageSource, count: int) -> ImageSource:
    return source.take(torch.arange(min(count, len(source))))


def load(
    config: DataConfig,
    *,
    channels: int | None = None,
    seed: int,
    memory_limit_bytes: int | None = None,
    progress: Progress | None = None,
) -> ImageData:
    """Open the data set that `config` names and split it, stratified by class.

    `seed` decides which training images are used (`limit_train`) and which of those are held
    out for validation; the test images never depend on it. With `channels=3` grey images are
    repeated. Files of an image folder are decoded into memory, calling `progress(done, total)`,
    unless all of them together would exceed `memory_limit_bytes` (a quarter of the usable memory
    by default); then they are read from disk whenever they are needed, but each of them once
    before, unless that was done with the same files on this machine.

    Raises DataError for an unknown name, absent or inconsistent files, channels that cannot
    be had, and splits that leave a class without training images.
    """
    opened = open_dataset(config)
    generator = torch.Generator().manual_seed(seed)
    processes = reading_processes()
    parts = [
        _with_channels(_as_configured(part, config, processes), channels, config.source)
        for part in parted(opened, config, generator)
    ]
    limit = _quarter_of_memory() if memory_limit_bytes is None else memory_limit_bytes
    train, validation, test = _in_memory(parts, limit, progress)
    mean, std = _channel_statistics(train, generator)
    processes.close()  # those who train have their own
    native = opened.train.image_shape[1]
    padding = opened.augmentation.crop_padding * train.image_shape[1] // native
    return ImageData(
        name=config.source,
        train=train,
        validation=validation,
        test=test,
        classes=opened.classes,
        mean=mean,
        std=std,
        augmentation=Augmentation(
            padding, flip=opened.augmentation.flip if config.flip is None else config.flip
        ),
        notes=opened.notes,
    )


def _with_channels(source: ImageSource, channels: int | None, name: str) -> ImageSource:
    have = source.image_shape[0]
    if channels is None or channels == have:
        return source
    if have == 1 and isinstance(source, ImageSplit):
        return ImageSplit(source.images.expand(-1, channels, -1, -1), source.labels)
    raise DataError(f"images of {name} have {have} channels, the network reads {channels}")


def _as_configured(
    source: ImageSource, config: DataConfig, processes: ReadingProcesses
) -> ImageSource:
    """Images in memory scaled to a square of `image_size`; files are resized when decoded."""
    if isinstance(source, ImageFiles):
        return replace(source, workers=config.workers, processes=processes)
    if config.image_size is None or not isinstance(source, ImageSplit):
        return source
    size = (config.image_size, config.image_size)
    chunks = [
        F.interpolate(chunk.float(), size, mode="bilinear", antialias=True)
        for chunk in torch.split(source.images, _RESIZED_AT_ONCE)
    ]
    images = torch.cat([chunk.round().clamp(0, 255).to(torch.uint8) for chunk in chunks])
    return ImageSplit(images, source.labels)


def _in_memory(
    parts: list[ImageSource], limit_bytes: int, progress: Progress | None
) -> list[ImageSource]:
    """The parts decoded, or left in their files if together they need more than the limit."""
    files = [part for part in parts if isinstance(part, ImageFiles)]
    total = sum(map(len, files))
    done = 0

    def read(files: ImageFiles) -> Iterator[Tensor]:
        nonlocal done
        for batch in files.read(torch.arange(len(files)), _at_once(files)):
            done += len(batch)
            if progress is not None:
                progress(done, total)
            yield batch

    def decoded(files: ImageFiles) -> ImageSplit:
        images = torch.empty((len(files), *files.image_shape), dtype=torch.uint8)
        start = 0
        for batch in read(files):
            images[start : start + len(batch)] = batch
            start += len(batch)
        return ImageSplit(images, files.labels)

    if total * math.prod(parts[0].image_shape) > limit_bytes:
        if not (mark := _mark_of(files)).exists():
            for part in files:
                deque(read(part), maxlen=0)
            with suppress(OSError):  # then they are read again the next time
                mark.touch()
        return parts
    return [decoded(part) if isinstance(part, ImageFiles) else part for part in parts]


def _mark_of(parts: Sequence[ImageFiles]) -> Path:
    """A temporary file that is there once all of these files have been read, as they are now."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{part.size} {part.image_size}\n".encode())
        for path in part.paths:
            status = os.stat(path)
            line = f"{os.path.abspath(path)}\0{status.st_size}\0{status.st_mtime_ns}\n"
            digest.update(os.fsencode(line))
    return Path(tempfile.gettempdir()) / f"espalier-images-{digest.hexdigest()[:32]}"


def _at_once(source: ImageSource) -> int:
    """Images to read in one batch: few enough to pass between processes in little memory."""
    return min(512, max(1, _READ_AT_ONCE_BYTES // math.prod(source.image_shape)))


def _channel_statistics(
    train: ImageSource, generator: torch.Generator
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each channel over all pixels, of a sample if images are on disk.

    Exact, since it counts how often each of the 256 values occurs. A constant channel gets the
    deviation of one grey level instead of zero.
    """
    order = torch.arange(len(train))
    if isinstance(train, ImageFiles) and len(train) > _SAMPLED_FOR_STATISTICS:
        order = random_sample(class_numbers(train), len(train), _SAMPLED_FOR_STATISTICS, generator)
    counts = torch.zeros(train.image_shape[0], 256, dtype=torch.float64)
    for batch in train.read(order, _at_once(train)):
        for channel, values in enumerate(batch.transpose(0, 1)):
            counts[channel] += torch.bincount(values.flatten(), minlength=256)
    shares = counts / counts.sum(1, keepdim=True)
    levels = torch.arange(256, dtype=torch.float64) / 255
    mean = shares @ levels
    variance = (shares * (levels - mean[:, None]) ** 2).sum(1)
    std = variance.sqrt().clamp(min=1 / 255)
    return tuple(mean.tolist()), tuple(std.tolist())


def _quarter_of_memory() -> int:
    return usable_memory() // 4
