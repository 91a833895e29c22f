"""Images to learn from: read once, kept as bytes, split without looking at the test images.

`load` opens a data set, takes `limit_train` of its training images, holds out a validation
part of those, measures the channels of the rest, and only then decodes what is left to decode.
Images are uint8 tensors (N, C, H, W) as long as they are stored; `search.training.minibatches`
normalises and augments whole batches on the device.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import math
import os
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pruning.errors import DataError
from search.config.data_config import DataConfig
from search.data.image_sources import (
    ImageFiles,
    ImageSource,
    ImageSplit,
    opened_image,
    turn_upright,
)
from search.system.machine import usable_memory

Progress = Callable[[int, int], None]

_IMAGE_FOLDER = "imagefolder:"
_SUFFIXES = (
    *(".bmp", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff"),
    ".webp",
)
_TEST_FRACTION_OF_DIGITS = 0.2
_READ_AT_ONCE_BYTES = 4 << 20
_RESIZED_AT_ONCE = 64
_SAMPLED_FOR_STATISTICS = 10_000


@dataclass(frozen=True)
class Augmentation:
    """How training images are varied: padding in pixels before a random crop, and mirroring."""

    crop_padding: int
    flip: bool


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set ready for training; the three parts share no image.

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

    @property
    def num_bytes(self) -> int:
        """What it takes in memory, or in a message to another process."""
        return sum(part.num_bytes for part in (self.train, self.validation, self.test))

    def sent(self) -> ImageData:
        """The same for processes that may have another current folder."""
        return replace(
            self, train=self.train.sent(), validation=self.validation.sent(), test=self.test.sent()
        )


@dataclass(frozen=True)
class _Opened:
    train: ImageSource
    test: ImageSource
    classes: tuple[str, ...]
    augmentation: Augmentation
    notes: tuple[str, ...] = ()


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
    opened = _open_source(config)
    generator = torch.Generator().manual_seed(seed)
    train, validation = _split(opened, config, generator)
    parts = [
        _with_channels(_resized(part, config.image_size), channels, config.source)
        for part in (train, validation, opened.test)
    ]
    limit = _quarter_of_memory() if memory_limit_bytes is None else memory_limit_bytes
    train, validation, test = _in_memory(parts, limit, progress)
    mean, std = _channel_statistics(train, generator)
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


def _split(
    opened: _Opened, config: DataConfig, generator: torch.Generator
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


def _with_channels(source: ImageSource, channels: int | None, name: str) -> ImageSource:
    have = source.image_shape[0]
    if channels is None or channels == have:
        return source
    if have == 1 and isinstance(source, ImageSplit):
        return ImageSplit(source.images.expand(-1, channels, -1, -1), source.labels)
    raise DataError(f"images of {name} have {have} channels, the network reads {channels}")


def _resized(source: ImageSource, image_size: int | None) -> ImageSource:
    """Images in memory scaled to a square of `image_size`; files are resized when decoded."""
    if image_size is None or not isinstance(source, ImageSplit):
        return source
    chunks = [
        F.interpolate(chunk.float(), (image_size, image_size), mode="bilinear", antialias=True)
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
            found = os.stat(path)
            line = f"{os.path.abspath(path)}\0{found.st_size}\0{found.st_mtime_ns}\n"
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
        order = stratified_sample(train.labels, _SAMPLED_FOR_STATISTICS, generator)
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


_TORCHVISION = {
    "cifar10": ("CIFAR10", Augmentation(4, flip=True)),
    "cifar100": ("CIFAR100", Augmentation(4, flip=True)),
    "mnist": ("MNIST", Augmentation(2, flip=False)),
    "fashion-mnist": ("FashionMNIST", Augmentation(2, flip=False)),
}


def names() -> tuple[str, ...]:
    """Every data set that `load` knows; PATH stands for a folder."""
    return ("digits", *_TORCHVISION, "imagefolder:PATH")


def _open_source(config: DataConfig) -> _Opened:
    if config.source == "digits":
        return _digits()
    if config.source in _TORCHVISION:
        return _from_torchvision(config)
    if config.source.startswith(_IMAGE_FOLDER):
        return _image_folder(config.source.removeprefix(_IMAGE_FOLDER), config.image_size)
    close = difflib.get_close_matches(config.source, names(), n=1)
    hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(names())}"
    raise DataError(f"no data set is called {config.source!r}; {hint}")


def _digits() -> _Opened:
    """scikit-learn's 1,797 8×8 digits; their 16 grey levels are spread over 0–255."""
    bunch = importlib.import_module("sklearn.datasets").load_digits()
    images = torch.from_numpy(bunch.images).mul(255 / 16).round().to(torch.uint8)
    everything = ImageSplit(images.unsqueeze(1), torch.from_numpy(bunch.target).long())
    count = round(_TEST_FRACTION_OF_DIGITS * len(everything))
    test = stratified_sample(everything.labels, count, torch.Generator().manual_seed(0))
    rest = torch.ones(len(everything), dtype=torch.bool)
    rest[test] = False
    return _Opened(
        train=everything.take(rest.nonzero().squeeze(1)),
        test=everything.take(test),
        classes=tuple(map(str, bunch.target_names)),
        augmentation=Augmentation(1, flip=False),
    )


def _from_torchvision(config: DataConfig) -> _Opened:
    class_name, augmentation = _TORCHVISION[config.source]
    make = getattr(importlib.import_module("torchvision.datasets"), class_name)
    try:
        train, test = (
            make(config.root, train=part, download=config.download) for part in (True, False)
        )
    except (OSError, RuntimeError) as error:
        if config.download:
            raise DataError(f"cannot download {config.source}: {error}") from error
        raise DataError(
            f"{config.source} is not in the folder {config.root!r}; give --download to fetch it"
        ) from error
    return _Opened(_arrays(train), _arrays(test), tuple(train.classes), augmentation)


def _arrays(dataset: Any) -> ImageSplit:
    """torchvision's arrays, (N, H, W) or (N, H, W, C), as (N, C, H, W)."""
    images = torch.as_tensor(dataset.data)
    images = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2)
    return ImageSplit(images.contiguous(), torch.as_tensor(dataset.targets).long())


def _image_folder(folder: str, image_size: int | None) -> _Opened:
    """FOLDER/{train,test}/CLASS/…: files of each class at any depth below its folder."""
    root = os.path.expanduser(folder)
    if not os.path.isdir(root):
        raise DataError(f"there is no folder {folder!r}")
    for part in ("train", "test"):
        if not os.path.isdir(os.path.join(root, part)):
            raise DataError(
                f"{folder} must hold train/ and test/, each with one folder per class; "
                f"there is no {part}/"
            )
    classes = _class_names(os.path.join(root, "train"))
    others = _class_names(os.path.join(root, "test"))
    if classes != others:
        raise DataError(
            f"train/ and test/ of {folder} must hold the same classes; only in train/: "
            f"{_listed(classes - others)}; only in test/: {_listed(others - classes)}"
        )
    names = tuple(sorted(classes))
    left_out: Counter[str] = Counter()
    train, test = (
        _image_files(os.path.join(root, part), names, left_out) for part in ("train", "test")
    )
    if len(names) == 1:
        raise DataError(
            f"{folder} has one class only, {names[0]!r}: there is nothing to tell apart"
        )
    if image_size is None:
        with opened_image(train[0][0]) as image:
            turn_upright(image)
            size = (image.height, image.width)
    else:
        size = (image_size, image_size)
    sources = [
        ImageFiles(tuple(paths), torch.tensor(labels), size, train[0][0], image_size)
        for paths, labels in (train, test)
    ]
    notes = (f"left out of {folder}: {_kinds(left_out)}",) if left_out else ()
    return _Opened(sources[0], sources[1], names, Augmentation(min(size) // 8, flip=True), notes)


def _class_names(folder: str) -> set[str]:
    with os.scandir(folder) as entries:
        found = {item.name for item in entries if item.is_dir() and item.name[0] != "."}
    if not found:
        raise DataError(f"no images in {folder}: it must hold one folder per class")
    return found


def _listed(names: set[str]) -> str:
    shown = sorted(names)[:3]
    return ", ".join(shown + ["…"] * (len(names) > len(shown))) or "none"


def _image_files(
    folder: str, names: tuple[str, ...], left_out: Counter[str]
) -> tuple[list[str], list[int]]:
    """Paths and labels of all images; other files are counted in `left_out`, by their suffixes."""
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        others: Counter[str] = Counter()
        found = []
        for path in _files_below(os.path.join(folder, name), set()):
            suffix = os.path.splitext(path)[1].lower()
            if suffix in _SUFFIXES:
                found.append(path)
            else:
                others[suffix] += 1
        if not found:
            instead = f" that can be read, only {_kinds(others)}" if others else ""
            raise DataError(f"no images in {os.path.join(folder, name)}{instead}")
        left_out.update(others)
        paths += sorted(found)
        labels += [label] * len(found)
    return paths, labels


def _files_below(folder: str, seen: set[str]) -> Iterator[str]:
    """Files at any depth, but hidden ones and those in hidden folders; links are followed once."""
    real = os.path.realpath(folder)
    if real in seen:
        return
    seen.add(real)
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name[0] == ".":
                continue
            if entry.is_dir():
                yield from _files_below(entry.path, seen)
            else:
                yield entry.path


def _kinds(suffixes: Counter[str]) -> str:
    """Such as "12 .gif, 1 .txt"."""
    most = suffixes.most_common()
    return ", ".join(f"{count:,} {suffix or 'without a suffix'}" for suffix, count in most)


def _quarter_of_memory() -> int:
    return usable_memory() // 4
