"""The learning rate of every step, in closed form, and how far a penalty pushes by it."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from pruning.optimizer_groups import SCALE_LEARNS_FASTER
from search.config.training_config import TrainingConfig
from search.training.optimizers import momentum_sum

_DROPS = {
    "rni": ((1 / 2, 3 / 4), 10.0),
    "copycat": ((3 / 10, 6 / 10, 9 / 10), 5.0),
    "constant": ((), 1.0),
}
"""Of the epochs, where the rate drops, and what by: RNI, §5.1 (of 160 epochs after 80 and 120);
Crowley et al., implementation details (every 60 of 200 epochs)."""

_THIRDS = (1 / 3, 2 / 3)
"""RNI, §5.1, on ImageNet."""

_RISE = 0.3
_START_DIVISOR, _END_DIVISOR = 25.0, 1e4
"""Of one-cycle: the share of the steps in which the rate rises, what of its highest it begins
with, and what of that it ends with; torch's defaults."""


def learning_rates(
    config: TrainingConfig, epochs: int, steps_per_epoch: int
) -> NDArray[np.float64]:
    """The rate of ordinary parameters in every step, shape (epochs · steps_per_epoch,).

    With r the configured rate, t a step from 0, n their number and w those of the warm-up:
    drops: r divided by the factor at the beginning of the first epoch that lies no earlier than
    the fraction of the epochs.  cosine: r · (1 + cos(π (t − w) / (n − w))) / 2 after the warm-up.
    In the warm-up, r · (t + 1) / w of either.  one-cycle: torch.optim.lr_scheduler.OneCycleLR with
    cosines and without a cycle of the momentum (Smith and Topin, "Super-Convergence"), rising for
    w steps, or for 30 % of n.
    """
    num_steps, warmup = epochs * steps_per_epoch, config.warmup_epochs * steps_per_epoch
    steps = np.arange(num_steps, dtype=np.float64)
    if config.schedule == "one-cycle":
        return config.learning_rate * _one_cycle(steps, warmup or _RISE * num_steps)
    ramp = np.minimum(1.0, (steps + 1) / max(1, warmup))
    if config.schedule == "cosine":
        done = (steps - warmup) / max(1, num_steps - warmup)
        return config.learning_rate * ramp * _cosine(1.0, 0.0, done)
    places, divisor = _drops(config)
    drops = np.zeros(epochs)
    for place in places:
        exact = Fraction(place).limit_denominator(10**6)
        drops += np.arange(epochs) * exact.denominator >= exact.numerator * epochs
    rates: NDArray[np.float64] = config.learning_rate / divisor**drops
    return np.repeat(rates, steps_per_epoch) * ramp


def total_push(config: TrainingConfig, epochs: int, steps_per_epoch: int) -> float:
    """How far a penalty with a gradient of one moves a σBN scale or gate in all steps together.

    A penalty of strength λ_S moves a scale by about λ_S times this (where its gradient is
    one), so λ_S for another schedule follows from a wanted push: push / total_push.
    With lr_σ(t) the rate of scales: SGD: Σ lr_σ(t) / (1 − momentum), which Nesterov's momentum
    leaves as it is. AdamW: Σ lr_σ(t), because the penalty of scales passes by its moments, see
    `search.training.optimizers`. Clipping is of the loss alone and does not change it.
    """
    rates = learning_rates(config, epochs, steps_per_epoch)
    return SCALE_LEARNS_FASTER * float(rates.sum()) * momentum_sum(config)


def _drops(config: TrainingConfig) -> tuple[Sequence[float], float]:
    if config.schedule == "step":
        return config.drop_at or _THIRDS, config.drop_by
    return _DROPS[config.schedule]


def _one_cycle(steps: NDArray[np.float64], rise: float) -> NDArray[np.float64]:
    """Shares of the highest rate: cosines from 1/25 to 1 at step rise − 1, and down to 4e-6."""
    last = max(1.0, len(steps) - 1.0)
    peak = float(np.clip(rise - 1, 0.0, last))
    start, end = 1 / _START_DIVISOR, 1 / _START_DIVISOR / _END_DIVISOR
    up = _cosine(start, 1.0, steps / max(peak, np.finfo(float).tiny))
    down = _cosine(1.0, end, (steps - peak) / max(last - peak, np.finfo(float).tiny))
    return np.where(steps < peak, up, down)


def _cosine(start: float, end: float, done: NDArray[np.float64]) -> NDArray[np.float64]:
    return end + (start - end) / 2 * (1 + np.cos(np.pi * np.clip(done, 0.0, 1.0)))
