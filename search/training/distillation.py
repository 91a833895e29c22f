"""Distillation: a network learns from the softened outputs of a trained one.

Source: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", §2; what Crowley
et al., "Pruning neural networks: is it time to nip it in the bud?", §4, suggest between pruned
architectures and the original one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from copycat.architecture import load, read
from copycat.input_shape import InputShape, shape_text
from pruning.cost import called
from pruning.errors import ConfigError
from search.config.training_config import TrainingConfig
from search.data.data import Batch
from search.tasks.task import Metric, Task


@final
class Distillation(Task):
    """Another task whose network learns from the outputs of a trained one, too.

    With outputs z of the network, v of the teacher, both (n, classes), and temperature T:
    (1 − weight) · loss(z, targets) + weight · T² · KL(softmax(v/T) ‖ softmax(z/T)),
    means over the n samples. T² keeps the gradient's size as T grows (Hinton et al., §2).
    The teacher is on the device of the samples, in eval mode, and never changed.
    """

    def __init__(
        self, task: Task, teacher: nn.Module, *, temperature: float, weight: float
    ) -> None:
        self.score, self._task, self._teacher = task.score, task, teacher
        self.takes_class_shares = task.takes_class_shares
        self._temperature, self._weight = temperature, weight

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        return self._task.loss(outputs, targets)

    def metric(self) -> Metric:
        return self._task.metric()

    def training_step(self, model: nn.Module, batch: Batch) -> Tensor:
        inputs, targets = batch
        outputs = called(model, inputs).float()
        with torch.no_grad():
            imitated = called(self._teacher, inputs).float()
        imitation = F.kl_div(
            F.log_softmax(outputs / self._temperature, 1),
            F.log_softmax(imitated / self._temperature, 1),
            reduction="batchmean",
            log_target=True,
        )
        softened = self._weight * self._temperature**2 * imitation
        return (1 - self._weight) * self._task.loss(outputs, targets) + softened


def distilled(
    task: Task,
    config: TrainingConfig,
    device: torch.device,
    *,
    input_shape: InputShape,
    classes: Sequence[str],
    trust: Sequence[str],
) -> Task:
    """The task with the teacher that `config` names, or as it is where there is none.

    input_shape: (C, H, W) of an image, or of what else is read.
    trust: modules that may make the teacher.
    Raises ConfigError for a teacher of other images or classes and for a task without classes,
    ArchitectureError for a folder that cannot be loaded.
    """
    if not config.distill_from:
        return task
    check_imitation(task)
    check_teacher(config.distill_from, input_shape, classes)
    teacher = load(config.distill_from, trust=trust).to(device)
    for parameter in teacher.parameters():
        parameter.requires_grad_(False)
    return Distillation(
        task, teacher, temperature=config.distill_temperature, weight=config.distill_weight
    )


def check_imitation(task: Task) -> None:
    """Raise ConfigError for a task whose outputs are no logits of classes."""
    if not task.takes_class_shares:
        raise ConfigError(
            f"distillation softens outputs that are logits of classes: a task whose score is "
            f"{task.score.name} has none, leave distill and distill_from out",
            field="distill",
        )


def check_teacher(path: str, input_shape: InputShape, classes: Sequence[str]) -> None:
    """Raise ConfigError unless the architecture at `path` knows these images and classes."""
    stored = read(path)
    for what, own, wanted in (
        ("inputs", shape_text(stored.input_shape), shape_text(input_shape)),
        ("classes", ", ".join(stored.classes), ", ".join(classes)),
    ):
        if own != wanted:
            raise ConfigError(
                f"distill_from must be a network for the same {what}: {path} has "
                f"{_short(own)}, the data {_short(wanted)}"
            )


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:60]}…"
