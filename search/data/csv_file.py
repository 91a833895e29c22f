"""Tables of images: csv:FILE, whose first line names its columns.

    path,label,split        the class of each image
    path,labels             any number of classes of each image, joined by ";"
    path,width,height       numbers: what is to be learned of each image; classes of images, where
                            all of them are 0 or 1

Paths are relative to the folder of the file. `split` says train, val or test; without it, parts
are held out as of an image folder.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pruning.errors import DataError
from search.data.data import Part
from search.data.image_folder import held_out_note, image_size_of
from search.data.image_sources import ImageFiles
from search.data.opened_dataset import Augmentation, OpenedDataset

_PATH, _LABEL, _LABELS, _SPLIT = "path", "label", "labels", "split"
_PARTS: Mapping[str, Part] = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
_SEPARATOR = ";"


@dataclass(frozen=True)
class _Row:
    """A line of the table, by the names of its columns.  number: of the line, from 1."""

    number: int
    cells: Mapping[str, str]


def open_csv_file(file: str, image_size: int | None) -> OpenedDataset:
    """The data set of a table; classes are in the order of their names, or of their columns.

    Images stay where they are. Raises DataError, with the number of the line, for what is missing
    or cannot be understood.
    """
    names, rows = _rows(file)
    paths = _paths(file, rows)
    labels, classes = _labels(file, names, rows)
    parts = _parts(file, rows) if _SPLIT in names else {"train": list(range(len(rows)))}
    first = paths[parts["train"][0]]
    size = image_size_of(first, image_size)
    sources = {
        part: ImageFiles(
            tuple(paths[row] for row in chosen),
            labels[torch.tensor(chosen)],
            size,
            first,
            image_size,
        )
        for part, chosen in parts.items()
    }
    notes = [] if "test" in sources else [held_out_note(f"{file} has no test part")]
    if unused := _unused(names):
        notes.append(f"columns of {file} that are not used: {', '.join(unused)}")
    return OpenedDataset(
        sources["train"],
        sources.get("test"),
        classes,
        Augmentation(min(size) // 8, flip=True),
        tuple(notes),
        sources.get("validation"),
    )


def _rows(file: str) -> tuple[list[str], list[_Row]]:
    """The names of the columns and all lines that are not empty."""
    try:
        with open(os.path.expanduser(file), newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream, strict=True)
            names = [name.strip() for name in next(reader, [])]
            _require_columns(file, names)
            rows = []
            for cells in reader:
                if not cells:
                    continue
                if len(cells) != len(names):
                    raise DataError(
                        f"{file}, line {reader.line_num}: there must be {len(names)} columns, as "
                        f"in line 1, got {len(cells)}"
                    )
                texts = map(str.strip, cells)
                rows.append(_Row(reader.line_num, dict(zip(names, texts, strict=True))))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise DataError(f"{file} cannot be read: {reason}") from error
    except csv.Error as error:
        raise DataError(f"{file}, line {reader.line_num}: {error}") from error
    if not rows:
        raise DataError(f"{file} names no images: it has no line after the names of its columns")
    return names, rows


def _require_columns(file: str, names: Sequence[str]) -> None:
    shown = ", ".join(names) or "nothing"
    if _PATH not in names:
        raise DataError(f"{file}, line 1 must name a column path, got {shown}")
    if len(set(names)) < len(names):
        raise DataError(f"{file}, line 1 must name each column once, got {shown}")
    if _LABEL in names and _LABELS in names:
        raise DataError(f"{file}, line 1 must name label or labels, not both")
    if not set(names) - {_PATH, _SPLIT}:
        raise DataError(
            f"{file}, line 1 must name a column label, labels, or one of numbers, got {shown}"
        )


def _unused(names: Sequence[str]) -> list[str]:
    """Columns beside those of labels."""
    if _LABEL not in names and _LABELS not in names:
        return []
    return [name for name in names if name not in (_PATH, _LABEL, _LABELS, _SPLIT)]


def _paths(file: str, rows: Sequence[_Row]) -> list[str]:
    folder = os.path.dirname(os.path.expanduser(file))
    paths = []
    for row in rows:
        path = os.path.join(folder, row.cells[_PATH])
        if not row.cells[_PATH] or not os.path.isfile(path):
            raise DataError(f"{file}, line {row.number}: there is no image {path!r}")
        paths.append(path)
    return paths


def _parts(file: str, rows: Sequence[_Row]) -> dict[Part, list[int]]:
    """Which rows are of each part that the column split names."""
    parts: dict[Part, list[int]] = {}
    for index, row in enumerate(rows):
        name = row.cells[_SPLIT].lower()
        if name not in _PARTS:
            raise DataError(
                f"{file}, line {row.number}: split must be train, val or test, got {name!r}"
            )
        parts.setdefault(_PARTS[name], []).append(index)
    if "train" not in parts:
        raise DataError(f"{file} has no line whose split is train")
    return parts


def _labels(
    file: str, names: Sequence[str], rows: Sequence[_Row]
) -> tuple[Tensor, tuple[str, ...]]:
    """Labels of all rows, int64 (n,) or float32 (n, k), and the names of the classes."""
    if _LABEL in names:
        return _of_one_class(file, rows)
    if _LABELS in names:
        return _of_several_classes(file, rows)
    columns = tuple(name for name in names if name not in (_PATH, _SPLIT))
    numbers = torch.tensor([[_number(file, row, name) for name in columns] for row in rows])
    is_classes = bool(((numbers == 0) | (numbers == 1)).all())
    return numbers, columns if is_classes else ()


def _of_one_class(file: str, rows: Sequence[_Row]) -> tuple[Tensor, tuple[str, ...]]:
    for row in rows:
        if not row.cells[_LABEL]:
            raise DataError(f"{file}, line {row.number}: label is empty")
    classes = _in_order({row.cells[_LABEL] for row in rows})
    if len(classes) == 1:
        raise DataError(
            f"{file} has one class only, {classes[0]!r}: there is nothing to tell apart"
        )
    numbers = {name: number for number, name in enumerate(classes)}
    return torch.tensor([numbers[row.cells[_LABEL]] for row in rows]), classes


def _of_several_classes(file: str, rows: Sequence[_Row]) -> tuple[Tensor, tuple[str, ...]]:
    of_rows = [
        {label.strip() for label in row.cells[_LABELS].split(_SEPARATOR)} - {""} for row in rows
    ]
    classes = _in_order(set().union(*of_rows))
    if not classes:
        raise DataError(f"{file} has no labels: the column labels is empty in every line")
    return torch.tensor([[float(name in own) for name in classes] for own in of_rows]), classes


def _in_order(names: set[str]) -> tuple[str, ...]:
    """By number, if all are whole numbers, or else by name."""
    if all(name.isascii() and name.isdigit() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def _number(file: str, row: _Row, name: str) -> float:
    text = row.cells[name]
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise DataError(
            f"{file}, line {row.number}: {name} must be a number, as columns besides path, label, "
            f"labels and split are, got {text!r}"
        )
    return number
