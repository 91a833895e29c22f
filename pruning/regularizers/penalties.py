"""The mathematics of the regularizers: functions of scales, wherever these come from.

Each takes a tensor of any shape with at least one element and gives a scalar. Everything is
differentiable almost everywhere, with finite gradients wherever the argument is finite;
|x| has the subgradient 0 at 0. Half precision is too coarse for sums and is computed in single.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Penalty = Callable[[Tensor], Tensor]
"""From scales to a scalar."""


def l1(x: Tensor) -> Tensor:
    """Σ|x| ≥ 0 (Liu et al., "Learning Efficient Convolutional Networks through Network
    Slimming", 2017, eq. 1)."""
    return in_single(x).abs().sum()


def polarization(x: Tensor, t: float) -> Tensor:
    """t·Σ|x| − Σ|x − mean(x)|: negative where x is spread out and t is small.

    For x ≥ 0 and t = 0 it is least with one half of x at 0 and the other at the upper bound;
    the larger t, the more of x goes to 0. Source: Zhuang et al., "Neuron-level Structured
    Pruning using Polarization Regularizer", 2020, eq. 2.
    """
    x = in_single(x)
    return t * x.abs().sum() - (x - x.mean()).abs().sum()


def hoyer_square(x: Tensor) -> Tensor:
    """(Σ|x|)² / Σx², from 1 (one element is not 0) to the number of elements (all equal).

    It does not change when x is multiplied by a number. Of x = 0 it is 0, with gradient 0.
    Source: Yang et al., "DeepHoyer: Learning Sparser Neural Network with Differentiable
    Scale-Invariant Sparsity Measures", 2020 (Hoyer-Square).
    """
    x = in_single(x)
    # Dividing by the largest element, taken as a constant, changes neither value nor gradient,
    # and keeps squares from overflowing and vanishing.
    peak = x.detach().abs().amax()
    is_zero = peak < torch.finfo(x.dtype).tiny
    x = x / torch.where(is_zero, 1, peak)
    return x.abs().sum().square() / (x.square().sum() + is_zero)


def receding(s: Tensor) -> Tensor:
    """Σ s·(1 − log s) ≥ 0 for s in [0, 1]; its pull −log s recedes as s grows.

    At s = 0 it is 0, with a finite gradient in place of ∞. Source: Suteu and Guo, "Receding
    Neuron Importances for Structured Pruning", eq. 4.
    """
    s = in_single(s)
    return (s * (1 - s.clamp(min=torch.finfo(s.dtype).tiny).log())).sum()


def receding_from_log(log_s: Tensor) -> Tensor:
    """`receding(s)` of log s ≤ 0, exact where s is too small for its type or rounds to 1."""
    log_s = in_single(log_s)
    return (log_s.exp() * (1 - log_s)).sum()


def in_single(x: Tensor) -> Tensor:
    """`x`, in single precision where it is in half."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
