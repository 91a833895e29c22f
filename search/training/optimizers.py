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
from typing import Any

import torch
from torch import Tensor, nn

from pruning.optimizer_groups import parameter_groups
from search.config.training_config import TrainingConfig

_MOMENTUM = 0.9


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
        self.optimizer: torch.optim.Optimizer
        if config.optimizer == "sgd":
            self.optimizer = torch.optim.SGD(groups, momentum=_MOMENTUM, nesterov=config.nesterov)
        else:
            self.optimizer = torch.optim.AdamW(groups)
        self._is_decoupled = config.optimizer == "adamw"
        self._clip_norm = config.clip_norm

    def backward(self, loss: Tensor) -> None:
        """Leave the gradients of `loss`, a scalar, in the parameters, and no others."""
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]

    def step(self, penalty: Tensor, learning_rate: float) -> None:
        """Lower the loss of `backward` + `penalty`, a scalar, by one step at this rate.

        The norm of the gradients of the loss alone is bounded, where one is configured. Gradients
        are left.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate * group["lr_factor"]
        if self._clip_norm is not None:
            nn.utils.clip_grad_norm_(self._parameters(), self._clip_norm)
        pushes: list[tuple[Tensor, Tensor, float]] = []
        if penalty.requires_grad:
            if self._is_decoupled:
                pushes = self._pushes(penalty)
            else:
                penalty.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        with torch.no_grad():
            for parameter, gradient, rate in pushes:
                parameter.sub_(gradient, alpha=rate)

    def forget_gradients(self) -> None:
        """Free them."""
        self.optimizer.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """Of the optimizer; the rate is given anew in every step."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.optimizer.load_state_dict(state)

    def _parameters(self) -> Iterator[Tensor]:
        for group in self.optimizer.param_groups:
            yield from group["params"]

    def _pushes(self, penalty: Tensor) -> list[tuple[Tensor, Tensor, float]]:
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
