"""Regression: one number, or several, for each sample."""

from __future__ import annotations

from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor

from pruning.errors import ModelError
from search.data.data import Sample
from search.tasks.score import Score
from search.tasks.task import Task, require_targets, require_tensor, words_for


@final
class Regression(Task):
    """Numbers (N,) or (N, k), outputs and targets: mean squared error.

    Its score is the coefficient of determination R², the mean of those of k numbers. (N, 1) is
    the same as (N,).
    """

    score = Score("R²", is_share=False, sums="determination")
    has_classes = False

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        numbers = _rows(outputs)
        return F.mse_loss(numbers, _rows(targets, like=numbers).to(numbers.dtype))

    def metric(self) -> Determination:
        return Determination()

    def sample_terms(self, outputs: Any, targets: Any) -> Tensor:
        numbers = _rows(outputs).double()
        wanted = _rows(targets, like=numbers).double()
        return torch.cat([(numbers - wanted).square(), wanted, wanted.square()], dim=1)

    def check_outputs(self, outputs: Any, sample: Sample) -> None:
        numbers = None if sample.targets is None else _rows(sample.targets).shape[1]
        if numbers == 1 and isinstance(outputs, Tensor) and outputs.dim() == 1:
            outputs = outputs[:, None]
        require_tensor(outputs, (1, numbers), "numbers")

    def check_targets(
        self,
        targets: Any,
        sample: Sample,  # noqa: ARG002 - any numbers can be learned
    ) -> None:
        fits = isinstance(targets, Tensor) and targets.dim() in (1, 2)
        fits = fits and not targets.is_complex() and bool(targets.isfinite().all())
        require_targets(fits, "finite numbers (batch,) or (batch, numbers)", targets)


class Determination:
    """R²: 1 − Σ (target − output)² / Σ (target − mean)², the mean of those of several numbers.

    In float64; zero for targets that are all the same. torchmetrics' takes squares that sum up to
    less than 1e-4 for zero, which gives small targets an R² of one.
    """

    def __init__(self) -> None:
        self._outputs: list[Tensor] = []
        self._targets: list[Tensor] = []

    def update(self, outputs: Tensor, targets: Tensor, /) -> None:
        numbers = _rows(outputs).detach().double()
        self._outputs.append(numbers)
        self._targets.append(_rows(targets, like=numbers).double())

    def compute(self) -> float:
        targets = torch.cat(self._targets)
        residual = (torch.cat(self._outputs) - targets).square().sum(0)
        total = (targets - targets.mean(0)).square().sum(0)
        scores = torch.where(total == 0, torch.zeros_like(total), 1 - residual / total)
        return float(scores.mean())


def _rows(numbers: Any, like: Tensor | None = None) -> Tensor:
    """As (N, k); ModelError for outputs that are no numbers or unlike targets."""
    if not isinstance(numbers, Tensor) or numbers.dim() not in (1, 2):
        raise ModelError(
            f"the network must return numbers (batch,) or (batch, k), got {words_for(numbers)}"
        )
    rows = numbers[:, None] if numbers.dim() == 1 else numbers
    if like is not None and rows.shape != like.shape:
        raise ModelError(
            f"the network must return a number for each target {words_for(numbers)}, got "
            f"{words_for(like)}"
        )
    return rows
