"""What one pass over the data leaves behind of the gates' gradients: all first-order criteria."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from pruning.criteria.filters import FilterAxis, filter_axes, gated_scales
from pruning.errors import CriterionError
from pruning.gates.channel_gates import ChannelGates


@dataclass(frozen=True)
class GradientMoments:
    """Sums over minibatches b and samples n, each of shape (U,), a value per gate.

    With L_n the loss of a sample and E_b the mean loss of a minibatch:
    sample_sums: Σ_n ∂L_n/∂z.
    sample_squares: Σ_n (∂L_n/∂z)².
    sample_absolutes: Σ_n |∂L_n/∂z|.
    batch_squares: Σ_b (∂E_b/∂z)².
    weight_squares: Σ_b Σ_s (g_s w_s)² over the parameters s of a unit's producers (Molchanov et
        al., eq. 8), with g of E_b.
    scale_squares: the same over the scales γ of a unit's batch normalisations.
    widths: what is left of the groups' widths, for criteria that weigh cost; groups that are
        left out are as wide as traced.
    """

    gates: ChannelGates = field(repr=False)
    num_batches: int
    num_samples: int
    sample_sums: Tensor
    sample_squares: Tensor
    batch_squares: Tensor
    weight_squares: Tensor
    sample_absolutes: Tensor
    scale_squares: Tensor
    widths: Mapping[str, int] = field(default_factory=dict)

    def __add__(self, other: GradientMoments) -> GradientMoments:
        """The moments of both passes, at the widths of the first."""
        sums = {name: getattr(self, name) + getattr(other, name) for name in _SUMS}
        return replace(self, **sums)


_SUMS = (
    "num_batches",
    "num_samples",
    "sample_sums",
    "sample_squares",
    "batch_squares",
    "weight_squares",
    "sample_absolutes",
    "scale_squares",
)


class GradientObserver:
    """Accumulates GradientMoments beside any training loop, or in a pass of its own.

    gates: of the network that is trained.
    widths: see GradientMoments.
    """

    def __init__(self, gates: ChannelGates, widths: Mapping[str, int] | None = None) -> None:
        self.gates = gates
        self._axes, self._scales = filter_axes(gates), gated_scales(gates)
        self._widths = dict(widths or {})
        self._moments: GradientMoments | None = None

    @property
    def parameters(self) -> list[tuple[str, Tensor]]:
        """Names and parameters of the gated groups' producers and batch normalisations' scales."""
        names = {axis.parameter for axis in (*self._axes, *self._scales)}
        return [(n, p) for n, p in self.gates.model.named_parameters() if n in names]

    @property
    def moments(self) -> GradientMoments:
        """Of all minibatches since the last reset; CriterionError if there was none."""
        if self._moments is None:
            raise CriterionError("no minibatch has been watched since the last reset")
        return replace(self._moments, widths=self._widths)

    def reset(self, widths: Mapping[str, int] | None = None) -> None:
        """Forget all minibatches; the next ones are of a network of these widths, if given."""
        self._moments = None
        if widths is not None:
            self._widths = dict(widths)

    def state_dict(self) -> dict[str, Any]:
        """What has been watched, as tensors, numbers and strings (torch.load, weights_only)."""
        moments = self._moments
        sums = {} if moments is None else {name: getattr(moments, name) for name in _SUMS}
        return {"sums": sums, "widths": dict(self._widths)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from the `state_dict` of an observer of the same gates."""
        self._widths = dict(state["widths"])
        self._moments = GradientMoments(self.gates, **state["sums"]) if state["sums"] else None

    @contextmanager
    def watching(self, num_samples: int) -> Iterator[None]:
        """Counts the minibatch whose forward and backward pass run while this is open.

        The loss must be the mean over the `num_samples` samples, not scaled, and `.grad` of the
        parameters empty when this opens. Penalties on weights in the loss count in
        `weight_squares` alone. With batch statistics (train mode) a sample's gradient
        includes what it does to the others.
        Raises CriterionError if a gated group's producers are frozen: gradients do not reach
        them. Frozen scales count as without effect in `scale_squares`.
        """
        produced = {axis.parameter for axis in self._axes}
        for name, parameter in self.parameters:
            if name in produced and not parameter.requires_grad:
                raise CriterionError(
                    f"{name} is frozen, so that its channels' gradients are unknown: "
                    "let it require gradients, or gate other groups"
                )
        with self.gates.probing(num_samples) as probe:
            yield
        self.add(probe.gradients, {name: p.grad for name, p in self.parameters})

    def add(self, gradients: Tensor, weight_gradients: Mapping[str, Tensor | None]) -> None:
        """Count one minibatch: ∂E/∂z per sample, (N, U), and ∂E/∂w of `parameters` by name.

        A weight that the loss does not depend on has None for a gradient.
        """
        num_samples = len(gradients)
        batch = gradients.sum(0)
        new = GradientMoments(
            self.gates,
            num_batches=1,
            num_samples=num_samples,
            sample_sums=batch * num_samples,
            sample_squares=gradients.square().sum(0) * num_samples**2,
            batch_squares=batch.square(),
            weight_squares=self._squares(self._axes, weight_gradients, batch),
            sample_absolutes=gradients.abs().sum(0) * num_samples,
            scale_squares=self._squares(self._scales, weight_gradients, batch),
        )
        self._moments = new if self._moments is None else self._moments + new

    @torch.no_grad()
    def _squares(
        self, axes: Sequence[FilterAxis], gradients: Mapping[str, Tensor | None], like: Tensor
    ) -> Tensor:
        total = torch.zeros_like(like)
        parameters = dict(self.parameters)
        for axis in axes:
            if (gradient := gradients[axis.parameter]) is not None:
                products = (gradient * parameters[axis.parameter]).to(like.dtype)
                total += axis.summed(products.square_(), self.gates.num_units)
        return total
