"""A running average of a network's weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class AveragedWeights:
    """The exponential moving average of a network's parameters and buffers, over its steps.

    With w_t the weights after step t and a_0 = w_0: a_t = d_t · a_{t−1} + (1 − d_t) · w_t with
    d_t = min(decay, (1 + t) / (10 + t)), by which a short training is not held to its first weights
    (as TensorFlow's ExponentialMovingAverage). Whole numbers, such as counts of batches, stay
    as they are. One of the two is in the network, the other kept here; `swap` exchanges them.
    model: where it stays; its tensors are looked up once.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay, self._num_steps = decay, 0
        self._moving = _tensors(model)
        self._kept = [tensor.clone() for tensor in self._moving]

    def update(self) -> None:
        """Take in the weights that a step has left in the network."""
        self._num_steps += 1
        decay = min(self._decay, (1 + self._num_steps) / (10 + self._num_steps))
        average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        average(self._kept, self._moving, self._num_steps)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange those in the network and those kept; its tensors stay where they are."""
        for kept, tensor in zip(self._kept, self._moving, strict=True):
            was = tensor.clone()
            tensor.copy_(kept)
            kept.copy_(was)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and a number."""
        return {"kept": list(self._kept), "num_steps": self._num_steps}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`, for a network of the same form."""
        self._num_steps = state["num_steps"]
        for kept, stored in zip(self._kept, state["kept"], strict=True):
            kept.copy_(stored)


def _tensors(model: nn.Module) -> list[Tensor]:
    """Each parameter and buffer that can be averaged, once, without its history."""
    tensors = (*model.parameters(), *model.buffers())
    return [t.detach() for t in tensors if t.is_floating_point() or t.is_complex()]
