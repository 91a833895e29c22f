"""Scores averaged over the iterations of a pruning schedule."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pruning.errors import CriterionError
from pruning.selection import KeepPlan


class ScoreAverage:
    """An exponential moving average of scores: a ← m·a + (1 − m)·s, beginning with a = s.

    momentum: m in [0, 1); 0 forgets at once.
    Source: Molchanov et al., §3.2, "Averaging importance scores over pruning iterations".
    """

    def __init__(self, momentum: float = 0.9) -> None:
        if not 0 <= momentum < 1:
            raise CriterionError(f"momentum must be in [0, 1), got {momentum}")
        self.momentum = momentum
        self._scores: dict[str, Tensor] = {}

    @property
    def scores(self) -> dict[str, Tensor]:
        """The average per channel, shape (width,) per group; empty at first."""
        return {name: values.clone() for name, values in self._scores.items()}

    def update(self, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The average with these scores in it.

        Groups are those of `scores`: new ones begin here, missing ones (of a block that was
        removed) are forgotten. Raises CriterionError if a group has changed its width.
        """
        averages = {}
        for name, new in scores.items():
            if (old := self._scores.get(name)) is None:
                averages[name] = new.clone()
                continue
            if old.shape != new.shape:
                raise CriterionError(
                    f"group {name!r} had {len(old)} scores and now has {len(new)}: "
                    "after channels have been removed call keep(plan)"
                )
            averages[name] = self.momentum * old + (1 - self.momentum) * new
        self._scores = averages
        return self.scores

    def keep(self, plan: KeepPlan) -> None:
        """Forget the channels that `plan` removes; groups that it leaves out stay whole."""
        for name, channels in plan.keep.items():
            if (old := self._scores.get(name)) is not None:
                if max(channels) >= len(old):
                    raise CriterionError(
                        f"the plan keeps channel {max(channels)} of group {name!r}, "
                        f"which has {len(old)} scores"
                    )
                self._scores[name] = old[torch.tensor(channels, device=old.device)]
