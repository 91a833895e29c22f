"""What every regularizer is."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

from torch import Tensor, nn

from pruning.errors import ConfigError


class Regularizer(ABC):
    """A differentiable penalty on the parameters of a model."""

    @abstractmethod
    def __call__(self, model: nn.Module) -> Tensor:
        """The penalty, a scalar to be added to the loss; it may be negative.

        It is on the model's device and of its type, single precision where that is half.
        Raises CriterionError if `model` lacks the parameters that the penalty is about: one
        call before training tells.
        """


def checked_strength(regularizer: str, strength: float) -> float:
    """`strength` if it is at least 0 and finite; ConfigError otherwise."""
    if not (0 <= strength < math.inf):
        raise ConfigError(f"the strength of {regularizer} must be at least 0, got {strength!r}")
    return strength
