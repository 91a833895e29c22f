"""Distillation: a network learns from the softened outputs of a trained one.

Source: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", §2; what Crowley
et al., "Pruning neural networks: is it time to nip it in the bud?", §4, suggest between pruned
architectures and the original one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from copycat.architecture import load, read
from copycat.input_shape import InputShape, shape_text
from pruning.errors import ConfigError
from search.config.training_config import TrainingConfig
from search.training.trainer import training_precision


@dataclass(frozen=True)
class Distillation:
    """An objective of training: labels, and the outputs of `teacher`, a trained network.

    With outputs z of the network, v of the teacher, both (n, classes), and temperature T:
    (1 − weight) · cross_entropy(z, labels) + weight · T² · KL(softmax(v/T) ‖ softmax(z/T)),
    means over the n images. T² keeps the gradient's size as T grows (Hinton et al., §2).
    The teacher is on the device of the images, in eval mode, and never changed.
    """

    teacher: nn.Module
    temperature: float
    weight: float

    def __call__(self, images: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of a minibatch, a scalar."""
        precision = training_precision(images.device, images.shape[1:])
        with (
            torch.no_grad(),
            torch.autocast(images.device.type, precision, enabled=precision != torch.float32),
        ):
            targets = self.teacher(images).float()
        imitation = F.kl_div(
            F.log_softmax(logits / self.temperature, 1),
            F.log_softmax(targets / self.temperature, 1),
            reduction="batchmean",
            log_target=True,
        )
        softened = self.weight * self.temperature**2 * imitation
        return (1 - self.weight) * F.cross_entropy(logits, labels) + softened


def distillation(
    config: TrainingConfig,
    device: torch.device,
    *,
    input_shape: InputShape,
    classes: Sequence[str],
    trust: Sequence[str],
) -> Distillation | None:
    """The objective that `config` asks for, or None where it names no teacher.

    input_shape: (C, H, W) of an image, or of what else is read.
    trust: modules that may make the teacher.
    Raises ConfigError for a teacher of other images or classes, ArchitectureError for a folder
    that cannot be loaded.
    """
    if not config.distill_from:
        return None
    check_teacher(config.distill_from, input_shape, classes)
    teacher = load(config.distill_from, trust=trust)
    for parameter in teacher.parameters():
        parameter.requires_grad_(False)
    return Distillation(teacher.to(device), config.distill_temperature, config.distill_weight)


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
