"""Classification: one class for each sample."""

from __future__ import annotations

from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor

from pruning.errors import DataError, ModelError
from search.data.data import Sample
from search.tasks.score import ACCURACY
from search.tasks.task import Task, require_targets, require_tensor, words_for


@final
class Classification(Task):
    """Logits (N, classes) and class numbers (N,): cross entropy, and the share that is right."""

    score = ACCURACY
    takes_class_shares = True

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        if not isinstance(outputs, Tensor):
            raise ModelError(
                f"the network must return logits in training mode too, got {words_for(outputs)}"
            )
        return F.cross_entropy(outputs, targets)

    def metric(self) -> Accuracy:
        return Accuracy()

    def sample_terms(self, outputs: Any, targets: Any) -> Tensor:
        right: Tensor = outputs.argmax(1) == targets
        return right[:, None]

    def check_outputs(self, outputs: Any, sample: Sample) -> None:
        require_tensor(outputs, (1, len(sample.classes)), "logits")

    def check_targets(self, targets: Any, sample: Sample) -> None:
        is_whole = isinstance(targets, Tensor) and targets.dtype == torch.int64
        fits = is_whole and targets.dim() == 1
        require_targets(
            fits,
            "int64 (batch,), numbers of classes (several labels are learned by --task multilabel, "
            "other numbers by --task regression)",
            targets,
        )
        highest = len(sample.classes) - 1
        if not ((targets >= 0) & (targets <= highest)).all():
            raise DataError(
                f"expected targets to be numbers of classes from 0 to {highest}, got "
                f"{', '.join(map(str, targets.tolist()))[:60]}"
            )


class Accuracy:
    """The share of samples whose largest logit is that of their class, exactly.

    torchmetrics has it too, in float32, and takes three seconds of every worker to import.
    """

    def __init__(self) -> None:
        self._num_right: Tensor | int = 0
        self._num_samples = 0

    def update(self, outputs: Tensor, targets: Tensor, /) -> None:
        # Summed on the device: reading a number back would stall the accelerator.
        self._num_right = self._num_right + (outputs.argmax(1) == targets).sum()
        self._num_samples += len(targets)

    def compute(self) -> float:
        return int(self._num_right) / self._num_samples
