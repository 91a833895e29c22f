"""Data sets by name: scikit-learn's digits, torchvision's, and files of images."""

from __future__ import annotations

import difflib
import functools
from typing import TYPE_CHECKING, Any

import torch

from pruning.errors import DataError
from pruning.lazy_imports import lazy_modules
from search.config.data_config import DataConfig
from search.data.csv_file import open_csv_file
from search.data.image_folder import open_image_folder
from search.data.image_sources import ImageSplit
from search.data.opened_dataset import Augmentation, OpenedDataset
from search.data.stratified import without_test

if TYPE_CHECKING:
    from sklearn import datasets as sklearn_datasets
    from torchvision import datasets as torchvision_datasets
else:
    sklearn_datasets, torchvision_datasets = lazy_modules(
        "sklearn.datasets", "torchvision.datasets"
    )

_IMAGE_FOLDER, _CSV = "imagefolder:", "csv:"
_TORCHVISION = {
    "cifar10": ("CIFAR10", Augmentation(4, flip=True)),
    "cifar100": ("CIFAR100", Augmentation(4, flip=True)),
    "mnist": ("MNIST", Augmentation(2, flip=False)),
    "fashion-mnist": ("FashionMNIST", Augmentation(2, flip=False)),
}


def names() -> tuple[str, ...]:
    """Every data set that there is; PATH stands for a folder, FILE for a table."""
    return ("digits", *_TORCHVISION, "imagefolder:PATH", "csv:FILE")


def open_dataset(config: DataConfig) -> OpenedDataset:
    """The data set that `config` names, whole; DataError if there is none, or it is damaged."""
    if config.source == "digits":
        return _digits()
    if config.source in _TORCHVISION:
        return _from_torchvision(config)
    if config.source.startswith(_IMAGE_FOLDER):
        return open_image_folder(config.source.removeprefix(_IMAGE_FOLDER), config.image_size)
    if config.source.startswith(_CSV):
        return open_csv_file(config.source.removeprefix(_CSV), config.image_size)
    close = difflib.get_close_matches(config.source, names(), n=1)
    hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(names())}"
    raise DataError(f"no data set is called {config.source!r}; {hint}; module:callable also works")


def _digits() -> OpenedDataset:
    """scikit-learn's 1,797 8×8 digits; their 16 grey levels are spread over 0–255."""
    bunch = _digits_file()
    images = torch.from_numpy(bunch.images).mul(255 / 16).round().to(torch.uint8)
    everything = ImageSplit(images.unsqueeze(1), torch.from_numpy(bunch.target).long())
    train, test = without_test(everything.labels, len(everything))
    return OpenedDataset(
        train=everything.take(train),
        test=everything.take(test),
        classes=tuple(map(str, bunch.target_names)),
        augmentation=Augmentation(1, flip=False),
    )


@functools.cache
def _digits_file() -> Any:
    """What scikit-learn reads from a text of a million characters, read once; not to be changed."""
    return sklearn_datasets.load_digits()


def _from_torchvision(config: DataConfig) -> OpenedDataset:
    class_name, augmentation = _TORCHVISION[config.source]
    make = getattr(torchvision_datasets, class_name)
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
    return OpenedDataset(_arrays(train), _arrays(test), tuple(train.classes), augmentation)


def _arrays(dataset: Any) -> ImageSplit:
    """torchvision's arrays, (N, H, W) or (N, H, W, C), as (N, C, H, W)."""
    images = torch.as_tensor(dataset.data)
    images = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2)
    return ImageSplit(images.contiguous(), torch.as_tensor(dataset.targets).long())
