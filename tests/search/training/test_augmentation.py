"""torchvision's transforms on minibatches: what they may change, and what labels follow."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2

from pruning.errors import ConfigError
from search.config.training_config import TrainingConfig
from search.data.data import Data
from search.data.datasets import ImageData
from search.data.image_sources import ImageSplit
from search.data.opened_dataset import Augmentation
from search.tasks.classification import Classification
from search.tasks.score import Score
from search.tasks.task import Task
from search.training.augmentation import target_mixing, varied
from search.training.trainer import check_recipe

TASK = Classification()


def data_of(shape: tuple[int, int, int], count: int = 12) -> ImageData:
    """Random images with the labels 0, 1, 2 …"""
    split = ImageSplit(images(count, *shape), torch.arange(count) % 10)
    names = tuple("abcdefghij")
    mean, std = (0.0,) * shape[0], (1 / 255,) * shape[0]
    return ImageData("some", split, split, split, names, mean, std, Augmentation(2, flip=False))


def transform(*, shape: tuple[int, int, int] = (3, 16, 12), **settings: Any) -> Any:
    """What is done to images beside shifting and mirroring."""
    found = varied(data_of(shape), TrainingConfig(**settings))
    assert isinstance(found, ImageData)
    return found.augmentation.transform


def images(count: int = 12, channels: int = 3, height: int = 16, width: int = 12) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (count, channels, height, width)
    return torch.randint(0, 256, shape, generator=generator).to(torch.uint8)


def seeded(function: Any, *values: Any, seed: int = 0) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return function(*values)


CHANGING = [
    {"crop": "resized"},
    {"augment": "randaugment"},
    {"augment": "randaugment", "augment_magnitude": 30},
    {"augment": "trivialaugment"},
    {"crop": "resized", "augment": "trivialaugment"},
]


def test_by_default_there_is_nothing_to_do():
    data = data_of((3, 16, 12))
    assert varied(data, TrainingConfig()).augmentation == data.augmentation
    batch = (images(), torch.arange(12))
    assert target_mixing(TrainingConfig(), TASK, 10)(batch) is batch


@pytest.mark.parametrize("settings", CHANGING)
@pytest.mark.parametrize("channels", [1, 3])
def test_images_keep_type_and_shape_and_depend_on_the_seed(settings: dict[str, Any], channels: int):
    change = transform(shape=(channels, 16, 12), **settings)
    given = images(channels=channels)
    before = given.clone()
    found = [seeded(change, given, seed=seed) for seed in (1, 1, 2)]
    assert found[0].shape == given.shape
    assert found[0].dtype == torch.uint8
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert torch.equal(given, before)


@pytest.mark.parametrize(
    ("settings", "torchvisions"),
    [
        ({"crop": "resized", "crop_area": 0.3}, v2.RandomResizedCrop((16, 12), scale=(0.3, 1.0))),
        ({"augment": "randaugment", "augment_magnitude": 12}, v2.RandAugment(magnitude=12)),
        ({"augment": "trivialaugment"}, v2.TrivialAugmentWide()),
    ],
)
def test_four_images_at_a_time_are_changed_as_torchvision_does(
    settings: dict[str, Any], torchvisions: Any
):
    def four_by_four(given: Tensor) -> Tensor:
        return torch.cat([torchvisions(given[i : i + 4]) for i in range(0, len(given), 4)])

    given = images(10)
    assert torch.equal(seeded(transform(**settings), given), seeded(four_by_four, given))


def test_a_resized_crop_is_a_part_of_the_image():
    """Of a ramp from left to right, a part of the ramp, drawn out."""
    ramp = (20 * torch.arange(12)).to(torch.uint8).expand(40, 3, 16, 12).contiguous()
    found = seeded(transform(crop="resized"), ramp).int()
    assert (found.diff(dim=3) >= 0).all()
    assert (found.diff(dim=2) == 0).all()
    spans = (found[:, 0, 0, -1] - found[:, 0, 0, 0]).tolist()
    assert min(spans) < 110 < max(spans) <= 220
    assert (
        varied(data_of((3, 16, 12)), TrainingConfig(crop="resized")).augmentation.crop_padding == 0
    )


def test_all_of_a_square_image_stays_if_no_less_may():
    given = images(height=8, width=8)
    found = seeded(transform(crop="resized", crop_area=1.0, shape=(3, 8, 8)), given)
    assert torch.equal(found, given)


@pytest.mark.parametrize("settings", CHANGING)
def test_an_epoch_of_changed_images_depends_on_the_generator_alone(settings: dict[str, Any]):
    loader = varied(data_of((3, 16, 12)), TrainingConfig(**settings)).loader(
        "train", batch_size=5, device=torch.device("cpu")
    )

    def epoch(seed: int, *, augmented: bool = True) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.cat([x for x, _ in loader.shuffled(generator, augmented=augmented)])

    torch.manual_seed(1)
    first, state = epoch(7), torch.get_rng_state()
    torch.manual_seed(2)
    second = epoch(7)
    torch.manual_seed(1)
    assert torch.equal(first, second)
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(first, epoch(8))
    plain = epoch(7, augmented=False).sort(0).values
    assert torch.equal(plain, images(12).float().sort(0).values)


def mixed(seed: int, **settings: Any) -> tuple[Tensor, Tensor]:
    """Six images, image i all i + 1 with label i, and their mixture with the one before each."""
    given = torch.arange(1.0, 7).view(6, 1, 1, 1).expand(6, 1, 16, 12).clone()
    mix = target_mixing(TrainingConfig(**settings), TASK, 10)
    found, shares = seeded(mix, (given, torch.arange(6)), seed=seed)
    assert shares.shape == (6, 10)
    assert shares.dtype == torch.float32
    assert shares.sum(1).tolist() == pytest.approx([1] * 6)
    return found, shares


@pytest.mark.parametrize("seed", range(5))
def test_mixup_blends_an_image_and_its_label_alike(seed: int):
    found, shares = mixed(seed, mixup=0.8)
    for i in range(6):
        own, before = i + 1, (i - 1) % 6 + 1
        share = shares[i, i].item()
        assert shares[i, (i - 1) % 6].item() == pytest.approx(1 - share, abs=1e-6)
        expected = torch.full((1, 16, 12), share * own + (1 - share) * before)
        assert torch.allclose(found[i], expected, atol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_the_label_of_cutmix_is_the_share_of_pixels(seed: int):
    found, shares = mixed(seed, cutmix=1.0)
    for i in range(6):
        own, before = i + 1, (i - 1) % 6 + 1
        assert set(found[i].unique().tolist()) <= {float(own), float(before)}
        assert (found[i] == own).float().mean().item() == pytest.approx(shares[i, i].item())


def test_of_mixup_and_cutmix_a_step_does_one():
    """A blend has values of neither image; a patch has both of them."""
    kinds = set()
    for seed in range(20):
        found, _ = mixed(seed, mixup=0.8, cutmix=1.0)
        kinds.add(found[1].unique().tolist() != [1.0, 2.0] and len(found[1].unique()) == 1)
    assert kinds == {True, False}


def test_smoothed_labels_have_the_loss_of_torchs_label_smoothing():
    mix = target_mixing(TrainingConfig(label_smoothing=0.3), TASK, 10)
    inputs, targets = images(), torch.arange(12) % 10
    same, shares = mix((inputs, targets))
    assert same is inputs
    outputs = torch.randn(12, 10, generator=torch.Generator().manual_seed(0))
    expected = F.cross_entropy(outputs, targets, label_smoothing=0.3)
    assert TASK.loss(outputs, shares).item() == pytest.approx(expected.item(), rel=1e-6)


def test_mixed_labels_are_smoothed_after_mixing():
    settings = {"mixup": 0.8, "label_smoothing": 0.3}
    (_, plain), (_, smooth) = mixed(3, mixup=0.8), mixed(3, **settings)
    assert torch.allclose(smooth, 0.7 * plain + 0.3 / 10)


def test_channels_that_an_augmentation_does_not_know_are_refused():
    message = r"^augment must be none for images of 2 channels: randaugment changes grey and col"
    with pytest.raises(ConfigError, match=message):
        transform(shape=(2, 16, 12), augment="randaugment")
    assert transform(shape=(2, 16, 12), crop="resized") is not None


class OwnData(Data):
    """Something that is no images."""

    name, classes = "own", ("a", "b")
    count = sample = num_bytes = loader = few = None


class Distance(Task):
    """A task without classes."""

    score = Score("mean distance", "minimize", is_share=False)
    loss = metric = None


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"crop": "resized"}, "crop"),
        ({"augment": "trivialaugment"}, "augment"),
    ],
)
def test_images_are_not_changed_for_people_who_have_a_dataset(settings: Any, name: str):
    message = rf"^{name} must be \w+ for own, whose Dataset has transforms of its own, got '\w+'$"
    with pytest.raises(ConfigError, match=message):
        check_recipe(TrainingConfig(**settings), OwnData(), TASK)
    assert varied(data := OwnData(), TrainingConfig()) is data


@pytest.mark.parametrize("name", ["label_smoothing", "mixup", "cutmix"])
def test_targets_that_are_no_classes_are_not_mixed(name: str):
    message = rf"^{name} must be 0 where targets are no classes \(.* mean distance\), got 0.1$"
    with pytest.raises(ConfigError, match=message):
        check_recipe(TrainingConfig(**{name: 0.1}), data_of((1, 8, 8)), Distance())


@pytest.mark.parametrize("teacher", [{"distill": True}, {"distill_from": "somewhere"}])
def test_outputs_that_are_no_classes_are_not_imitated(teacher: Any):
    message = "^distillation softens outputs .* a task whose score is mean distance has none, leave"
    with pytest.raises(ConfigError, match=message):
        check_recipe(TrainingConfig(**teacher), data_of((1, 8, 8)), Distance())
    check_recipe(TrainingConfig(**teacher), data_of((1, 8, 8)), TASK)
