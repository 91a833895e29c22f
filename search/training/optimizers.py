"""The step: a loss, a penalty and the optimizer make the next weights of a network.

Penalties act on σBN scales, gates and the γ of batch norms. With SGD their gradient is added to
that of the loss. AdamW divides gradients by their own size, so that the strength of a penalty
would not say how far it pushes. It takes weight decay past its moments (Loshchilov and Hutter,
"Decoupled Weight Decay Regularization", algorithm 2); so is the penalty of scales and gates s:
s ← s − lr_σ · ∂penalty/∂s after the step. What a penalty does to γ is weighed against the gradient
of the loss, and is added to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pruning.optimizer_groups import parameter_groups
from search.config.training_config import TrainingConfig

_MOMENTUM = 0.9

_FUSES = ("cpu", "cuda", "mps")
"""Where torch has updates of all parameters in one kernel."""

_OF_PROCESS = ("fused", "capturable", "foreach")
"""Settings of an optimizer that say how it computes, which another process need not share."""


def momentum_sum(config: TrainingConfig) -> float:
    """What a constant penalty of scales adds up to per step, in units of lr_σ and its gradient."""
    return 1 / (1 - _MOMENTUM) if config.optimizer == "sgd" else 1.0


class Stepper:
    """Takes the steps of one training of `model`: the optimizer and what is done around it.

    σBN scales and gates are in groups of their own, see `pruning.parameter_groups`.
    optimizer: what holds the momentum.
    """

    def __init__(self, model: nn.Module, config: TrainingConfig) -> None:
        groups = parameter_groups(
            model,
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            linear_weight_decay=config.linear_weight_decay,
        )
        self._is_decoupled = config.optimizer == "adamw"
        self._clip_norm = config.clip_norm
        first = groups[0]["params"][0]
        fuses = first.device.type in _FUSES
        self.optimizer: torch.optim.Optimizer
        if self._is_decoupled:
            on_gpu = first.device.type == "cuda"
            self.optimizer = torch.optim.AdamW(groups, fused=fuses, capturable=on_gpu)
        else:
            self.optimizer = torch.optim.SGD(
                groups, momentum=_MOMENTUM, nesterov=config.nesterov, fused=fuses
            )
        self._rates: list[Tensor | float] = [
            torch.zeros((), device=first.device) if first.device.type == "cuda" else 0.0
            for _ in groups
        ]
        self._hand_out_rates()

    def backward(self, loss: Tensor) -> None:
        """Leave the gradients of `loss`, a scalar, in the parameters, and no others."""
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]

    def set_rate(self, learning_rate: float) -> None:
        """The rate of the steps from now on, of ordinary parameters.

        On a GPU rates are in its memory, where a captured step reads them.
        """
        for number, group in enumerate(self.optimizer.param_groups):
            rate, now = self._rates[number], learning_rate * group["lr_factor"]
            if isinstance(rate, Tensor):
                rate.fill_(now)
            else:
                group["lr"] = now

    def step(self, penalty: Tensor) -> None:
        """Lower the loss of `backward` + `penalty`, a scalar, by one step.

        The norm of the gradients of the loss alone is bounded, where one is configured.
        """
        if self._clip_norm is not None:
            nn.utils.clip_grad_norm_(self._parameters(), self._clip_norm)
        pushes: list[tuple[Tensor, Tensor, Tensor | float]] = []
        if penalty.requires_grad:
            if self._is_decoupled:
                pushes = self._pushes(penalty)
            else:
                penalty.backward()  # type: ignore[no-untyped-call]
        with dense(self.optimizer):
            self.optimizer.step()
        with torch.no_grad():
            for parameter, gradient, rate in pushes:
                parameter.sub_(gradient * rate)

    def forget_gradients(self) -> None:
        """Free them."""
        self.optimizer.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """Of the optimizer; the rate is given anew in every step."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        now = self.optimizer.state_dict()["param_groups"]
        for stored, group in zip(state["param_groups"], now, strict=True):
            stored |= {name: group[name] for name in _OF_PROCESS if name in group}
        self.optimizer.load_state_dict(state)
        self._hand_out_rates()

    def tensors(self) -> list[Tensor]:
        """All that a step reads and leaves for the next one, beside the weights."""
        values = [value for state in self.optimizer.state.values() for value in state.values()]
        return [value for value in values if isinstance(value, Tensor)]

    def _hand_out_rates(self) -> None:
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            if isinstance(rate, Tensor):
                group["lr"] = rate

    def _parameters(self) -> Iterator[Tensor]:
        for group in self.optimizer.param_groups:
            yield from group["params"]

    def _pushes(self, penalty: Tensor) -> list[tuple[Tensor, Tensor, Tensor | float]]:
        """Scales and gates, their gradients and rate; gradients of others are added to theirs."""
        learned = [
            (parameter, group)
            for group in self.optimizer.param_groups
            for parameter in group["params"]
            if parameter.requires_grad
        ]
        gradients: Sequence[Tensor | None] = torch.autograd.grad(
            penalty, [parameter for parameter, _ in learned], allow_unused=True
        )
        pushes = []
        for (parameter, group), gradient in zip(learned, gradients, strict=True):
            if gradient is None:  # the penalty is not of this one
                continue
            if group["is_scale"]:
                pushes.append((parameter, gradient, group["lr"]))
            else:
                own = parameter.grad
                parameter.grad = gradient if own is None else own + gradient
        return pushes


@contextmanager
def dense(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """While this is open, what a step reads and writes of each weight lies alike in memory.

    Fused updates go through memory in its order: where a gradient or a momentum has another one
    than its weight they would be wrong without a word. On a CPU they copy what is in channels_last
    and copy it back, which takes longer than the update; so it is turned here, which is free.
    """
    turned = []
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            state = optimizer.state.get(parameter, {})
            _lay_out(parameter, state)
            if parameter.device.type == "cpu" and _is_turned(parameter):
                turned.append((parameter, state))
                _turn(parameter, state, _TO_DENSE)
    try:
        yield
    finally:
        for parameter, _ in turned:  # whose state may be new
            _turn(parameter, optimizer.state[parameter], _FROM_DENSE)


_TO_DENSE, _FROM_DENSE = (0, 2, 3, 1), (0, 3, 1, 2)


def _is_turned(tensor: Tensor) -> bool:
    in_order = tensor.is_contiguous()
    return tensor.dim() == 4 and not in_order and tensor.permute(_TO_DENSE).is_contiguous()


def _lay_out(parameter: Tensor, state: dict[str, Any]) -> None:
    """Gradient and state of a weight, in the order that the weight has in memory."""
    strides, gradient = parameter.stride(), parameter.grad
    assert gradient is not None
    if gradient.stride() != strides:
        parameter.grad = torch.empty_like(parameter).copy_(gradient)
    for name, value in state.items():
        if isinstance(value, Tensor) and value.dim() and value.stride() != strides:
            state[name] = torch.empty_like(parameter).copy_(value)


def _turn(parameter: Tensor, state: dict[str, Any], axes: tuple[int, ...]) -> None:
    gradient = parameter.grad
    assert gradient is not None
    parameter.grad = None  # which must have the shape of the weight
    parameter.data = parameter.data.permute(axes)
    parameter.grad = gradient.permute(axes)
    for name, value in state.items():
        if isinstance(value, Tensor) and value.dim() == 4:
            state[name] = value.permute(axes)
