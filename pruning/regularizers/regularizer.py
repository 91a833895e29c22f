"""The regularizers: λ times a penalty on the scales of channels or the norms of filters."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruning.errors import ConfigError
from pruning.graph.channel_graph import ChannelGraph
from pruning.regularizers.penalties import (
    hoyer_square,
    in_single,
    l1,
    polarization,
    receding_from_log,
)
from pruning.regularizers.scope import (
    CHANNEL_SCALES,
    FILTERS,
    FILTERS_AND_UNITS,
    SIGMOID_GAMMA,
    Scope,
    Target,
)


class Regularizer(ABC):
    """A differentiable penalty on the parameters of a model, to be added to its loss.

    strength: λ ≥ 0, finite.
    graph: penalises only channels of the groups that are pruned: off residual streams, unless the
        graph says otherwise (ChannelGraph.pruning). None penalises all.
    target: what is read of each layer, one number per channel; an attribute.
    """

    target: Target

    def __init__(self, strength: float, *, graph: ChannelGraph | None = None) -> None:
        if not (0 <= strength < math.inf):
            raise ConfigError(
                f"the strength of {type(self).__name__} must be at least 0, got {strength!r}"
            )
        self.strength = strength
        self._scope = Scope(graph)

    @final
    def __call__(self, model: nn.Module) -> Tensor:
        """λ · penalty, a scalar; it may be negative.

        It is on the model's device and of its type, single precision where that is half.
        Raises CriterionError if `model` has no layer of the target, or the graph is of another
        network: one call before training tells.
        """
        return self.on(model)()

    @final
    def on(self, model: nn.Module) -> Callable[[], Tensor]:
        """What `self(model)` gives, for every step of a training: its layers are looked up once.

        It goes on reading the layers that `model` has now. Raises CriterionError as a call does.
        """
        places = self._scope.places(model, self.target)
        return lambda: self.strength * self.penalty([place.values for place in places])

    @abstractmethod
    def penalty(self, layers: list[Tensor]) -> Tensor:
        """The penalty without λ, a scalar, of what was read: a non-empty vector per layer."""


@final
class RNI(Regularizer):
    """λ_S · Σ s·(1 − log s) ≥ 0 with s = σ(γ + b), over the channels of all σBN.

    Its gradient with respect to s is −λ_S·log s: it fades as a channel becomes important.
    shift: b; the larger it is, the fewer channels recede.
    Source: Suteu and Guo, "Receding Neuron Importances for Structured Pruning", eq. 4.
    """

    target = SIGMOID_GAMMA

    def __init__(
        self, strength: float, shift: float = 0.0, *, graph: ChannelGraph | None = None
    ) -> None:
        super().__init__(strength, graph=graph)
        if not math.isfinite(shift):
            raise ConfigError(f"the shift of RNI must be a number, got {shift!r}")
        self.shift = shift

    def penalty(self, layers: list[Tensor]) -> Tensor:
        return receding_from_log(F.logsigmoid(in_single(torch.cat(layers)) + self.shift))


@final
class Slimming(Regularizer):
    """λ · Σ|γ| ≥ 0 over the scales of all batch normalisations.

    Of σBN γ is σ(γ), which multiplies the channel: the weight itself would be drawn to 0, where
    a channel is half open.
    Source: Liu et al., "Learning Efficient Convolutional Networks through Network Slimming",
        2017, eq. 1.
    """

    target = CHANNEL_SCALES

    def penalty(self, layers: list[Tensor]) -> Tensor:
        return l1(torch.cat(layers))


@final
class Polarization(Regularizer):
    """λ · (t·Σ|γ| − Σ|γ − mean(γ)|) over the scales of all batch normalisations.

    The mean is over all γ that are penalised, of all layers together; of σBN γ is σ(γ). The value
    can be negative; of n unbounded γ it has no least value for t < 2·(1 − 1/n). The authors clamp
    γ to [0, 1] after every step, which is up to the training loop; σ(γ) is bounded as it is.
    t: ≥ 0; the larger it is, the more channels go to 0.
    Source: Zhuang et al., "Neuron-level Structured Pruning using Polarization Regularizer", 2020,
        eq. 2.
    """

    target = CHANNEL_SCALES

    def __init__(
        self, strength: float, t: float = 1.2, *, graph: ChannelGraph | None = None
    ) -> None:
        super().__init__(strength, graph=graph)
        if not (0 <= t < math.inf):
            raise ConfigError(f"t of Polarization must be at least 0, got {t!r}")
        self.t = t

    def penalty(self, layers: list[Tensor]) -> Tensor:
        return polarization(torch.cat(layers), self.t)


@final
class DeepHoyer(Regularizer):
    """λ · Σ_l (Σ|γ|)² / Σγ² ≥ 0: the Hoyer-Square of each layer's scales, summed over layers.

    A layer counts from 1 (one channel is left) to its number of channels (all are equal), or 0
    if all its scales are 0; multiplying them by a number changes nothing. Of σBN γ is σ(γ).
    Source: Yang et al., "DeepHoyer: Learning Sparser Neural Network with Differentiable
        Scale-Invariant Sparsity Measures", 2020.
    """

    target = CHANNEL_SCALES

    def penalty(self, layers: list[Tensor]) -> Tensor:
        return torch.stack([hoyer_square(scales) for scales in layers]).sum()


@final
class GroupDeepHoyer(Regularizer):
    """λ · Σ_l (Σ_g ‖w_g‖₂)² / Σ_g ‖w_g‖₂² ≥ 0: the group form of DeepHoyer, on filters.

    w_g are the weights of one output channel g of layer l, without its bias. A layer counts
    from 1 (one filter is left) to its number of filters (all of equal norm), or 0 if all its
    weights are 0. Channels that several layers produce have a norm in each of them. A grouped
    transposed convolution has one norm for the same channel of every group.
    graph: the outputs of linear layers are penalised too, where what they produce is pruned;
        without a graph no linear layer is: the outputs of the last one are the classes.
    Source: as for DeepHoyer (Group-HS).
    """

    def __init__(self, strength: float, *, graph: ChannelGraph | None = None) -> None:
        super().__init__(strength, graph=graph)
        self.target = FILTERS if graph is None else FILTERS_AND_UNITS

    def penalty(self, layers: list[Tensor]) -> Tensor:
        return torch.stack([hoyer_square(norms) for norms in layers]).sum()
