"""The recipe in closed form, batches against a slow reference, and training that repeats."""

import math
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from pruning import to_sigmoid_batchnorm
from pruning.errors import DataError, TrainingDivergedError
from search.config.data_config import DataConfig
from search.config.training_config import TrainingConfig
from search.data.data import steps_per_epoch
from search.data.datasets import ImageData, load
from search.data.image_loader import ImageLoader, crop_and_flip
from search.data.image_sources import ImageSplit
from search.data.opened_dataset import Augmentation
from search.models import digits_vgg
from search.tasks.classification import Accuracy, Classification
from search.tasks.score import Score
from search.tasks.task import Task
from search.training import trainer
from search.training.precision import training_precision
from search.training.schedules import learning_rates, total_push
from search.training.trainer import (
    EpochReport,
    Trainer,
    train,
)

CPU = torch.device("cpu")
TASK = Classification()
PLAIN = Augmentation(0, flip=False)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class OwnLoss(Task):
    """Classification with another loss."""

    score = Score("accuracy")

    def __init__(self, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        self._loss = loss

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self._loss(outputs, targets)

    def metric(self) -> Accuracy:
        return Accuracy()


def small_network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Flatten(),
            nn.Linear(4 * 36, 10),
        )


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return load(DataConfig(limit_train=300), seed=0)


def in_memory(count: int, *, channels: int = 1, size: int = 8) -> ImageSplit:
    images = torch.randint(0, 256, (count, channels, size, size), generator=generator())
    return ImageSplit(images.to(torch.uint8), torch.arange(count))


def batches(
    split: ImageSplit,
    batch_size: int,
    augmentation: Augmentation = PLAIN,
    *,
    mean: Sequence[float] = (0.0,),
    std: float = 1 / 255,
    device: torch.device = CPU,
) -> ImageLoader:
    return ImageLoader(
        split,
        mean=mean,
        std=[std] * len(mean),
        augmentation=augmentation,
        batch_size=batch_size,
        device=device,
    )


def slow_crop_and_flip(image: Tensor, row: int, column: int, flip: bool, padding: int) -> Tensor:
    channels, height, width = image.shape
    out = torch.zeros_like(image)
    for channel in range(channels):
        for y in range(height):
            for x in range(width):
                from_y, from_x = y + row - padding, x + column - padding
                if 0 <= from_y < height and 0 <= from_x < width:
                    target = width - 1 - x if flip else x
                    out[channel, y, target] = image[channel, from_y, from_x]
    return out


@given(
    padding=st.integers(0, 3),
    channels=st.integers(1, 3),
    height=st.integers(1, 5),
    width=st.integers(1, 6),
    seed=st.integers(0, 9),
)
def test_crop_and_flip_agree_with_the_slow_way(
    padding: int, channels: int, height: int, width: int, seed: int
) -> None:
    source, count = generator(seed), 4
    images = torch.randint(0, 256, (count, channels, height, width), generator=source)
    images = images.to(torch.uint8)
    rows, columns = torch.randint(2 * padding + 1, (2, count), generator=source)
    flips = torch.rand(count, generator=source) < 0.5
    expected = [
        slow_crop_and_flip(image, int(row), int(column), bool(flip), padding)
        for image, row, column, flip in zip(images, rows, columns, flips, strict=True)
    ]
    found = crop_and_flip(images, rows, columns, flips, padding)
    assert torch.equal(found, torch.stack(expected))


def test_batches_in_order_are_normalised_and_complete() -> None:
    split = in_memory(7, channels=2)
    mean, std = (0.25, 0.5), 0.125
    parts = list(batches(split, 3, mean=mean, std=std).in_order())
    assert [len(labels) for _, labels in parts] == [3, 3, 1]
    images = torch.cat([images for images, _ in parts])
    expected = (split.images / 255 - torch.tensor(mean).view(1, 2, 1, 1)) / std
    assert torch.allclose(images, expected, atol=1e-5)
    assert images.dtype == torch.float32
    assert parts[0][0].is_contiguous(memory_format=torch.channels_last)
    assert torch.cat([labels for _, labels in parts]).tolist() == list(range(7))


def test_statistics_of_the_data_normalise_its_training_part(digits: ImageData) -> None:
    source = digits.loader("train", batch_size=50, device=CPU)
    images = torch.cat([images for images, _ in source.in_order()])
    assert images.mean().item() == pytest.approx(0, abs=1e-5)
    assert images.std(correction=0).item() == pytest.approx(1, abs=1e-5)


def test_an_epoch_is_a_permutation_and_depends_on_the_generator_alone() -> None:
    source = batches(in_memory(40), 6)

    def order(seed: int) -> list[int]:
        return [int(y) for _, labels in source.shuffled(generator(seed)) for y in labels]

    assert sorted(order(0)) == list(range(40))
    assert order(0) == order(0) != order(1)
    assert order(0) != list(range(40))


def test_shuffled_images_are_windows_of_their_own_originals() -> None:
    """Every augmented image is one of the 2 · 3 · 3 variants of the image its label names."""
    split = in_memory(60)
    variants_seen = set()
    for images, labels in batches(split, 16, Augmentation(1, flip=True)).shuffled(generator()):
        for image, label in zip(images, labels.tolist(), strict=True):
            original = split.images[label]
            matching = [
                (row, column, flip)
                for row in range(3)
                for column in range(3)
                for flip in (False, True)
                if torch.equal(
                    slow_crop_and_flip(original, row, column, flip, 1).float(), image.round()
                )
            ]
            assert len(matching) == 1
            variants_seen |= set(matching)
    assert len(variants_seen) > 12


def test_minibatches_that_are_varied_together_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where it takes fewer kernels."""

    def epoch(at_once: int) -> list[tuple[Tensor, Tensor]]:
        monkeypatch.setattr(ImageLoader, "_batches_at_once", lambda *_: at_once)
        source = batches(in_memory(40, channels=2), 6, Augmentation(1, flip=True), mean=(0.3, 0.4))
        return list(source.shuffled(generator()))

    one, several = epoch(1), epoch(3)
    assert [len(labels) for _, labels in several] == [6] * 6 + [4]
    for (images, labels), (others, other_labels) in zip(one, several, strict=True):
        assert torch.equal(images, others)
        assert torch.equal(labels, other_labels)
        assert others.is_contiguous(memory_format=torch.channels_last)


def test_digits_are_never_mirrored() -> None:
    split = in_memory(30)
    for images, labels in batches(split, 30).shuffled(generator()):
        assert torch.equal(images.round(), split.images[labels].float())


@pytest.mark.parametrize(
    ("count", "batch_size", "sizes"),
    [
        (10, 5, [5, 5]),
        (12, 5, [5, 5, 2]),
        (11, 5, [5, 5]),  # one image would be left: batch norm cannot train on it
        (3, 1, [1, 1, 1]),  # asked for
        (4, 10, [4]),
    ],
)
def test_only_a_lonely_last_image_sits_out(count: int, batch_size: int, sizes: list[int]) -> None:
    source = batches(in_memory(count), batch_size)
    found = [len(labels) for _, labels in source.shuffled(generator())]
    assert found == sizes
    assert steps_per_epoch(count, batch_size) == len(sizes)
    assert steps_per_epoch(1, 10) == 0


@pytest.mark.parametrize(
    ("epochs", "drops"),
    [
        (1, [0]),
        (2, [0, 1]),
        (3, [0, 0, 1]),
        (4, [0, 0, 1, 2]),
        (8, [0, 0, 0, 0, 1, 1, 2, 2]),
        (160, [0] * 80 + [1] * 40 + [2] * 40),
    ],
)
def test_learning_rate_falls_at_half_and_three_quarters(epochs: int, drops: list[int]) -> None:
    config = TrainingConfig(learning_rate=0.1)
    found = learning_rates(config, epochs, 1).tolist()
    assert found == pytest.approx([0.1 * 10**-drop for drop in drops])


@pytest.mark.parametrize(
    ("epochs", "drops"),
    [
        (1, [0]),
        (2, [0, 1]),
        (10, [0, 0, 0, 1, 1, 1, 2, 2, 2, 3]),
        (200, [0] * 60 + [1] * 60 + [2] * 60 + [3] * 20),
        (400, [0] * 120 + [1] * 120 + [2] * 120 + [3] * 40),
    ],
)
def test_the_schedule_of_copycat_networks_falls_by_five_every_60_of_200_epochs(
    epochs: int, drops: list[int]
) -> None:
    config = TrainingConfig(learning_rate=0.1, schedule="copycat")
    found = learning_rates(config, epochs, 1).tolist()
    assert found == pytest.approx([0.1 * 0.2**drop for drop in drops])
    if epochs >= 10:
        assert min(found) == pytest.approx(8e-4)  # what the paper fine-tunes with


def test_a_constant_rate_stays_as_it_is() -> None:
    config = TrainingConfig(learning_rate=0.03, schedule="constant")
    assert learning_rates(config, 5, 1).tolist() == [0.03] * 5


def test_total_push_of_the_paper_is_660_at_a_strength_of_a_thousandth() -> None:
    push = total_push(TrainingConfig(learning_rate=0.1), 160, 782)
    assert push == pytest.approx(782 * (80 * 1.0 + 40 * 0.1 + 40 * 0.01) / (1 - 0.9))
    assert 1e-3 * push == pytest.approx(660, abs=1)


def test_total_push_is_how_far_a_scale_goes_under_a_unit_gradient(digits: ImageData) -> None:
    """Scales that only the penalty moves go strength · total_push, but for momentum's start.

    The velocity of a constant gradient builds up as 1 − 0.9ⁿ; summed, what is missing from
    Nesterov's steps is lr_σ · 0.9² / (1 − 0.9)².
    """
    scales = to_sigmoid_batchnorm(nn.BatchNorm2d(3))

    class Indifferent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = scales
            self.logits = nn.Parameter(torch.zeros(1, 10))

        def forward(self, images: Tensor) -> Tensor:
            return self.logits.expand(len(images), -1)

    config = TrainingConfig(learning_rate=0.1, batch_size=8)
    before = scales.weight.detach().clone()
    train(
        Indifferent(),
        digits,
        task=TASK,
        epochs=12,
        config=config,
        seed=0,
        device=CPU,
        penalty=lambda model: 1e-3 * model.norm.weight.sum(),
    )
    push = total_push(config, 12, steps_per_epoch(len(digits.train), 8))
    missing = 10 * 0.1 * 0.9**2 / (1 - 0.9) ** 2
    moved = before - scales.weight.detach()
    assert moved.tolist() == pytest.approx([1e-3 * (push - missing)] * 3, rel=1e-3)


def test_one_step_is_nesterov_sgd_with_two_kinds_of_parameters() -> None:
    """Against the update written out: d = g + wd·p, v = d, p ← p − lr·(d + 0.9·v)."""
    split = in_memory(4)
    split = ImageSplit(split.images, split.labels % 10)
    data = ImageData(
        "four", split, split, split, ("",) * 10, (0.5,), (0.5,), Augmentation(0, flip=False)
    )
    model = to_sigmoid_batchnorm(small_network())
    model[3] = nn.Identity()
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    loss = (
        F.cross_entropy(model(((split.images / 255) - 0.5) / 0.5), split.labels)
        + 0.01 * model[1].weight.square().sum()
    )
    loss.backward()
    config = TrainingConfig(batch_size=4, learning_rate=0.05, weight_decay=0.1)
    expected = {}
    for name, parameter in model.named_parameters():
        is_scale = name == "1.weight"
        step = parameter.grad + (0 if is_scale else 0.1) * start[name]
        expected[name] = start[name] - (0.5 if is_scale else 0.05) * 1.9 * step
    train(
        model,
        data,
        task=TASK,
        epochs=1,
        config=config,
        seed=0,
        device=CPU,
        penalty=lambda model: 0.01 * model[1].weight.square().sum(),
    )
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter, expected[name], atol=1e-5), name


@pytest.mark.parametrize("nesterov", [True, False])
def test_momentum_is_nesterovs_or_the_classical_one(nesterov: bool) -> None:
    """A gradient of one for two steps: velocities 1 and 1.9; Nesterov's look one step ahead."""
    split = in_memory(2)
    split = ImageSplit(split.images, split.labels)
    data = ImageData(
        "two", split, split, split, ("",) * 10, (0.5,), (0.5,), Augmentation(0, flip=False)
    )

    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.logits = nn.Parameter(torch.zeros(10))

        def forward(self, images: Tensor) -> Tensor:
            return self.logits.expand(len(images), -1)

    model = Constant()
    config = TrainingConfig(
        batch_size=2, learning_rate=0.5, weight_decay=0, nesterov=nesterov, schedule="copycat"
    )
    trainer = Trainer(
        model,
        data,
        task=OwnLoss(lambda logits, labels: logits.mean(0).sum()),
        epochs=2,
        config=config,
        seed=0,
        device=CPU,
    )
    trainer.run_epoch()
    trainer.run_epoch()
    moves = (1.9, 0.9 * 1.9 + 1) if nesterov else (1.0, 1.9)
    expected = -(0.5 * moves[0] + 0.1 * moves[1])
    assert model.logits.tolist() == pytest.approx([expected] * 10)


def test_the_loss_is_that_of_the_task(digits: ImageData) -> None:
    def report(task: Task) -> EpochReport:
        config = TrainingConfig(learning_rate=1e-9)
        trainer = Trainer(
            small_network(), digits, task=task, epochs=1, config=config, seed=0, device=CPU
        )
        return trainer.run_epoch()

    assert report(OwnLoss(F.cross_entropy)) == report(TASK)
    doubled = report(OwnLoss(lambda z, y: 2 * F.cross_entropy(z, y)))
    assert doubled.train_loss == pytest.approx(2 * report(TASK).train_loss)


def test_training_learns_and_reports_every_epoch(digits: ImageData) -> None:
    torch.manual_seed(0)
    model = digits_vgg()
    seen: list[EpochReport] = []
    config = TrainingConfig(batch_size=32)
    report = train(
        model, digits, task=TASK, epochs=8, config=config, seed=0, device=CPU, on_epoch=seen.append
    )
    assert report.epochs == tuple(seen)
    assert [epoch.epoch for epoch in seen] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [epoch.images_seen for epoch in seen] == [240 * n for n in range(1, 9)]
    assert [epoch.learning_rate for epoch in seen] == pytest.approx(
        [0.1] * 4 + [0.01] * 2 + [0.001] * 2
    )
    assert seen[-1].train_loss < 0.5 * seen[0].train_loss
    assert report.validation_score > 0.8
    assert report.images_seen == 8 * 240
    assert report.seconds > 0
    again = TASK.evaluate(model, digits.loader("validation", device=CPU))
    assert again == report.validation_score


def test_equal_seeds_train_equal_networks_and_leave_no_trace(digits: ImageData) -> None:
    def trained(seed: int) -> tuple[list[Tensor], trainer.TrainingReport]:
        model = small_network()
        report = train(
            model, digits, task=TASK, epochs=2, config=TrainingConfig(), seed=seed, device=CPU
        )
        return list(model.state_dict().values()), report

    before = torch.get_rng_state()
    first, first_report = trained(1)
    torch.manual_seed(99)  # whatever the caller draws must not matter
    second, second_report = trained(1)
    other, _ = trained(2)
    torch.set_rng_state(before)
    trained(1)
    assert all(map(torch.equal, first, second))
    assert first_report == second_report
    assert not all(map(torch.equal, first, other))
    assert torch.equal(torch.get_rng_state(), before)


def test_every_epoch_has_an_order_of_its_own(digits: ImageData) -> None:
    first_images: list[float] = []

    class Watched(nn.Linear):
        def forward(self, images: Tensor) -> Tensor:
            if self.training:
                first_images.append(images[0].sum().item())
            return super().forward(images.flatten(1))

    config = TrainingConfig(batch_size=240)  # one step an epoch
    train(Watched(64, 10), digits, task=TASK, epochs=5, config=config, seed=0, device=CPU)
    assert len(set(first_images)) == 5


def test_modes_gradients_and_layout_are_as_before(digits: ImageData) -> None:
    model = small_network()
    model.train()
    model[1].eval()
    train(model, digits, task=TASK, epochs=1, config=TrainingConfig(), seed=0, device=CPU)
    TASK.evaluate(model, digits.loader("test", device=CPU))
    assert model.training
    assert not model[1].training
    assert model[0].training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(parameter.is_contiguous() for parameter in model.parameters())


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"optimizer": "adamw", "learning_rate": 0.01},
        {"schedule": "one-cycle"},
        {"schedule": "cosine", "warmup_epochs": 1},
        {"schedule": "step", "clip_norm": 0.5},
        {"ema_decay": 0.9},
        {"label_smoothing": 0.1, "mixup": 0.4, "cutmix": 1.0},
        {"crop": "resized", "augment": "randaugment"},
        {"augment": "trivialaugment"},
        {
            **{"optimizer": "adamw", "learning_rate": 0.01, "schedule": "one-cycle"},
            **{"ema_decay": 0.9, "clip_norm": 1.0, "mixup": 0.4, "augment": "randaugment"},
        },
    ],
    ids=lambda settings: "-".join(map(str, settings)) or "default",
)
def test_training_can_stop_and_go_on_elsewhere(
    digits: ImageData, tmp_path: Path, settings: dict[str, Any]
) -> None:
    """To the bit, by every recipe, with a penalty, whatever is drawn elsewhere meanwhile."""

    def trainer(model: nn.Module) -> Trainer:
        return Trainer(
            model,
            digits,
            task=TASK,
            epochs=4,
            config=TrainingConfig(batch_size=16, **settings),
            seed=3,
            device=CPU,
            penalty=lambda network: 1e-3 * network[1].weight.square().sum(),
        )

    def new(seed: int = 0) -> nn.Module:
        return to_sigmoid_batchnorm(small_network(seed), seed=seed)

    straight = trainer(whole := new())
    while not straight.is_finished:
        straight.run_epoch()

    interrupted = trainer(new())
    interrupted.run_epoch()
    interrupted.run_epoch()
    torch.save(interrupted.state_dict(), tmp_path / "state.pt")
    resumed = trainer(rest := new(seed=8))
    torch.rand(5)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    while not resumed.is_finished:
        resumed.run_epoch()

    assert resumed.reports == straight.reports
    assert all(map(torch.equal, whole.state_dict().values(), rest.state_dict().values()))


def steps_of(model: nn.Module, data: ImageData, epochs: int, **settings: Any) -> list[Tensor]:
    """The weights of the last layer after every step."""
    found: list[Tensor] = []
    train(
        model,
        data,
        task=TASK,
        epochs=epochs,
        config=TrainingConfig(**settings),
        seed=0,
        device=CPU,
        after_step=lambda network: found.append(network[-1].weight.detach().clone()),
    )
    return found


def test_the_average_of_the_weights_is_measured_and_left(digits: ImageData) -> None:
    """Between epochs the network has the average; steps go on from the weights themselves."""
    plain = small_network()
    first = plain[-1].weight.detach().clone()
    expected = steps_of(plain, digits, 3)
    assert torch.equal(plain[-1].weight, expected[-1])

    model = small_network()
    trainer = Trainer(
        model,
        digits,
        task=TASK,
        epochs=3,
        config=TrainingConfig(ema_decay=0.8),
        seed=0,
        device=CPU,
    )
    average, step = first, 0
    while not trainer.is_finished:
        report = trainer.run_epoch()
        for weights in expected[step : step + 4]:
            step += 1
            average = torch.lerp(weights, average, min(0.8, (1 + step) / (10 + step)))
        assert torch.allclose(model[-1].weight, average, atol=1e-6)
        assert not torch.allclose(average, expected[step - 1], atol=1e-4)
        assert TASK.evaluate(model, digits.loader("validation", device=CPU)) == (
            report.validation_score
        )
    assert step == len(expected) == 12


def test_a_reported_rate_is_that_of_the_last_step_of_its_epoch(digits: ImageData) -> None:
    config = TrainingConfig(schedule="cosine", warmup_epochs=1)
    report = train(small_network(), digits, task=TASK, epochs=3, config=config, seed=0, device=CPU)
    rates = learning_rates(config, 3, 4)
    assert [epoch.learning_rate for epoch in report.epochs] == [rates[3], rates[7], rates[11]]


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "adamw", "learning_rate": 0.01, "schedule": "one-cycle"},
        {"schedule": "cosine", "warmup_epochs": 1, "clip_norm": 1.0, "ema_decay": 0.9},
        {"label_smoothing": 0.1, "mixup": 0.2, "cutmix": 1.0, "schedule": "one-cycle"},
        {"crop": "resized", "crop_area": 0.6, "augment": "randaugment", "augment_magnitude": 3},
    ],
    ids=lambda settings: "-".join(map(str, settings)),
)
def test_a_network_learns_by_any_recipe(digits: ImageData, settings: dict[str, Any]) -> None:
    config = TrainingConfig(batch_size=16, **settings)
    torch.manual_seed(0)
    report = train(digits_vgg(), digits, task=TASK, epochs=8, config=config, seed=0, device=CPU)
    assert report.validation_score > 0.6


def test_reports_can_be_stored(digits: ImageData) -> None:
    report = train(
        small_network(), digits, task=TASK, epochs=1, config=TrainingConfig(), seed=0, device=CPU
    )
    assert pickle.loads(pickle.dumps(report)) == report


def test_penalty_is_reported_apart_from_the_loss(digits: ImageData) -> None:
    config = TrainingConfig(learning_rate=1e-9)

    def first_epoch(strength: float) -> EpochReport:
        model = small_network()
        penalty = (lambda model: strength * model[1].weight.sum()) if strength else None
        return train(
            model, digits, task=TASK, epochs=1, config=config, seed=0, device=CPU, penalty=penalty
        ).epochs[0]

    plain, penalised = first_epoch(0), first_epoch(0.5)
    assert plain.penalty == 0
    assert penalised.penalty == pytest.approx(0.5 * 4, rel=1e-5)
    assert penalised.train_loss == pytest.approx(plain.train_loss, rel=1e-5)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_stops_training(digits: ImageData, value: float) -> None:
    calls = 0

    def penalty(model: nn.Module) -> Tensor:
        nonlocal calls
        calls += 1
        return torch.tensor(value if calls == 6 else 0.0)  # in the second epoch of 4 steps

    done: list[EpochReport] = []
    with pytest.raises(TrainingDivergedError, match=f"epoch 2 of 3: the loss is {value}"):
        train(
            small_network(),
            digits,
            task=TASK,
            epochs=3,
            config=TrainingConfig(),
            seed=0,
            device=CPU,
            penalty=penalty,
            on_epoch=done.append,
        )
    assert [report.epoch for report in done] == [1]


def test_a_rate_that_is_too_high_diverges_with_advice(digits: ImageData) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Linear(64, 10))
    config = TrainingConfig(learning_rate=1e6)
    with pytest.raises(TrainingDivergedError, match="learning rate below 1e\\+06"):
        train(model, digits, task=TASK, epochs=3, config=config, seed=0, device=CPU)


def test_one_training_sample_is_not_enough() -> None:
    split = in_memory(1)
    data = ImageData(
        "one", split, split, split, ("a",), (0.5,), (0.5,), Augmentation(0, flip=False)
    )
    with pytest.raises(DataError, match="at least 2 samples, got 1"):
        train(
            small_network(), data, task=TASK, epochs=1, config=TrainingConfig(), seed=0, device=CPU
        )


def test_training_never_reads_the_test_part(digits: ImageData) -> None:
    class Untouchable:
        def __getattribute__(self, name: str) -> object:
            raise AssertionError(f"the test part was asked for {name}")

    blind = ImageData(**{**vars(digits), "test": Untouchable()})
    report = train(
        small_network(), blind, task=TASK, epochs=1, config=TrainingConfig(), seed=0, device=CPU
    )
    assert report.images_seen > 0


def test_evaluate_counts_right_answers() -> None:
    split = ImageSplit(torch.zeros(5, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 1, 2, 1]))
    always_one = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    nn.init.zeros_(always_one[1].weight)
    always_one[1].bias = nn.Parameter(torch.tensor([0.0, 1.0, 0.0]))
    for batch_size in (1, 2, 500):
        assert TASK.evaluate(always_one, batches(split, batch_size)) == 3 / 5


@pytest.mark.parametrize(
    ("amx", "size", "expected"),
    [
        (True, 32, torch.bfloat16),
        (True, 16, torch.bfloat16),
        (True, 8, torch.float32),
        (False, 32, torch.float32),
    ],
)
def test_precision_follows_the_processor_and_the_image(
    monkeypatch: pytest.MonkeyPatch, amx: bool, size: int, expected: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": amx}, raising=False)
    assert training_precision(CPU, torch.zeros(1, 3, size, size)) == expected


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        ("AVX512_CORE_BF16", torch.float32),
        ("AVX2", torch.float32),
        ("AVX512_CORE_AMX", torch.bfloat16),
        ("ALL", torch.bfloat16),
    ],
)
def test_precision_follows_what_onednn_is_held_to(
    monkeypatch: pytest.MonkeyPatch, most: str, expected: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", most)
    assert training_precision(CPU, torch.zeros(1, 3, 32, 32)) == expected


def test_precision_is_float32_where_torch_cannot_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert training_precision(CPU, torch.zeros(1, 3, 32, 32)) == torch.float32


def test_bfloat16_training_learns_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Autocast covers the network only: weights and the loss stay float32."""
    monkeypatch.setattr(trainer, "training_precision", lambda *_: torch.bfloat16)
    data = load(DataConfig(limit_train=300), seed=0)
    dtypes = set()

    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = to_sigmoid_batchnorm(small_network())

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.net(images)
            dtypes.add((self.training, logits.dtype))
            return logits

    model = Watched()
    report = train(model, data, task=TASK, epochs=8, config=TrainingConfig(), seed=0, device=CPU)
    assert dtypes == {(True, torch.bfloat16), (False, torch.float32)}
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert report.validation_score > 0.6


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_training_on_a_gpu_learns_from_the_same_batches(digits: ImageData) -> None:
    device = torch.device("cuda")
    plan = Augmentation(1, flip=True)
    pairs = zip(
        batches(in_memory(50), 8, plan).shuffled(generator()),
        batches(in_memory(50), 8, plan, device=device).shuffled(generator()),
        strict=True,
    )
    for (images, labels), (on_device, labels_on_device) in pairs:
        assert torch.allclose(images, on_device.cpu(), atol=1e-4)
        assert torch.equal(labels, labels_on_device.cpu())
    report = train(
        digits_vgg(),
        digits,
        task=TASK,
        epochs=8,
        config=TrainingConfig(batch_size=32),
        seed=0,
        device=device,
    )
    assert report.validation_score > 0.8


def test_no_two_seeds_and_epochs_draw_alike():
    """A seed of more than 32 bits is no other seed in a later epoch."""
    pairs = [(seed + (high << 32), e) for seed in (0, 3) for high in range(4) for e in range(4)]
    assert len({trainer.seed_of_epoch(*pair) for pair in pairs}) == len(pairs)
