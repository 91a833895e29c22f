"""What a search tunes: λ_S and b of RNI, and the FLOPs to prune to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution

PUSH = (10.0, 1000.0)
"""Range of the total push on γ, λ_S · Σ lr_σ / (1 − momentum).

The RNI authors' settings push 660 (VGG-16) and 66 (ResNet-56); below 10 nothing recedes, and
above 1,000 everything does.
"""

SHIFT = (0.0, 3.0)
"""Range of b; the RNI paper's experiments use 0 and 3."""


@dataclass(frozen=True)
class Proposal:
    """One point of the space.

    strength: λ_S of RNI.  shift: b of RNI.  target_flops: what to prune to (fvcore).
    """

    strength: float
    shift: float
    target_flops: int


@dataclass(frozen=True)
class SearchSpace:
    """Ranges of the three dimensions: λ_S and the target log-uniform, b uniform."""

    strength: tuple[float, float]
    shift: tuple[float, float]
    target_flops: tuple[float, float]

    @classmethod
    def derive(cls, total_push: float, target_flops: tuple[float, float]) -> SearchSpace:
        """λ_S from the training schedule, so that the push stays within PUSH.

        total_push: Σ over steps of lr_σ / (1 − momentum), the push at λ_S = 1.
        """
        return cls((PUSH[0] / total_push, PUSH[1] / total_push), SHIFT, target_flops)

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """The space in Optuna's terms."""
        low, high = self.target_flops
        return {
            "strength": FloatDistribution(*self.strength, log=True),
            "shift": FloatDistribution(*self.shift),
            "target_flops": FloatDistribution(low, max(low, high), log=True),
        }

    def proposal(self, params: dict[str, Any]) -> Proposal:
        """A point from Optuna's parameters."""
        return Proposal(
            float(params["strength"]), float(params["shift"]), int(params["target_flops"])
        )


def sampler(seed: int, num_trials: int) -> optuna.samplers.BaseSampler:
    """Multivariate TPE that expects several trials at once; a quarter of them is random."""
    return optuna.samplers.TPESampler(
        multivariate=True,
        constant_liar=True,
        n_startup_trials=max(4, num_trials // 4),
        seed=seed,
    )
