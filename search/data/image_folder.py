"""Image folders: FOLDER/{train,test}/CLASS/ with files at any depth."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

import torch

from pruning.errors import DataError
from search.data.image_sources import ImageFiles, opened_image, turn_upright
from search.data.opened_dataset import Augmentation, OpenedDataset

_SUFFIXES = (
    *(".bmp", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff"),
    ".webp",
)


def open_image_folder(folder: str, image_size: int | None) -> OpenedDataset:
    """The data set in a folder; its classes are named after their folders.

    Files stay where they are. Raises DataError for what is missing or differs.
    """
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
    return OpenedDataset(
        sources[0], sources[1], names, Augmentation(min(size) // 8, flip=True), notes
    )


def _class_names(folder: str) -> set[str]:
    with os.scandir(folder) as entries:
        classes = {item.name for item in entries if item.is_dir() and item.name[0] != "."}
    if not classes:
        raise DataError(f"no images in {folder}: it must hold one folder per class")
    return classes


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
        images = []
        for path in _files_below(os.path.join(folder, name), set()):
            suffix = os.path.splitext(path)[1].lower()
            if suffix in _SUFFIXES:
                images.append(path)
            else:
                others[suffix] += 1
        if not images:
            instead = f" that can be read, only {_kinds(others)}" if others else ""
            raise DataError(f"no images in {os.path.join(folder, name)}{instead}")
        left_out.update(others)
        paths += sorted(images)
        labels += [label] * len(images)
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
