"""Images where they are read: one copy of them on each device, one set of processes for files."""

from __future__ import annotations

import gc
import pickle
import signal
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from pruning.errors import DataError
from search.data import image_loader, image_sources
from search.data.data import Sample
from search.data.datasets import ImageData
from search.data.image_sources import ImageFiles, ImageSplit
from search.data.reading_processes import ReadingProcesses
from search.tasks.classification import Classification

CPU, ELSEWHERE = torch.device("cpu"), torch.device("meta")


@pytest.fixture
def split() -> ImageSplit:
    images = torch.randint(256, (9, 3, 4, 5), generator=torch.Generator().manual_seed(0))
    return ImageSplit(images.to(torch.uint8), torch.arange(9) % 3)


# ---- one copy on each device


def test_there_is_one_copy_on_a_device_and_none_where_images_are(digits: ImageData) -> None:
    for _ in range(2):
        assert digits.train.to(CPU) is digits.train
        assert digits.train.to(ELSEWHERE) is digits.train.to(ELSEWHERE)
    copy = digits.train.to(ELSEWHERE)
    assert isinstance(copy, ImageSplit)
    assert copy.images.device == copy.labels.device == ELSEWHERE
    assert copy.to(ELSEWHERE) is copy


def test_training_scoring_and_evaluation_share_it(
    digits: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = digits.few(100)
    wholes = {data.part(name).images.data_ptr() for name in ("train", "validation")}
    moved: list[int] = []
    move = torch.Tensor.to

    def counted(tensor: torch.Tensor, *arguments: object, **options: object) -> torch.Tensor:
        if arguments[:1] == (ELSEWHERE,) and tensor.device == CPU and tensor.data_ptr() in wholes:
            moved.append(len(tensor))
        return move(tensor, *arguments, **options)

    monkeypatch.setattr(torch.Tensor, "to", counted)
    for _ in range(3):
        data.loader("train", device=ELSEWHERE, batch_size=7)
        data.loader("validation", device=ELSEWHERE)
        next(data.scoring_batches(2, batch_size=7, seed=0, device=ELSEWHERE))
    assert moved == [data.count("train"), data.count("validation")]


def test_the_copy_ends_with_its_images(split: ImageSplit) -> None:
    copies = weakref.ref(ImageSplit(split.images, split.labels).to(ELSEWHERE))
    gc.collect()
    assert copies() is None


def test_what_does_not_fit_beside_a_network_is_read_batch_by_batch(
    split: ImageSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_sources, "free_device_memory", lambda _: 2 * split.num_bytes)
    assert ImageSplit(split.images, split.labels).to(ELSEWHERE).images.device == ELSEWHERE
    monkeypatch.setattr(image_sources, "free_device_memory", lambda _: 2 * split.num_bytes - 1)
    copy = split.to(ELSEWHERE)
    assert copy.images is split.images
    assert copy.labels.device == ELSEWHERE
    batches = list(copy.read(torch.arange(9), 4))
    assert [(len(batch), batch.device) for batch in batches] == [
        (4, ELSEWHERE),
        (4, ELSEWHERE),
        (1, ELSEWHERE),
    ]


def test_a_minibatch_that_no_device_has_room_for_is_refused_in_one_line(
    digits: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = 4 * 50 * 64
    monkeypatch.setattr(image_loader, "free_device_memory", lambda _: needed)
    digits.loader("train", device=CPU, batch_size=50)
    monkeypatch.setattr(image_loader, "free_device_memory", lambda _: needed - 1)
    message = (
        r"^a minibatch of 50 images of 1×8×8 takes 0\.0 GB, but 0\.0 GB of cpu are free: lower"
    )
    with pytest.raises(DataError, match=message):
        digits.loader("train", device=CPU, batch_size=50)


# ---- one copy in the memory of a machine


def test_other_processes_are_given_arrays_that_need_no_copies(split: ImageSplit) -> None:
    buffers: list[pickle.PickleBuffer] = []
    split.to(ELSEWHERE)
    content = pickle.dumps(split, protocol=5, buffer_callback=buffers.append)
    assert len(content) < 1000
    found = pickle.loads(content, buffers=[memoryview(b).toreadonly() for b in buffers])
    assert torch.equal(found.images, split.images)
    assert torch.equal(found.labels, split.labels)
    assert found.images.data_ptr() == split.images.data_ptr()
    assert found.to(CPU) is found


def test_grey_images_that_are_read_as_colours_are_sent_once() -> None:
    grey = torch.arange(24, dtype=torch.uint8).view(2, 1, 3, 4)
    buffers: list[pickle.PickleBuffer] = []
    split = ImageSplit(grey.expand(-1, 3, -1, -1), torch.zeros(2).long())
    content = pickle.dumps(split, protocol=5, buffer_callback=buffers.append)
    assert max(memoryview(buffer).nbytes for buffer in buffers) == 24
    assert torch.equal(pickle.loads(content, buffers=buffers).images, split.images)


# ---- processes that read files


@pytest.fixture
def files(tmp_path: Path) -> ImageFiles:
    noise = np.random.default_rng(0)
    for index in range(12):
        pixels = noise.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    paths = tuple(str(tmp_path / f"{index}.png") for index in range(12))
    return ImageFiles(paths, torch.zeros(12).long(), (4, 5), paths[0], workers=2)


def children() -> set[int]:
    return {process.pid for process in psutil.Process().children()}


def wait_for_all_but(processes: set[int]) -> None:
    """Until no other child runs; what other tests have started, such as their Ray, goes on."""
    others = [each for each in psutil.Process().children() if each.pid not in processes]
    psutil.wait_procs(others, timeout=30)


def read(files: ImageFiles, order: torch.Tensor, batch_size: int) -> torch.Tensor:
    return torch.cat(list(files.read(order, batch_size)))


pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12, later


def test_all_parts_are_read_by_the_same_processes(files: ImageFiles) -> None:
    before, order = children(), torch.randperm(12, generator=torch.Generator().manual_seed(0))
    few, expected = files.take(order[:5]), read(files.take(order), torch.arange(12), 12)
    assert children() == before  # a single batch needs none
    assert torch.equal(read(files, order, 4), expected)
    own = children() - before
    assert len(own) == 2
    for batch_size in (2, 3):
        assert torch.equal(read(few, torch.arange(5), batch_size), expected[:5])
        assert torch.equal(read(files.sent(), order, batch_size), expected)
    assert children() - before == own


def test_a_reading_within_another_has_processes_of_its_own(files: ImageFiles) -> None:
    before, order = children(), torch.arange(12)
    expected = read(files, order, 12)
    for _ in range(2):
        outer = []
        for batch in files.read(order, 4):
            outer.append(batch)
            assert torch.equal(read(files, order, 3), expected)
        assert torch.equal(torch.cat(outer), expected)
    assert len(children() - before) == 4


def test_what_was_left_early_is_not_read_by_the_next(files: ImageFiles) -> None:
    order = torch.arange(12)
    expected = read(files, order, 12)
    for _ in range(2):
        assert torch.equal(next(files.read(order.flip(0), 2)), expected.flip(0)[:2])
        assert torch.equal(read(files, order, 5), expected)


def test_processes_end_with_what_they_read_for(files: ImageFiles) -> None:
    before = children()
    read(files, torch.arange(12), 4)
    files.processes.close()
    wait_for_all_but(before)
    assert children() == before
    read(files, torch.arange(12), 4)
    assert len(children() - before) == 2
    object.__setattr__(files, "processes", None)
    wait_for_all_but(before)
    assert children() == before


def test_processes_end_with_the_process_that_they_read_for(
    files: ImageFiles, tmp_path: Path
) -> None:
    (tmp_path / "files").write_bytes(pickle.dumps(files))
    code = """
import pickle, sys, time
import torch

files = pickle.loads(open(sys.argv[1], "rb").read())
next(files.read(torch.arange(12), 2))
print("reading", flush=True)
time.sleep(600)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "files")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"reading\n"
        readers = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGKILL)
    assert len(readers) >= 2
    assert psutil.wait_procs(readers, timeout=60)[1] == []


class Numbers(Dataset[int]):
    def __getitem__(self, request: int) -> int:
        if request == 3:
            raise RuntimeError("not an answer")
        return 2 * request


def test_processes_that_failed_are_not_asked_again() -> None:
    processes = ReadingProcesses(Numbers())

    def answers(*requests: int) -> Iterator[int]:
        return processes.answers(requests, 1, pinned=False)

    with pytest.raises(RuntimeError, match="not an answer"):
        list(answers(1, 2, 3, 4))
    assert list(answers(1, 2, 4)) == [2, 4, 8]


# ---- minibatches that are only looked at


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        *(((1, 8, 8), 500), ((3, 32, 32), 500), ((3, 64, 64), 500), ((3, 96, 96), 227)),
        *(((3, 224, 224), 41), ((3, 1024, 1024), 2), ((3, 4096, 4096), 1)),
    ],
    ids=str,
)
def test_evaluation_takes_so_many_that_they_fit(
    digits: ImageData, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], expected: int
) -> None:
    sample = Sample(torch.empty(1, *shape, device="meta"))
    monkeypatch.setattr(ImageData, "sample", sample)
    assert digits.evaluation_batch == expected
    pair = Sample((sample.inputs, {"again": sample.inputs}))
    monkeypatch.setattr(ImageData, "sample", pair)
    assert digits.evaluation_batch <= max(1, expected)


def test_scores_do_not_depend_on_how_many_are_looked_at_together(digits: ImageData) -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    task = Classification()
    scores = {
        task.evaluate(network, digits.loader("validation", device=CPU, batch_size=size))
        for size in (None, 1, 7, 40)
    }
    assert len(scores) == 1
