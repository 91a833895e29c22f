"""Criteria from the gradient and the curvature of the loss in the gates."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from pruning.criteria.criterion import (
    Batches,
    BatchLoss,
    GateCriterion,
    Loss,
    Minibatch,
    minibatches,
    on_a_copy,
)
from pruning.errors import CriterionError
from pruning.gates.channel_gates import ChannelGates

_REFUSALS = ("is not implemented", "not supported", "once_differentiable")


class SecondOrderCriterion(GateCriterion):
    """What the gradient g and the diagonal of the Hessian H with respect to gates say.

    loss: outputs and targets → the mean loss of the minibatch; or that of whole minibatches.
    probes: None for the exact diagonal, one Hessian-vector product per unit and minibatch; a
        number of random vectors, at least 1, for Hutchinson's unbiased estimate of it with that
        many products.
    seed: of the random vectors; no effect without `probes`.

    Products are made one after the other, from the activations and gradients of one pass: memory
    does not grow with the number of channels or probes. Raises CriterionError for an operator
    that torch cannot differentiate twice.
    """

    def __init__(
        self,
        loss: Loss | BatchLoss = F.cross_entropy,
        probes: int | None = None,
        seed: int = 0,
    ) -> None:
        if probes is not None and probes < 1:
            raise CriterionError(f"probes must be at least 1, or None for all, got {probes}")
        self.loss = loss
        self.probes = probes
        self.seed = seed

    @abstractmethod
    def of(self, gradient: Tensor, curvature: Tensor) -> Tensor:
        """The score of a minibatch per unit, from g and the diagonal of H, all of shape (U,)."""

    def judge(self, gates: ChannelGates, batches: Batches = ()) -> Tensor:
        name = type(self).__name__
        generator = torch.Generator().manual_seed(self.seed)
        total, count = torch.zeros(()), 0
        with on_a_copy([gates]) as (copied_gates,):
            for batch in minibatches(batches, self.loss, name):
                derivatives = self._derivatives(copied_gates, batch, generator)
                total = self.of(*derivatives) + total.to(derivatives[0])
                count += 1
        if not total.isfinite().all():
            raise CriterionError(
                f"{name}: a derivative is infinite or not a number; look at the loss and the data"
            )
        return total / count

    def _derivatives(
        self, gates: ChannelGates, batch: Minibatch, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """g and diag H of a minibatch's loss with respect to gates of one, shapes (U,)."""
        like = next(gates.model.parameters())
        exact = torch.promote_types(like.dtype, torch.float32)
        ones = torch.ones(gates.num_units, device=like.device, dtype=exact, requires_grad=True)
        # Only the plain kernel of scaled_dot_product_attention can be differentiated twice.
        with sdpa_kernel(SDPBackend.MATH):
            with gates.multiplying(ones):
                energy = batch.loss(gates.model)
            (gradient,) = torch.autograd.grad(
                energy, ones, create_graph=True, materialize_grads=True
            )
            if not gradient.requires_grad:  # no gradient passes from the loss to any gate
                return gradient, torch.zeros_like(gradient)
            with _refusals_explained(type(self).__name__):
                _check_twice_differentiable(gradient)
                curvature = self._diagonal(gradient, ones, generator)
        return gradient.detach(), curvature

    def _diagonal(self, gradient: Tensor, ones: Tensor, generator: torch.Generator) -> Tensor:
        """The diagonal of the Jacobian of `gradient` at `ones`, exact or estimated."""

        def product(vector: Tensor) -> Tensor:
            (row,) = torch.autograd.grad(
                gradient, ones, vector, retain_graph=True, materialize_grads=True
            )
            return row.detach()

        like = gradient.detach()
        total = torch.zeros_like(like)
        if self.probes is None:
            for unit in range(len(like)):
                basis = torch.zeros_like(like)
                basis[unit] = 1
                total += basis * product(basis)
            return total
        for _ in range(self.probes):
            signs = 2 * torch.randint(2, like.shape, generator=generator) - 1
            vector = signs.to(like)
            total += vector * product(vector)
        return total / self.probes


@final
class Obd(SecondOrderCriterion):
    """½H of a minibatch's mean loss, averaged over minibatches, with its sign.

    The rise of the loss without a channel, if the gradient is zero: the network is trained. It
    may be negative, for channels whose removal would lower the loss; they go first.
    Source: LeCun et al., "Optimal Brain Damage", eq. 5, on gates of one instead of weights;
        signed as in Molchanov et al., §4.1.2.
    """

    def of(
        self,
        gradient: Tensor,  # noqa: ARG002 - taken as zero
        curvature: Tensor,
    ) -> Tensor:
        return curvature / 2


@final
class TaylorSecondOrder(SecondOrderCriterion):
    """(g − ½H)² of a minibatch's mean loss, averaged over minibatches; ≥ 0.

    To second order the loss changes by −g + ½H when one gate goes from one to zero.
    Source: Molchanov et al., eq. 4 on gates, with the diagonal of the Hessian alone as in §3.2.
    """

    def of(self, gradient: Tensor, curvature: Tensor) -> Tensor:
        return (gradient - curvature / 2) ** 2


def _check_twice_differentiable(gradient: Tensor) -> None:
    """Raise RuntimeError if a part of the graph of `gradient` would be left out of its derivative.

    Behind `once_differentiable` torch puts a node that raises, but it prunes that node where
    only the derivative with respect to a few tensors is asked for.
    """
    seen, waiting = set(), [gradient.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        if node.name().endswith("::Error"):
            raise RuntimeError("a function is marked as once_differentiable")
        seen.add(node)
        waiting.extend(parent for parent, _ in node.next_functions)


@contextmanager
def _refusals_explained(criterion: str) -> Iterator[None]:
    """Turns torch's refusals to differentiate an operator twice into CriterionErrors."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        if not any(words in reason for words in _REFUSALS):
            raise
        raise CriterionError(
            f"{criterion} needs a network that can be differentiated twice ({reason}): choose a "
            "first-order criterion"
        ) from error
