"""What may be removed from a network, in what steps; `pruning.selection.select` explains each."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from pruning.errors import ConfigError, PlanError

if TYPE_CHECKING:
    from pruning.graph.channel_graph import ChannelGraph, ChannelGroup

OF_HEADS = ".heads"
"""How the name of a group ends of which whole heads of attention go, by choice."""

Scope = Literal["global", "uniform"]

MIN_CHANNELS = 3
"""The floor of the RNI authors' experiments (§5.1): at least so many channels stay in a group."""

_ROUNDING = 1e-9
"""What a share such as 1 - 0.9 may lack of the number that is meant."""


@dataclass(frozen=True)
class Offered:
    """Which channels are offered for removal, as for `pruning.trace`.

    exact: only such without which the others keep their values.
    whole_heads: whole heads of attention, not equal places of all heads.
    """

    exact: bool = True
    whole_heads: bool = False

    def check(self, graph: ChannelGraph) -> None:
        """Raise ConfigError if whole heads are asked for and `graph`, traced so, has none."""
        if self.whole_heads and not any(g.name.endswith(OF_HEADS) for g in graph.prunable):
            raise ConfigError(
                "whole_heads has no effect here: the network has no attention whose code gets by "
                "with fewer heads; leave it out",
                field="whole_heads",
            )


@dataclass(frozen=True)
class Rules:
    """The rules of `pruning.selection.select`, under the same names."""

    min_channels: int = MIN_CHANNELS
    divisor: int = 1
    scope: Scope = "global"
    residual: bool = True
    cost_exponent: float = 0.0

    def __post_init__(self) -> None:
        for name in ("min_channels", "divisor"):
            if getattr(self, name) < 1:
                raise PlanError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.scope not in get_args(Scope):
            raise PlanError(f"scope must be one of {', '.join(get_args(Scope))}, got {self.scope}")
        if not 0 <= self.cost_exponent <= 1:
            raise PlanError(f"cost_exponent must be from 0 to 1, got {self.cost_exponent}")
        if self.cost_exponent and self.scope != "global":
            raise PlanError(
                f"cost_exponent weighs scores that are ranked together, and scope {self.scope} "
                "ranks those of each layer alone: leave one of them out"
            )

    def prunable(self, graph: ChannelGraph, names: Iterable[str]) -> tuple[ChannelGroup, ...]:
        """Those of the named groups that may lose channels, in the order of the network."""
        groups = (graph.groups[number] for number in sorted(graph.index(name) for name in names))
        return tuple(group for group in groups if self.residual or not group.residual)

    def step(self, group: ChannelGroup) -> int:
        """Units of `group` between two widths that it may have."""
        return math.lcm(self.divisor, group.unit) // group.unit

    def floor(self, group: ChannelGroup) -> int:
        """The fewest units that stay; all of a group with fewer channels than `min_channels`."""
        return self._next_width(group, group.floor(self.min_channels))

    def units_kept(self, group: ChannelGroup, share: float) -> int:
        """The fewest units that hold this share of the group, in [0, 1], and at least the floor."""
        wanted = math.ceil((share - _ROUNDING) * group.num_units)
        return max(self.floor(group), self._next_width(group, wanted))

    def _next_width(self, group: ChannelGroup, units: int) -> int:
        """The next permitted width of at least so many units."""
        step = self.step(group)
        return min(group.num_units, -(-units // step) * step)
