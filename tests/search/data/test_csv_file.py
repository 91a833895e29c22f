"""Tables of images: whose labels are whose, which part is which, and errors with their line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from pruning.errors import DataError
from search.config.data_config import DataConfig
from search.data.datasets import ImageData, load
from search.data.image_sources import ImageSource

PARTS = ("train", "validation", "test")


def make_table(folder: Path, header: str, cells: list[str]) -> Path:
    """A table of images of their own grey levels, 0, 1, 2 …, in a folder beside it."""
    (folder / "images").mkdir()
    lines = [header]
    for number, rest in enumerate(cells):
        Image.new("RGB", (4, 3), (number,) * 3).save(folder / "images" / f"{number}.png")
        lines.append(f"images/{number}.png,{rest}")
    file = folder / "table.csv"
    file.write_text("\n".join(lines) + "\n")
    return file


def opened(file: Path, **settings: object) -> ImageData:
    return load(DataConfig(f"csv:{file}", **settings), seed=0)


def labels_by_image(source: ImageSource) -> dict[int, object]:
    """The label of every image, by its grey level."""
    images = torch.cat(list(source.read(torch.arange(len(source)), 8)))
    return dict(zip(images[:, 0, 0, 0].tolist(), source.labels.tolist(), strict=True))


def test_each_image_has_its_class(tmp_path: Path) -> None:
    names = ["ash", "birch", "cedar"]
    data = opened(make_table(tmp_path, "path,label", [names[i % 3] for i in range(30)]))
    parts = [labels_by_image(data.part(part)) for part in PARTS]
    assert [len(part) for part in parts] == [19, 5, 6]
    assert {k: v for part in parts for k, v in part.items()} == {i: i % 3 for i in range(30)}
    assert data.classes == ("ash", "birch", "cedar")
    assert data.train.image_shape == (3, 3, 4)
    assert data.notes == (
        f"{tmp_path}/table.csv has no test part: 20% of the images, always the same, are held out "
        "for it",
    )


def test_parts_are_as_the_table_says(tmp_path: Path) -> None:
    splits = ["train", "valid", "test", "Train", "val", "validation", "train"]
    cells = [f"{i % 2},{split}" for i, split in enumerate(splits)]
    data = opened(make_table(tmp_path, "path,label,split", cells))
    assert [sorted(labels_by_image(data.part(part))) for part in PARTS] == [
        [0, 3, 6],
        [1, 4, 5],
        [2],
    ]
    assert data.notes == ()


def test_numbers_of_classes_are_in_their_order(tmp_path: Path) -> None:
    data = opened(make_table(tmp_path, "path,label", ["10", "9"] * 6))
    assert data.classes == ("9", "10")
    assert labels_by_image(data.test).items() <= {i: (i + 1) % 2 for i in range(12)}.items()


def test_an_image_can_have_several_labels(tmp_path: Path) -> None:
    cells = ["dog; cat,0", ",1", "cat,2", "dog,3"] * 5
    data = opened(make_table(tmp_path, "path,labels,id", cells))
    assert data.classes == ("cat", "dog")
    wanted = [[1.0, 1.0], [0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
    for part in PARTS:
        for image, labels in labels_by_image(data.part(part)).items():
            assert labels == wanted[image % 4]
    assert data.sample.targets.shape == (1, 2)
    assert "columns of" in data.notes[1]
    assert data.notes[1].endswith("that are not used: id")


def test_columns_of_zeros_and_ones_are_classes(tmp_path: Path) -> None:
    data = opened(make_table(tmp_path, "path,cat,dog", ["1,0", "1,1"] * 10))
    assert data.classes == ("cat", "dog")
    assert labels_by_image(data.test).items().__len__() == 4
    assert data.train.labels.dtype == torch.float32


def test_other_columns_are_numbers_to_learn(tmp_path: Path) -> None:
    data = opened(make_table(tmp_path, "path,width,depth", [f"{i}.5,-{i}" for i in range(10)]))
    assert data.classes == ()
    for part in PARTS:
        for image, numbers in labels_by_image(data.part(part)).items():
            assert numbers == [image + 0.5, -image]


def test_marks_and_quotes_of_spreadsheets_are_understood(tmp_path: Path) -> None:
    file = make_table(tmp_path, "path,label", ['"a, b"', "c"] * 5)
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    assert opened(file).classes == ("a, b", "c")


BAD = {
    "path,label\n": "names no images: it has no line after the names of its columns",
    "": "line 1 must name a column path, got nothing",
    "file,label\n0.png,a\n": "line 1 must name a column path, got file, label",
    "path,path,label\n": "line 1 must name each column once",
    "path,label,labels\n": "line 1 must name label or labels, not both",
    "path,split\n": "line 1 must name a column label, labels, or one of numbers, got path, split",
    "path,label\n0.png,a\n\n0.png\n": "line 4: there must be 2 columns, as in line 1, got 1",
    "path,label\n0.png,a\n1.png,b\n": "line 3: there is no image '.*1.png'",
    "path,label\n0.png,a\n,b\n": "line 3: there is no image",
    "path,label\n0.png,a\n0.png,\n": "line 3: label is empty",
    "path,label\n0.png,a\n0.png,a\n": "has one class only, 'a': there is nothing to tell apart",
    "path,labels\n0.png,\n": "has no labels: the column labels is empty in every line",
    "path,label,split\n0.png,a,train\n0.png,b,dev\n": (
        "line 3: split must be train, val or test, got 'dev'"
    ),
    "path,label,split\n0.png,a,test\n0.png,b,val\n": "has no line whose split is train",
    "path,x\n0.png,1\n0.png,wide\n": "line 3: x must be a number, as columns besides path, label,",
    "path,x\n0.png,nan\n": "line 2: x must be a number, .* got 'nan'",
    'path,label\n0.png,"a\n': "line 2: unexpected end of data",
}


@pytest.mark.parametrize("text", BAD)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, text: str) -> None:
    Image.new("RGB", (4, 3)).save(tmp_path / "0.png")
    file = tmp_path / "table.csv"
    file.write_text(text)
    with pytest.raises(DataError, match=f"^{file}.*{BAD[text]}"):
        opened(file)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    file.write_bytes(b"path,label\n\xff\xfe,a\n")
    with pytest.raises(DataError, match=r"table.csv cannot be read: it is no text in UTF-8"):
        opened(file)
    with pytest.raises(DataError, match=r"none.csv cannot be read: No such file or directory"):
        opened(tmp_path / "none.csv")
