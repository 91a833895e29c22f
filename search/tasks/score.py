"""What a task calls good: a named number with a direction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Direction = Literal["maximize", "minimize"]


@dataclass(frozen=True)
class Score:
    """A kind of score, such as accuracy.

    name: as people read it, such as "accuracy", "mean IoU" or "mean absolute error".
    direction: whether more or less of it is better.
    is_share: whether it lies in [0, 1] and is shown in percent.
    """

    name: str = "accuracy"
    direction: Direction = "maximize"
    is_share: bool = True

    def text(self, value: float) -> str:
        """A value as people read it, such as "98.61 %"."""
        return f"{100 * value:.2f} %" if self.is_share else f"{value:.4g}"
