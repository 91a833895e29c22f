"""What every regularizer is."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Regularizer(ABC):
    """A differentiable penalty on the parameters of a model."""

    @abstractmethod
    def __call__(self, model: nn.Module) -> Tensor:
        """The penalty, a scalar ≥ 0 to be added to the loss.

        Raises CriterionError if `model` lacks the parameters that the penalty is about.
        """
