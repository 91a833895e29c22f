"""Semantic segmentation: one class for each pixel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor

from pruning.errors import ModelError
from search.data.data import Sample
from search.tasks.score import Score
from search.tasks.task import Task, require_targets, require_tensor, words_for

IGNORED = 255
"""In the targets, a pixel that counts for nothing, as in Pascal VOC."""

_AUXILIARY_WEIGHT = 0.4
"""Of the loss of auxiliary logits, as in torchvision's references/segmentation/train.py."""


@final
class Segmentation(Task):
    """Logits (N, classes, H, W) and class numbers (N, H, W): cross entropy over pixels.

    Its score is the mean over classes of intersection over union. The network may also return a
    mapping with logits as "out", and auxiliary ones as "aux", as torchvision's do. Pixels whose
    target is 255 count for nothing.
    """

    score = Score("mean IoU", sums="mean of ratios")

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        loss = _over_pixels(_logits(outputs), targets)
        if isinstance(outputs, Mapping) and "aux" in outputs:
            loss = loss + _AUXILIARY_WEIGHT * _over_pixels(outputs["aux"], targets)
        return loss

    def metric(self) -> MeanIoU:
        return MeanIoU()

    def sample_terms(self, outputs: Any, targets: Any) -> Tensor:
        """Pixels in the intersection and in the union, of each class."""
        logits = _logits(outputs)
        counts, predicted = targets != IGNORED, logits.argmax(1)
        both, either = [], []
        for number in range(logits.shape[1]):  # all classes at once would take much memory
            found, there = (predicted == number) & counts, targets == number
            both.append((found & there).sum((1, 2)))
            either.append((found | there).sum((1, 2)))
        return torch.stack([*both, *either], dim=1)

    def check_outputs(self, outputs: Any, sample: Sample) -> None:
        size = (None, None) if sample.targets is None else tuple(sample.targets.shape[-2:])
        logits = outputs.get("out") if isinstance(outputs, Mapping) else outputs
        require_tensor(logits, (1, len(sample.classes) or None, *size), "logits")

    def check_targets(self, targets: Any, sample: Sample) -> None:
        num_classes = len(sample.classes) or IGNORED
        fits = isinstance(targets, Tensor) and targets.dim() == 3 and targets.dtype == torch.int64
        counted = targets[targets != IGNORED] if fits else targets
        fits = fits and bool(((counted >= 0) & (counted < num_classes)).all())
        require_targets(
            fits,
            f"int64 (batch, height, width), class numbers below {num_classes} or {IGNORED}",
            targets,
        )


class MeanIoU:
    """The mean over classes of intersection over union, of all pixels together.

    Classes that are neither there nor predicted are left out.
    """

    def __init__(self) -> None:
        self._metric: Any = None

    def update(self, outputs: Any, targets: Tensor, /) -> None:
        logits = _logits(outputs)
        if self._metric is None:
            from torchmetrics.classification import (  # noqa: PLC0415 - takes seconds
                MulticlassJaccardIndex,
            )

            self._metric = MulticlassJaccardIndex(logits.shape[1], ignore_index=IGNORED)
            self._metric.to(logits.device)
        self._metric.update(logits.argmax(1), targets)

    def compute(self) -> float:
        return float(self._metric.compute())


def _logits(outputs: Any) -> Tensor:
    logits = outputs.get("out") if isinstance(outputs, Mapping) else outputs
    if not isinstance(logits, Tensor):
        raise ModelError(
            'the network must return logits, or a mapping with them as "out", in training mode '
            f"too, got {words_for(outputs)}"
        )
    return logits


def _over_pixels(logits: Tensor, targets: Tensor) -> Tensor:
    """The mean over pixels that count; zero where none does."""
    total = F.cross_entropy(logits.float(), targets, ignore_index=IGNORED, reduction="sum")
    return total / (targets != IGNORED).sum().clamp(min=1)
