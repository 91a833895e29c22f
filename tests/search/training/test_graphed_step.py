"""When a step is run as a graph, what keeps it from that, and that training is the same."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from search.config.data_config import DataConfig
from search.config.training_config import TrainingConfig
from search.data.datasets import ImageData, load
from search.models import digits_vgg
from search.tasks.classification import Classification
from search.training import graphed_step
from search.training.graphed_step import Capture, CudaCapture, GraphedStep, tensors_of
from search.training.optimizers import Stepper
from search.training.trainer import Trainer, train

CPU = torch.device("cpu")


class Recorder(Capture):
    """Stands for a GPU: what is recorded is the step itself, on the minibatch's own place.

    spoil: is called after each replay, to be a graph that does something else.
    """

    def __init__(self, spoil: Callable[[], None] = lambda: None, error: str = "") -> None:
        self.spoil, self.error = spoil, error
        self.num_warm, self.num_recorded, self.num_replayed = 0, 0, 0

    def warm_up(self, step: Callable[[], Tensor]) -> Tensor:
        self.num_warm += 1
        return step()

    def record(self, step: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        if self.error:
            raise RuntimeError(self.error)
        self.num_recorded += 1
        result = torch.zeros(2)

        def replay() -> None:
            self.num_replayed += 1
            result.copy_(step())
            self.spoil()

        return replay, result

    def random_state(self) -> Tensor:
        return torch.get_rng_state()

    def set_random_state(self, state: Tensor) -> None:
        torch.set_rng_state(state)


class Learner:
    """A network with batch norm and momentum that learns by whole steps."""

    def __init__(self, capture: Capture | None = None, why_not: str = "", **settings: Any) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))
        self.stepper = Stepper(self.model, TrainingConfig(**settings))
        self.stepper.set_rate(0.05)
        self.step: Any = self.run
        if capture is not None:
            self.step = GraphedStep(
                self.run,
                state=lambda: [*tensors_of(self.model), *self.stepper.tensors()],
                capture=capture,
                why_not=why_not,
            )

    def run(self, batch: Any) -> Tensor:
        inputs, targets = batch
        loss = nn.functional.cross_entropy(self.model(inputs), targets)
        self.stepper.backward(loss)
        penalty = 1e-3 * self.model[1].weight.abs().sum()
        self.stepper.step(penalty)
        return torch.stack([loss, penalty]).detach()


def minibatches(*sizes: int) -> list[tuple[Tensor, Tensor]]:
    source = torch.Generator().manual_seed(1)
    return [
        (torch.randn(n, 4, generator=source), torch.randint(3, (n,), generator=source))
        for n in sizes
    ]


def same(one: nn.Module, two: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_training_by_graphs_is_the_same_to_the_bit(optimizer: str):
    """Warming up, capturing and comparing change neither weights nor momentum nor statistics."""
    capture = Recorder()
    settings = {"optimizer": optimizer, "learning_rate": 0.05}
    plain, graphed = Learner(**settings), Learner(capture, **settings)
    for batch in minibatches(8, 8, 8, 8, 8, 8, 5, 8, 8, 5):
        assert torch.equal(plain.step(batch), graphed.step(batch))
    assert same(plain.model, graphed.model)
    assert graphed.step.why_not == ""
    assert (capture.num_warm, capture.num_recorded, capture.num_replayed) == (5, 1, 1 + 4)


def test_short_last_minibatches_are_run_as_they_are():
    capture = Recorder()
    learner = Learner(capture)
    for batch in minibatches(*[8, 8, 8, 8, 5] * 6):
        learner.step(batch)
    assert capture.num_recorded == 1
    assert capture.num_replayed == 1 + 4 * 5


def test_sizes_that_change_all_the_time_are_never_captured():
    capture = Recorder()
    learner = Learner(capture)
    for batch in minibatches(*[8, 7, 6] * 5):
        learner.step(batch)
    assert (capture.num_recorded, learner.step.why_not) == (0, "")


def test_only_so_many_shapes_are_kept():
    capture = Recorder()
    learner = Learner(capture)
    for size in range(3, 10):
        for batch in minibatches(*[size] * 5):
            learner.step(batch)
    assert capture.num_recorded == graphed_step._MOST_SHAPES


def test_a_graph_that_does_something_else_is_given_up():
    plain = Learner()
    spoiled = Learner(capture := Recorder(lambda: spoiled.model[0].bias.data.add_(0.3)))
    for batch in minibatches(*[8] * 7):
        assert torch.equal(plain.step(batch), spoiled.step(batch))
    assert spoiled.step.why_not == "a captured step does not do what the step does"
    assert same(plain.model, spoiled.model)
    assert capture.num_replayed == 1


def test_what_cannot_be_captured_says_why():
    plain, learner = Learner(), Learner(Recorder(error="not while capturing\nand more"))
    for batch in minibatches(*[8] * 6):
        assert torch.equal(plain.step(batch), learner.step(batch))
    assert learner.step.why_not == "it cannot be captured: not while capturing"
    assert same(plain.model, learner.model)


@pytest.mark.parametrize("draw", [lambda: torch.rand(1), random.random])
def test_random_numbers_of_the_host_are_not_frozen(draw: Callable[[], object]):
    capture = Recorder()
    learner = Learner(capture)
    forward = learner.model.forward
    learner.model.forward = lambda x: (draw(), forward(x))[1]
    for batch in minibatches(*[8] * 6):
        learner.step(batch)
    assert learner.step.why_not == "the step draws random numbers on the host"
    assert capture.num_recorded == 0


def test_minibatches_with_more_than_tensors_are_run_as_they_are():
    learner = Learner(capture := Recorder())
    learner.step.why_not = ""
    learner.step._step = lambda batch: torch.zeros(2)
    learner.step({"inputs": torch.zeros(2), "names": ["a", "b"]})
    assert learner.step.why_not == "minibatches hold more than tensors of the device"
    assert capture.num_warm == 0


def test_a_reason_known_before_is_kept():
    learner = Learner(capture := Recorder(), why_not="of its own")
    for batch in minibatches(*[8] * 6):
        learner.step(batch)
    assert (learner.step.why_not, capture.num_warm) == ("of its own", 0)


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return load(DataConfig(limit_train=300), seed=0)


class OwnStep(Classification.__base__):  # type: ignore[misc,name-defined]
    """A step of a task's own."""

    score = Classification.score
    takes_class_shares = True
    loss, metric = Classification.loss, Classification.metric

    def training_step(self, model: nn.Module, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1])


def test_a_trainer_says_why_it_captures_nothing(digits: ImageData):
    trainer = Trainer(
        digits_vgg(),
        digits,
        task=OwnStep(),
        epochs=1,
        config=TrainingConfig(),
        seed=0,
        device=CPU,
    )
    assert trainer._not_captured() == "OwnStep has a training step of its own"
    assert trainer.step_note == ""  # on a CPU there is nothing to capture


RECIPES: list[dict[str, Any]] = [
    {},
    {"optimizer": "adamw", "learning_rate": 0.01, "schedule": "one-cycle"},
    {"schedule": "cosine", "clip_norm": 1.0, "ema_decay": 0.9},
    {"label_smoothing": 0.1, "mixup": 0.2, "cutmix": 1.0},
]


@pytest.mark.parametrize("settings", RECIPES, ids=lambda settings: "-".join(settings) or "plain")
def test_any_recipe_trains_alike_by_graphs(
    digits: ImageData, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    """With the stand-in on a CPU: learning rates, averages and mixing go on around the graph."""
    config = TrainingConfig(batch_size=32, **settings)

    def trained(capture: Capture | None) -> nn.Module:
        torch.manual_seed(0)
        model = digits_vgg()
        trainer = Trainer(
            model, digits, task=Classification(), epochs=2, config=config, seed=0, device=CPU
        )
        if capture is not None:
            trainer._step = GraphedStep(
                trainer._eager_step,
                state=lambda: [*tensors_of(model), *trainer._stepper.tensors()],
                capture=capture,
            )
        while not trainer.is_finished:
            trainer.run_epoch()
        return model

    capture = Recorder()
    assert same(trained(None), trained(capture))
    assert capture.num_replayed > 5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("settings", RECIPES, ids=lambda settings: "-".join(settings) or "plain")
def test_graphs_of_a_gpu_train_as_steps_do(digits: ImageData, settings: dict[str, Any]):
    device = torch.device("cuda")
    config = TrainingConfig(batch_size=32, **settings)

    def trained(why_not: str) -> tuple[nn.Module, str]:
        torch.manual_seed(0)
        trainer = Trainer(
            digits_vgg(),
            digits,
            task=Classification(),
            epochs=2,
            config=config,
            seed=0,
            device=device,
        )
        trainer._step.why_not = why_not
        while not trainer.is_finished:
            trainer.run_epoch()
        return trainer._model, trainer.step_note

    (plain, _), (graphed, note) = trained("not now"), trained("")
    assert note == ""
    for one, two in zip(plain.parameters(), graphed.parameters(), strict=True):
        assert torch.allclose(one, two, atol=0.05 * float(one.abs().max()))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_step_that_reads_numbers_falls_back_and_trains_on(digits: ImageData):
    """Also random numbers are drawn as before after a capture that failed."""

    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Flatten(), nn.Dropout(0.1), nn.Linear(64, 10))

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x) * (1.0 if float(x.mean()) > -100 else 0.0)

    config = TrainingConfig(batch_size=32)
    report = train(
        Reads(),
        digits,
        task=Classification(),
        epochs=2,
        config=config,
        seed=0,
        device=torch.device("cuda"),
    )
    assert len(report.epochs) == 2
    assert torch.rand(3, device="cuda").shape == (3,)
    assert isinstance(CudaCapture(torch.device("cuda")).random_state(), Tensor)
