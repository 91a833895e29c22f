"""A training loop of a task's own, gone through as any other: an epoch at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Unpack

import torch
from torch import nn

from pruning.cost import in_mode
from pruning.errors import ModelError, TrainingDivergedError
from search.data.data import Data, samples_trained_on
from search.tasks.task import has_own, require_number
from search.tasks.training_context import ReportedEpoch, TrainingContext
from search.training.trainer import (
    EpochLoop,
    EpochReport,
    Trainer,
    TrainingArguments,
    seed_global_generators,
    seed_of_epoch,
    seeded,
)


def trainer_for(model: nn.Module, data: Data, **arguments: Unpack[TrainingArguments]) -> EpochLoop:
    """What trains `model`: the task's own loop, where it has one, or a Trainer."""
    make = OwnLoop if has_own(arguments["task"], "train") else Trainer
    return make(model, data, **arguments)


class OwnLoop(EpochLoop):
    """One training by `Task.train`."""

    def __init__(
        self, model: nn.Module, data: Data, **arguments: Unpack[TrainingArguments]
    ) -> None:
        super().__init__(model, data, **arguments)
        self._context: TrainingContext | None = None
        self._saved: dict[str, Any] | None = None

    def run(self, stage: str, on_epoch: Callable[[EpochReport], None]) -> None:
        """As `EpochLoop.run`; raises ModelError unless every epoch is reported."""
        if self.is_finished:
            return

        def report(epoch: ReportedEpoch) -> None:
            self._take(epoch)
            with self.watch.during(None):
                on_epoch(self.reports[-1])
            self._begin_epoch()

        self._context = context = TrainingContext(
            stage=stage,
            epochs=self._epochs,
            epochs_done=len(self.reports),
            settings=self._config,
            seed=self._seed,
            device=self._device,
            data=self._data,
            penalty=self._penalty or _none,
            after_step=self._after_step or _nothing,
            fetching=self.watch.fetching,
            order_of=lambda epoch: torch.Generator().manual_seed(seed_of_epoch(self._seed, epoch)),
            on_report=report,
            saved=self._saved,
        )
        with (
            seeded(seed_of_epoch(self._seed, 0), self._device),
            in_mode(self._model, training=True),
            self.watch.during("steps"),
        ):
            self._begin_epoch()
            self._task.train(self._model, context)
        if not self.is_finished:
            raise ModelError(
                f"{type(self._task).__name__}.train must report each of {self._epochs} epochs, got "
                f"{len(self.reports)}: call context.report after every epoch"
            )

    def state_dict(self) -> dict[str, Any]:
        saved = None if self._context is None else self._context.saved
        return super().state_dict() | {"saved": saved}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._saved = state["saved"]

    def _begin_epoch(self) -> None:
        seed_global_generators(seed_of_epoch(self._seed, len(self.reports)), self._device)

    def _take(self, epoch: ReportedEpoch) -> None:
        number = len(self.reports) + 1
        if number > self._epochs:
            raise ModelError(
                f"{type(self._task).__name__}.train must report {self._epochs} epochs, got more: "
                "go through context.epochs_left"
            )
        if not math.isfinite(epoch.train_loss + epoch.penalty):
            raise TrainingDivergedError(
                f"training diverged in epoch {number} of {self._epochs}: the loss is "
                f"{epoch.train_loss + epoch.penalty}"
            )
        score = epoch.validation_score
        if score is None:
            loader = self._data.loader("validation", device=self._device)
            with self.watch.during("evaluation"):
                score = self._task.evaluate(self._model.to(self._device), loader)
        seen = samples_trained_on(self._data.count("train"), self._config.batch_size)
        rate = epoch.learning_rate
        report = EpochReport(
            epoch=number,
            train_loss=float(epoch.train_loss),
            penalty=float(epoch.penalty),
            validation_score=require_number(self._task.score, score),
            learning_rate=self._config.learning_rate if rate is None else float(rate),
            images_seen=seen * number,
            seconds=self.watch.taken(),
        )
        self.reports = (*self.reports, report)
        assert self._context is not None
        self._context.epochs_done = number


def _none(model: nn.Module) -> torch.Tensor:
    return next(model.parameters()).new_zeros(())


def _nothing(model: nn.Module) -> None:
    """What follows a step where the method asks for nothing."""
