"""Where the gates of a group of channels act, and which of its channels share one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from pruning.errors import ConfigError
from pruning.graph.channel_graph import ChannelGraph, ChannelGroup
from pruning.networks.torch_interior import BatchNorm, Convolution
from pruning.networks.wrappers import unwrapped

At = Literal["consumer", "convolution"]
Per = Literal["stream", "convolution"]


@dataclass(frozen=True)
class Placement:
    """Where gates act.

    at: "consumer" for where weights read a channel, behind batch normalisation, activation and
        pooling; "convolution" for the outputs of the layers that produce it (convolutions and
        linear layers), before batch normalisation.
    per: "stream" if one gate is of all channels that can only go together, such as those that the
        convolutions of a residual stream add up; "convolution" if each of these convolutions has
        its own. Such gates act on its output in either place, whatever follows: a consumer
        reads the sum. Depthwise convolutions, which pass channels on, have none.

    Source: Molchanov et al., "Importance Estimation for Neural Network Pruning", §3.2, "Gate
        placement", and §4.1.2, table 1 (before and after BN2, and after conv2 in both).
    Raises ConfigError for other words.
    """

    at: At = "consumer"
    per: Per = "stream"

    def __post_init__(self) -> None:
        for name, words in (
            ("at", ("consumer", "convolution")),
            ("per", ("stream", "convolution")),
        ):
            if getattr(self, name) not in words:
                raise ConfigError(
                    f"{name} must be one of {', '.join(words)}, got {getattr(self, name)!r}"
                )

    def owners(self, model: nn.Module, group: ChannelGroup) -> tuple[str, ...]:
        """The layers on whose outputs the gates of a group are; none where it is consumed."""
        producers = _first_producers(model, group)
        is_own = self.per == "convolution" and len(producers) > 1
        return tuple(producers) if self.at == "convolution" or is_own else ()

    def fits(self, model: nn.Module, group: ChannelGroup) -> bool:
        """Whether the channels of this group can be gated so.

        On outputs, where gates can follow all layers that put them out: convolutions and linear
        layers that run torch's own code.
        """
        producers = _first_producers(model, group)
        if self.at == "convolution" and not producers:
            return False
        return all(_is_stock(producers[name]) for name in self.owners(model, group))


CONSUMED = Placement()


def _first_producers(model: nn.Module, group: ChannelGroup) -> dict[str, nn.Module | None]:
    """The layers that first put out the channels of a group, by name.

    Depthwise convolutions are left out beside others: they pass channels on.
    """
    modules = dict(unwrapped(model).named_modules())
    layers = {name: modules.get(name) for name in group.producers}
    firsts = {name: layer for name, layer in layers.items() if not _is_depthwise(layer)}
    return firsts or layers


def is_normalised(model: nn.Module, graph: ChannelGraph) -> bool:
    """Whether batch normalisation runs over some channels that can be pruned."""
    modules = dict(unwrapped(model).named_modules())
    return any(
        isinstance(modules.get(layer), BatchNorm)
        for group in graph.prunable
        for layer in group.layers
    )


def _is_depthwise(layer: nn.Module | None) -> bool:
    return isinstance(layer, Convolution) and layer.groups > 1 and layer.weight.shape[1] == 1


def _is_stock(layer: nn.Module | None) -> bool:
    """Whether the layer calls torch's function with its own weight, and puts out what that gives.

    Of grouped transposed convolutions the weight has no axis along their outputs.
    """
    if isinstance(layer, Convolution):
        is_along = not (layer.transposed and layer.groups > 1)
        return is_along and type(layer) in _STOCK and "forward" not in vars(layer)
    return type(layer) is nn.Linear and "forward" not in vars(layer)


_STOCK = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)
