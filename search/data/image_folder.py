"""Image folders: FOLDER/{train,val,test}/CLASS/, or FOLDER/CLASS/, with files at any depth."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

import torch

from pruning.errors import DataError
from search.data.data import Part
from search.data.image_sources import ImageFiles, opened_image, turn_upright
from search.data.opened_dataset import Augmentation, OpenedDataset
from search.data.stratified import TEST_FRACTION

_SUFFIXES = (
    *(".bmp", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff"),
    ".webp",
)


_VALIDATION = ("val", "valid", "validation")
"""What the folder of the validation part may be called."""


def open_image_folder(folder: str, image_size: int | None) -> OpenedDataset:
    """The data set in a folder; its classes are named after their folders.

    Files stay where they are. Raises DataError for what is missing or differs.
    """
    root = os.path.expanduser(folder)
    folders = _part_folders(root, folder)
    names = _common_classes(folders, folder)
    left_out: Counter[str] = Counter()
    files = {part: _image_files(path, names, left_out) for part, path in folders.items()}
    if len(names) == 1:
        raise DataError(
            f"{folder} has one class only, {names[0]!r}: there is nothing to tell apart"
        )
    first = files["train"][0][0]
    size = image_size_of(first, image_size)
    sources = {
        part: ImageFiles(tuple(paths), torch.tensor(labels), size, first, image_size)
        for part, (paths, labels) in files.items()
    }
    notes = [] if "test" in sources else [held_out_note(f"{folder} has no test/")]
    notes += [f"left out of {folder}: {_kinds(left_out)}"] if left_out else []
    return OpenedDataset(
        sources["train"],
        sources.get("test"),
        names,
        Augmentation(min(size) // 8, flip=True),
        tuple(notes),
        sources.get("validation"),
    )


def image_size_of(path: str, image_size: int | None) -> tuple[int, int]:
    """Height and width of the images of a data set, the first of which is at `path`."""
    if image_size is not None:
        return image_size, image_size
    with opened_image(path) as image:
        turn_upright(image)
        return image.height, image.width


def held_out_note(lack: str) -> str:
    """What people should know of data without a test part."""
    return f"{lack}: {TEST_FRACTION:.0%} of the images, always the same, are held out for it"


def _part_folders(root: str, folder: str) -> dict[Part, str]:
    """The folder of each part that is there; DataError without one to train with."""
    if not os.path.isdir(root):
        raise DataError(f"there is no folder {folder!r}")
    with os.scandir(root) as entries:
        there = {item.name for item in entries if item.is_dir() and item.name[0] != "."}
    validation = [name for name in _VALIDATION if name in there]
    if len(validation) > 1:
        raise DataError(f"{folder} has several validation parts: {', '.join(validation)}")
    names: dict[Part, str] = {"train": "train", "test": "test"}
    if validation:
        names["validation"] = validation[0]
    found = {part: os.path.join(root, name) for part, name in names.items() if name in there}
    if there and not found:
        return {"train": root}
    if "train" not in found:
        raise DataError(
            f"{folder} must hold train/, and maybe val/ and test/, each with one folder per class; "
            "there is no train/"
        )
    return found


def _common_classes(folders: dict[Part, str], folder: str) -> tuple[str, ...]:
    """The names of the classes, which all parts must have."""
    classes = {part: _class_names(path) for part, path in folders.items()}
    own = classes["train"]
    for part, others in classes.items():
        if own != others:
            name = os.path.basename(folders[part])
            raise DataError(
                f"train/ and {name}/ of {folder} must hold the same classes; only in train/: "
                f"{_listed(own - others)}; only in {name}/: {_listed(others - own)}"
            )
    return tuple(sorted(own))


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
