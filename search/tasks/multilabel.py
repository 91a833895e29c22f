"""Multilabel classification: any number of labels for each sample."""

from __future__ import annotations

import warnings
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor

from search.data.data import Sample
from search.tasks.score import Score
from search.tasks.task import Task, require_targets, require_tensor


@final
class Multilabel(Task):
    """Logits (N, labels) and zeros and ones (N, labels): binary cross entropy.

    Its score is the mean over labels of the average precision.
    """

    score = Score("mean average precision")

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        require_tensor(outputs, (None, *targets.shape[1:]), "logits")
        return F.binary_cross_entropy_with_logits(outputs, targets.to(outputs.dtype))

    def metric(self) -> MeanAveragePrecision:
        return MeanAveragePrecision()

    def check_outputs(self, outputs: Any, sample: Sample) -> None:
        require_tensor(outputs, (1, len(sample.classes) or None), "logits")

    def check_targets(self, targets: Any, sample: Sample) -> None:
        num_labels = len(sample.classes)
        labels = num_labels or "labels"
        fits = (
            isinstance(targets, Tensor)
            and targets.dim() == 2
            and (not num_labels or targets.shape[1] == num_labels)
            and bool(((targets == 0) | (targets == 1)).all())
        )
        require_targets(fits, f"zeros and ones (batch, {labels})", targets)


class MeanAveragePrecision:
    """The mean over labels of the area under the curve of precision and recall, exactly.

    Labels that no sample has are left out; zero where that is all of them.
    """

    def __init__(self) -> None:
        self._metric: Any = None
        self._is_there = torch.zeros((), dtype=torch.bool)

    def update(self, outputs: Tensor, targets: Tensor, /) -> None:
        if self._metric is None:
            from torchmetrics.classification import (  # noqa: PLC0415 - takes seconds
                MultilabelAveragePrecision,
            )

            self._metric = MultilabelAveragePrecision(outputs.shape[1], average="none")
            self._metric.to(outputs.device)
        # In float64, where a sigmoid is one only for logits above 36, so that few are equal.
        self._metric.update(outputs.double().sigmoid(), targets.to(torch.int64))
        self._is_there = self._is_there.to(targets.device) | targets.bool().any(0)

    def compute(self) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of labels that no sample has
            precisions = self._metric.compute()[self._is_there]
        return float(precisions.mean()) if len(precisions) else 0.0
