"""A training loop of a task's own: it goes on where it was left, and is held to its word."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from own_data import OwnData, own_data
from torch import Tensor, nn
from torch.nn import functional as F

from pruning.errors import ConfigError, ModelError, TrainingDivergedError
from search import Score, Task, TrainingContext
from search.config.training_config import TrainingConfig
from search.tasks.regression import Regression
from search.training.checkpoints import Checkpoints
from search.training.own_loop import OwnLoop, trainer_for
from search.training.trainer import EpochReport, Trainer, check_recipe
from search.trials.jobs import EpochRecord
from search.trials.staged_training import StagedTraining

CONFIG = TrainingConfig(batch_size=16, learning_rate=0.01)


def sums(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows of four numbers, and their sum."""
    rows = torch.randn(count, 4, generator=generator)
    return rows, rows.sum(1)


@pytest.fixture(scope="module")
def data() -> OwnData:
    return own_data(sums)


class ByAdam(Task):
    """Regression by Adam, whose state has to be kept; with noise on what is learned."""

    score = Score("closeness", is_share=False)

    def metric(self) -> object:
        return Regression().metric()

    def train(self, model: nn.Module, context: TrainingContext) -> None:
        optimizer = torch.optim.Adam(model.parameters(), lr=context.settings.learning_rate)
        if state := context.load():
            optimizer.load_state_dict(state["optimizer"])
        for _ in context.epochs_left:
            losses = []
            for rows, targets in context.batches():
                loss = F.mse_loss(model(rows)[:, 0], targets + torch.randn(len(targets)))
                optimizer.zero_grad()
                (loss + context.penalty(model)).backward()
                optimizer.step()
                context.after_step(model)
                losses.append(loss.detach())
            context.save({"optimizer": optimizer.state_dict()})
            context.report(train_loss=float(torch.stack(losses).mean()))


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 1))


CPU = torch.device("cpu")


def loop(model: nn.Module, data: OwnData, task: Task, epochs: int = 4, **more: object) -> OwnLoop:
    trainer = trainer_for(
        model, data, task=task, epochs=epochs, config=CONFIG, seed=3, device=CPU, **more
    )
    assert isinstance(trainer, OwnLoop)
    return trainer


def test_a_task_without_a_loop_of_its_own_has_the_usual_one(data: OwnData) -> None:
    trainer = trainer_for(
        network(),
        data,
        task=Regression(),
        epochs=1,
        config=CONFIG,
        seed=0,
        device=torch.device("cpu"),
    )
    assert isinstance(trainer, Trainer)


@pytest.mark.parametrize(
    "settings",
    [
        {"ema_decay": 0.9},
        {"clip_norm": 1.0},
        {"mixup": 0.2},
        {"cutmix": 1.0},
        {"label_smoothing": 0.1},
        {"crop": "resized"},
        {"augment": "randaugment"},
        {"distill": True},
        {"distill_from": "folder"},
    ],
    ids=str,
)
def test_settings_that_a_loop_of_ones_own_knows_nothing_of_are_refused(
    data: OwnData, settings: dict[str, Any]
) -> None:
    config = dataclasses.replace(CONFIG, **settings)
    (name,) = settings
    with pytest.raises(ConfigError) as caught:
        check_recipe(config, data, ByAdam())
    assert str(caught.value).startswith(f"{name} has no effect in ByAdam.train, a training loop of")
    assert caught.value.field == name
    check_recipe(dataclasses.replace(CONFIG, schedule="cosine", optimizer="adamw"), data, ByAdam())


def test_every_epoch_is_measured_and_passed_on(data: OwnData) -> None:
    model, epochs = network(), []
    before = torch.random.get_rng_state()
    loop(model, data, ByAdam()).run("training", epochs.append)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert [epoch.epoch for epoch in epochs] == [1, 2, 3, 4]
    assert [epoch.images_seen for epoch in epochs] == [64, 128, 192, 256]
    assert {epoch.learning_rate for epoch in epochs} == {0.01}
    score = ByAdam().evaluate(model, data.loader("validation", device=CPU))
    assert epochs[-1].validation_score == score
    assert score > epochs[0].validation_score


@pytest.mark.parametrize("stopped_after", [1, 3])
def test_what_was_stopped_goes_on_to_the_same_bit(
    tmp_path: Path, data: OwnData, stopped_after: int
) -> None:
    """Weights, optimizer and random numbers, over the files that a job leaves."""

    def staged(folder: str, report: Callable[[list[EpochRecord]], None]) -> dict[str, Tensor]:
        model = network()
        with StagedTraining(Checkpoints(tmp_path / folder), 4, report, 0.0) as course:
            course.train("training", loop(model, data, ByAdam()), lambda: 0.0)
        records.append([dataclasses.replace(r, time_ms=0) for r in course.records])
        return model.state_dict()

    def stop(new: list[EpochRecord]) -> None:
        if new[-1].step == stopped_after:
            raise KeyboardInterrupt

    records: list[list[EpochRecord]] = []
    whole = staged("whole", lambda _: None)
    with pytest.raises(KeyboardInterrupt):
        staged("pieces", stop)
    pieces = staged("pieces", lambda _: None)
    assert records[0] == records[1]
    for name, values in whole.items():
        assert torch.equal(values, pieces[name]), name


def test_the_stage_its_penalty_and_what_follows_a_step_are_told(data: OwnData) -> None:
    stages, steps = [], []

    class Watched(ByAdam):
        def train(self, model: nn.Module, context: TrainingContext) -> None:
            stages.append((context.stage, context.epochs, context.seed))
            super().train(model, context)

    strong, free = network(), network()
    penalised = loop(
        strong,
        data,
        Watched(),
        penalty=lambda model: 100 * sum(p.abs().sum() for p in model.parameters()),
        after_step=steps.append,
    )
    penalised.run("sparse training", lambda _: None)
    loop(free, data, ByAdam()).run("training", lambda _: None)
    assert stages == [("sparse training", 4, 3)]
    assert steps == [strong] * 16
    assert _size(strong) < _size(free)


def _size(model: nn.Module) -> float:
    return float(torch.cat([p.detach().flatten() for p in model.parameters()]).abs().sum())


class Misbehaving(Task):
    """Does with its context whatever it is asked to."""

    score = Score("closeness", is_share=False)

    def __init__(self, train: Callable[[TrainingContext], None], worth: float = 0.0) -> None:
        self._train, self._worth = train, worth

    def evaluate(self, model: nn.Module, loader: object) -> float:
        return self._worth

    def train(self, model: nn.Module, context: TrainingContext) -> None:
        self._train(context)


def too_often(context: TrainingContext) -> None:
    for _ in range(context.epochs + 1):
        context.report(train_loss=1.0)


@pytest.mark.parametrize(
    ("task", "kind", "message"),
    [
        (Misbehaving(lambda _: None), ModelError, "each of 2 epochs, got 0"),
        (Misbehaving(lambda c: c.report(train_loss=1)), ModelError, "each of 2 epochs, got 1"),
        (Misbehaving(too_often), ModelError, "report 2 epochs, got more"),
        (
            Misbehaving(lambda c: c.report(train_loss=math.nan)),
            TrainingDivergedError,
            "diverged in epoch 1 of 2: the loss is nan",
        ),
        (
            Misbehaving(lambda c: c.report(train_loss=1.0), worth=math.nan),
            TrainingDivergedError,
            "the closeness of the network is nan",
        ),
        (
            Misbehaving(lambda c: c.report(train_loss=1.0, validation_score=math.inf)),
            TrainingDivergedError,
            "the closeness of the network is inf",
        ),
    ],
)
def test_a_loop_that_does_not_keep_to_it(
    data: OwnData, task: Task, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        loop(network(), data, task, 2).run("training", lambda _: None)


def test_what_is_reported_is_what_is_known(data: OwnData) -> None:
    epochs: list[EpochReport] = []

    def told(context: TrainingContext) -> None:
        for number in context.epochs_left:
            context.report(
                train_loss=2.0, penalty=0.5, validation_score=number / 10, learning_rate=0.3
            )

    loop(network(), data, Misbehaving(told), 2).run("training", epochs.append)
    assert epochs == [
        EpochReport(1, 2.0, 0.5, 0.0, 0.3, 64),
        EpochReport(2, 2.0, 0.5, 0.1, 0.3, 128),
    ]
