"""What `load` promises: parts that share nothing, equal shares of classes, clear errors."""

import gzip
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pruning.errors import ConfigError, DataError
from search.config.data_config import DataConfig
from search.data import datasets, image_sources
from search.data.datasets import load
from search.data.image_sources import ImageFiles, ImageSource, ImageSplit
from search.data.opened_dataset import Augmentation
from search.data.stratified import stratified_sample


@pytest.fixture(autouse=True)
def _temporary(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is remembered which files have been read."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("temporary")))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows(*parts: ImageSource) -> set[bytes]:
    """The pixels of every image, as a set: equal images would be counted once."""
    found = set()
    for part in parts:
        for batch in part.read(torch.arange(len(part)), 7):
            found |= {image.contiguous().numpy().tobytes() for image in batch}
    return found


def make_folder(root: Path, *, per_class: int = 10, size: tuple[int, int] = (6, 4)) -> Path:
    """Distinct random PNGs, `size` being (width, height); the test part holds two a class."""
    noise = np.random.default_rng(0)
    for part, count in (("train", per_class), ("test", 2)):
        for name in ("ash", "birch", "cedar"):
            folder = root / part / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = noise.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    return root


def folder_config(root: Path, **options: object) -> DataConfig:
    return DataConfig(source=f"imagefolder:{root}", **options)


@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=60),
    share=st.floats(0, 1),
    seed=st.integers(0, 3),
)
def test_stratified_sample_keeps_the_shares_of_classes(
    labels: list[int], share: float, seed: int
) -> None:
    tensor = torch.tensor(labels)
    count = int(share * len(labels))
    chosen = stratified_sample(tensor, count, generator(seed))
    assert len(set(chosen.tolist())) == count
    assert chosen.tolist() == sorted(chosen.tolist())
    for label in set(labels):
        exact = labels.count(label) * count / len(labels)
        assert abs(int((tensor[chosen] == label).sum()) - exact) < 1


def test_stratified_sample_is_random_and_repeatable() -> None:
    labels = torch.arange(100) % 4
    first = stratified_sample(labels, 20, generator(1))
    assert torch.equal(first, stratified_sample(labels, 20, generator(1)))
    assert not torch.equal(first, stratified_sample(labels, 20, generator(2)))


def test_digits_have_their_documented_sizes() -> None:
    data = load(DataConfig(), seed=0)
    assert (len(data.train), len(data.validation), len(data.test)) == (1150, 288, 359)
    assert data.train.image_shape == (1, 8, 8)
    assert data.classes == tuple("0123456789")
    assert data.augmentation == Augmentation(crop_padding=1, flip=False)
    assert isinstance(data.train, ImageSplit)
    assert data.train.images.max() == 255
    assert data.train.labels.dtype == torch.int64


def test_parts_share_no_image_and_lose_none() -> None:
    data = load(DataConfig(), seed=5)
    parts = [rows(part) for part in (data.train, data.validation, data.test)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 1797  # the digits are all distinct


def test_labels_stay_with_their_images() -> None:
    def labelled(data: datasets.ImageData) -> dict[bytes, int]:
        found = {}
        for part in (data.train, data.validation, data.test):
            assert isinstance(part, ImageSplit)
            for image, label in zip(part.images, part.labels.tolist(), strict=True):
                found[image.contiguous().numpy().tobytes()] = label
        return found

    assert labelled(load(DataConfig(), seed=0)) == labelled(load(DataConfig(), seed=1))


def test_validation_split_is_seeded_and_stratified_and_the_test_part_is_fixed() -> None:
    first, again, other = (load(DataConfig(), seed=seed) for seed in (0, 0, 1))
    assert rows(first.validation) == rows(again.validation)
    assert rows(first.validation) != rows(other.validation)
    assert rows(first.test) == rows(other.test)
    for part, share in ((first.validation, 0.2), (first.train, 0.8)):
        whole = torch.bincount(torch.cat([first.train.labels, first.validation.labels]))
        assert (torch.bincount(part.labels) - share * whole).abs().max() < 1


def test_limit_train_applies_before_the_split_and_spares_the_test_part() -> None:
    data = load(DataConfig(limit_train=200, validation_fraction=0.25), seed=0)
    assert (len(data.train), len(data.validation), len(data.test)) == (150, 50, 359)
    counts = torch.bincount(torch.cat([data.train.labels, data.validation.labels]))
    assert counts.min() >= 19
    assert counts.max() <= 21
    unlimited = load(DataConfig(limit_train=10_000), seed=0)
    assert len(unlimited.train) == 1150


def test_statistics_come_from_the_training_part_alone() -> None:
    data = load(DataConfig(limit_train=100), seed=0)
    assert isinstance(data.train, ImageSplit)
    pixels = data.train.images.double() / 255
    assert data.mean == pytest.approx([pixels.mean().item()])
    assert data.std == pytest.approx([pixels.std(correction=0).item()])


def test_grey_images_are_repeated_when_three_channels_are_wanted() -> None:
    grey, colour = load(DataConfig(), seed=0), load(DataConfig(), channels=3, seed=0)
    assert colour.train.image_shape == (3, 8, 8)
    assert isinstance(grey.train, ImageSplit)
    assert isinstance(colour.train, ImageSplit)
    for channel in range(3):
        assert torch.equal(colour.train.images[:, channel], grey.train.images[:, 0])
    assert colour.mean == grey.mean * 3


def test_images_are_resized_and_the_crop_grows_with_them() -> None:
    data = load(DataConfig(image_size=32, limit_train=50), seed=0)
    small = load(DataConfig(limit_train=50), seed=0)
    assert data.test.image_shape == (1, 32, 32)
    assert data.augmentation == Augmentation(crop_padding=4, flip=False)
    assert data.mean == pytest.approx(small.mean, abs=0.01)


def test_unknown_data_set_gets_the_nearest_name() -> None:
    with pytest.raises(DataError, match=r"'cifar-10'; did you mean cifar10\?"):
        load(DataConfig(source="cifar-10"), seed=0)
    with pytest.raises(DataError, match="there are digits, cifar10"):
        load(DataConfig(source="???"), seed=0)


def test_a_class_without_training_images_is_refused() -> None:
    with pytest.raises(DataError, match=r"class '.' has no training image left among 5"):
        load(DataConfig(limit_train=5), seed=0)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "mnist", "fashion-mnist"])
def test_absent_files_are_not_downloaded_unasked(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"{name} is not in .*--download"):
        load(DataConfig(source=name, root=str(tmp_path)), seed=0)


def test_failed_download_tells_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", offline)
    with pytest.raises(DataError, match="cannot download cifar10: no route to host"):
        load(DataConfig(source="cifar10", root=str(tmp_path), download=True), seed=0)


def write_idx(path: Path, values: np.ndarray) -> None:
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">i4").tobytes()
    path.write_bytes(header + values.tobytes())


def test_mnist_files_are_read_as_one_channel(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    labels = np.arange(60, dtype=np.uint8) % 10
    images = np.random.default_rng(0).integers(0, 256, (60, 28, 28), dtype=np.uint8)
    for part in ("train", "t10k"):
        write_idx(raw / f"{part}-images-idx3-ubyte", images)
        write_idx(raw / f"{part}-labels-idx1-ubyte", labels)
        for file in raw.glob(f"{part}-*ubyte"):
            (raw / f"{file.name}.gz").write_bytes(gzip.compress(b""))
    data = load(DataConfig(source="mnist", root=str(tmp_path)), seed=0)
    assert isinstance(data.test, ImageSplit)
    assert np.array_equal(data.test.images[:, 0].numpy(), images)
    assert data.test.labels.tolist() == labels.tolist()
    assert data.augmentation == Augmentation(crop_padding=2, flip=False)


def test_cifar_arrays_become_channels_first(monkeypatch: pytest.MonkeyPatch) -> None:
    class FewImages:
        classes = ("cat", "dog")

        def __init__(self, root: str, *, train: bool, download: bool) -> None:
            self.data = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
            self.targets = [0, 1] * 10

    monkeypatch.setattr(torchvision.datasets, "CIFAR100", FewImages)
    data = load(DataConfig(source="cifar100"), seed=0)
    assert isinstance(data.test, ImageSplit)
    expected = FewImages("", train=False, download=False).data
    assert np.array_equal(data.test.images.permute(0, 2, 3, 1).numpy(), expected)
    assert data.augmentation == Augmentation(crop_padding=4, flip=True)
    with pytest.raises(DataError, match="cifar100 have 3 channels, the network reads 1"):
        load(DataConfig(source="cifar100"), channels=1, seed=0)


def test_image_folder_holds_what_the_files_hold(tmp_path: Path) -> None:
    make_folder(tmp_path)
    data = load(folder_config(tmp_path), seed=0)
    assert (len(data.train), len(data.validation), len(data.test)) == (24, 6, 6)
    assert data.train.image_shape == (3, 4, 6)
    assert data.classes == ("ash", "birch", "cedar")
    assert isinstance(data.test, ImageSplit)
    assert data.test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    with Image.open(tmp_path / "test" / "birch" / "1.png") as image:
        expected = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    assert torch.equal(data.test.images[3], expected)
    assert len(rows(data.train, data.validation, data.test)) == 36


def test_images_left_on_disk_are_the_same_images(tmp_path: Path) -> None:
    make_folder(tmp_path)
    memory = load(folder_config(tmp_path), seed=0)
    disk = load(folder_config(tmp_path), seed=0, memory_limit_bytes=36 * 4 * 6 * 3 - 1)
    just_fits = load(folder_config(tmp_path), seed=0, memory_limit_bytes=36 * 4 * 6 * 3)
    assert isinstance(just_fits.train, ImageSplit)
    assert isinstance(disk.train, ImageFiles)
    assert (disk.mean, disk.std, disk.augmentation) == (
        memory.mean,
        memory.std,
        memory.augmentation,
    )
    order = torch.tensor([3, 0, 7, 7, 1])
    for part in ("train", "validation", "test"):
        of_disk, of_memory = getattr(disk, part), getattr(memory, part)
        assert torch.equal(of_disk.labels, of_memory.labels)
        batches = list(of_disk.read(order % len(of_disk), 2))
        assert [len(batch) for batch in batches] == [2, 2, 1]
        expected = torch.cat(list(of_memory.read(order % len(of_memory), 2)))
        assert torch.equal(torch.cat(batches), expected)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12 and later
def test_worker_processes_read_the_same_and_keep_the_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_folder(tmp_path)
    expected = rows(load(folder_config(tmp_path), seed=0).train)
    monkeypatch.setattr(image_sources, "_PROCESSES_PAY_ABOVE", 0)
    before = torch.get_rng_state()
    assert rows(load(folder_config(tmp_path), seed=0).train) == expected
    assert torch.equal(torch.get_rng_state(), before)
    broken = tmp_path / "test" / "cedar" / "1.png"
    broken.write_bytes(b"not an image")
    with pytest.raises(DataError, match=f"^cannot read image {broken}"):
        load(folder_config(tmp_path), seed=0)


def test_images_that_are_not_used_are_not_decoded(tmp_path: Path) -> None:
    make_folder(tmp_path, per_class=10)
    calls: list[tuple[int, int]] = []
    load(
        folder_config(tmp_path, limit_train=12),
        seed=0,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert {total for _, total in calls} == {12 + 6}
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})
    assert calls[-1] == (18, 18)


def test_images_of_several_sizes_are_refused_and_image_size_helps(tmp_path: Path) -> None:
    make_folder(tmp_path)
    odd = tmp_path / "test" / "birch" / "1.png"
    Image.new("L", (9, 5), 200).save(odd)
    message = f"{tmp_path}/train/ash/0.png is 6×4 and {odd} is 9×5; give --image-size"
    for limit in (None, 0):  # in memory, on disk
        with pytest.raises(DataError, match=message):
            load(folder_config(tmp_path), seed=0, memory_limit_bytes=limit)
        data = load(folder_config(tmp_path, image_size=8), seed=0, memory_limit_bytes=limit)
        assert data.test.image_shape == (3, 8, 8)
        (grey,) = data.test.read(torch.tensor([3]), 1)
        assert grey.eq(200).all()


def test_resized_images_keep_their_proportions(tmp_path: Path) -> None:
    """The central square is used: the black ends of a wide image disappear."""
    make_folder(tmp_path)
    pixels = np.zeros((10, 30, 3), np.uint8)
    pixels[:, 8:22] = 250  # two columns more, which smoothing reaches
    Image.fromarray(pixels).save(tmp_path / "test" / "ash" / "0.png")
    data = load(folder_config(tmp_path, image_size=5), seed=0)
    (image,) = data.test.read(torch.tensor([0]), 1)
    assert image.eq(250).all()


def test_file_of_an_image_cut_short_is_named(tmp_path: Path) -> None:
    make_folder(tmp_path)
    broken = tmp_path / "train" / "ash" / "4.png"
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(DataError, match=f"cannot read image {broken}"):
        load(folder_config(tmp_path), seed=0)


def test_what_is_wrong_with_a_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no folder '/not/there'"):
        load(DataConfig(source="imagefolder:/not/there"), seed=0)
    with pytest.raises(DataError, match="there is no train/"):
        load(folder_config(tmp_path), seed=0)
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match=r"no images in .*train: it must hold one folder per class"):
        load(folder_config(tmp_path), seed=0)
    (tmp_path / "test").mkdir()
    with pytest.raises(DataError, match=r"no images in .*train: it must hold one folder per class"):
        load(folder_config(tmp_path), seed=0)
    (tmp_path / "train" / "ash").mkdir()
    (tmp_path / "test" / "oak").mkdir()
    with pytest.raises(DataError, match="only in train/: ash; only in test/: oak"):
        load(folder_config(tmp_path), seed=0)
    (tmp_path / "test" / "oak").rename(tmp_path / "test" / "ash")
    with pytest.raises(DataError, match=r"no images in .*train/ash"):
        load(folder_config(tmp_path), seed=0)


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_a_folder_with_a_validation_part_of_its_own(tmp_path: Path, name: str) -> None:
    make_folder(tmp_path)
    shutil.copytree(tmp_path / "test", tmp_path / name)
    photo = tmp_path / name / "birch" / "0.png"
    Image.new("RGB", (6, 4), (1, 2, 3)).save(photo)
    data = load(folder_config(tmp_path), seed=0)
    assert [data.count(part) for part in ("train", "validation", "test")] == [30, 6, 6]
    ((image,),) = data.validation.read(torch.tensor([2]), 1)
    assert image[:, 0, 0].tolist() == [1, 2, 3]
    assert data.notes == ()
    assert load(folder_config(tmp_path, limit_train=12), seed=0).count("validation") == 6
    with pytest.raises(ConfigError, match="validation_fraction has no effect on imagefolder:"):
        load(folder_config(tmp_path, validation_fraction=0.5), seed=0)
    (tmp_path / name / "ash").rename(tmp_path / name / "oak")
    with pytest.raises(DataError, match=f"train/ and {name}/ of .*only in train/: ash; only in"):
        load(folder_config(tmp_path), seed=0)


@pytest.mark.parametrize("has_parts", [True, False])
def test_a_folder_without_a_test_part_has_some_held_out(tmp_path: Path, has_parts: bool) -> None:
    """The same ones for every seed; also where there are folders of classes alone."""
    make_folder(tmp_path / "a")
    shutil.rmtree(tmp_path / "a" / "test")
    folder = tmp_path / "a" if has_parts else tmp_path / "a" / "train"
    first, second = (load(folder_config(folder), seed=seed) for seed in (0, 1))
    assert [first.count(part) for part in ("train", "validation", "test")] == [19, 5, 6]
    parts = [rows(part) for part in (first.train, first.validation, first.test)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 30
    assert rows(first.test) == rows(second.test)
    assert rows(first.validation) != rows(second.validation)
    assert torch.bincount(first.test.labels).tolist() == [2, 2, 2]
    assert first.notes == (
        f"{folder} has no test/: 20% of the images, always the same, are held out for it",
    )


def test_a_folder_with_two_validation_parts_is_refused(tmp_path: Path) -> None:
    make_folder(tmp_path)
    for name in ("val", "valid"):
        (tmp_path / name).mkdir()
    with pytest.raises(DataError, match="has several validation parts: val, valid"):
        load(folder_config(tmp_path), seed=0)


# ---- files that are easily taken for something else


def whole(image: Image.Image, folder: Path, name: str, **saving: object) -> torch.Tensor:
    """What becomes of an image, uint8 (3, H, W)."""
    path = folder / name
    image.save(path, **saving)
    files = ImageFiles((str(path),), torch.zeros(1).long(), image.size[::-1], str(path))
    (batch,) = files.read(torch.arange(1), 1)
    return batch[0]


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bits_are_scaled_down(tmp_path: Path, suffix: str) -> None:
    levels = np.array([[0, 128, 257, 32896, 65535]], np.uint16)
    found = whole(Image.fromarray(levels), tmp_path, f"a.{suffix}")
    assert found.tolist() == [[[0, 0, 1, 128, 255]]] * 3


@pytest.mark.parametrize(
    ("kind", "what"), [(np.float32, "floating point"), (np.int32, "whole numbers of 32 bits")]
)
def test_numbers_of_unknown_range_are_refused(tmp_path: Path, kind: type, what: str) -> None:
    with pytest.raises(DataError, match=rf"image {tmp_path}/a.tiff is made of {what}.*to 8 or 16"):
        whole(Image.fromarray(np.ones((2, 2), kind)), tmp_path, "a.tiff")


def test_photos_are_turned_as_their_camera_says(tmp_path: Path) -> None:
    make_folder(tmp_path)
    pixels = np.zeros((6, 4, 3), np.uint8)
    pixels[0] = 255  # lying on its side, the bright edge is at the top
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° clockwise
    for part in ("train", "test"):
        for index in range(2):
            path = tmp_path / part / "ash" / f"{index}.png"
            Image.fromarray(pixels).save(path, exif=exif)
    data = load(folder_config(tmp_path), seed=0)  # where all others are 6×4
    (image,) = data.test.read(torch.tensor([0]), 1)
    assert image[0, :, :, -1].eq(255).all()
    assert image[0, :, :, :-1].eq(0).all()
    assert data.train.image_shape == (3, 4, 6)


def test_hidden_folders_are_left_out_and_links_followed_once(tmp_path: Path) -> None:
    make_folder(tmp_path / "data")
    more = make_folder(tmp_path / "more", per_class=3) / "train" / "ash"
    ash = tmp_path / "data" / "train" / "ash"
    shutil.copytree(ash, ash / ".thumbnails")
    (ash / "linked").symlink_to(more)
    (ash / "again").symlink_to(ash)
    data = load(folder_config(tmp_path / "data"), seed=0)
    assert len(data.train) + len(data.validation) == 30 + 3


def test_files_of_other_kinds_are_counted(tmp_path: Path) -> None:
    make_folder(tmp_path)
    assert load(folder_config(tmp_path), seed=0).notes == ()
    photo = Image.open(tmp_path / "train" / "ash" / "0.png")
    photo.save(tmp_path / "train" / "ash" / "a.jfif", format="JPEG")
    for index in range(3):
        photo.save(tmp_path / "train" / "ash" / f"{index}.GIF")
    (tmp_path / "test" / "birch" / "README").touch()
    data = load(folder_config(tmp_path), seed=0)
    assert data.notes == (f"left out of {tmp_path}: 3 .gif, 1 without a suffix",)
    assert len(data.train) + len(data.validation) == 31
    for file in (tmp_path / "test" / "cedar").iterdir():
        file.rename(file.with_suffix(".gif"))
    expected = r"no images in .*test/cedar that can be read, only 2 \.gif"
    with pytest.raises(DataError, match=expected):
        load(folder_config(tmp_path), seed=0)


def test_one_class_alone_is_refused(tmp_path: Path) -> None:
    make_folder(tmp_path)
    for part in ("train", "test"):
        for name in ("birch", "cedar"):
            shutil.rmtree(tmp_path / part / name)
    with pytest.raises(DataError, match="has one class only, 'ash': there is nothing to tell"):
        load(folder_config(tmp_path), seed=0)


def test_every_image_is_read_once_before_anything_is_learned(
    tmp_path: Path,
) -> None:
    """Also those that stay on disk, of the test part too; and again only if they have changed."""
    make_folder(tmp_path / "data")

    def read() -> int:
        calls: list[int] = []
        load(
            folder_config(tmp_path / "data"),
            seed=0,
            memory_limit_bytes=0,
            progress=lambda done, _: calls.append(done),
        )
        return max(calls, default=0)

    assert read() == 36
    assert read() == 0
    broken = tmp_path / "data" / "test" / "cedar" / "1.png"
    broken.write_bytes(broken.read_bytes()[:60])
    for _ in range(2):
        with pytest.raises(DataError, match=f"cannot read image {broken}"):
            read()
