"""The kinds of family: what their members have in common.

Those that are compared in Crowley et al., "Pruning neural networks: is it time to nip it in
the bud?", fig. 1, and in RNI, Table 5.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

from copycat.families.base_network import BaseNetwork
from copycat.families.builder_series import BuilderSeries, changed, whole_argument
from copycat.families.mobilenet_series import MobileNetSeries
from copycat.families.series import Series, Shape
from copycat.families.width_series import WidthSeries, scale_of
from copycat.width_profile import WidthProfile
from pruning.cost import Cost
from pruning.errors import ProfileError
from pruning.graph.channel_graph import ChannelGraph
from pruning.structure_removal.residual_blocks import residual_blocks


class FamilyKind(ABC):
    """What the members of a family have in common.

    name: of the kind.  symbol: of its parameter.
    has_ladder: whether there are several shapes; the only shape of a kind without one is a
        member of every budget that it meets.
    """

    name: ClassVar[str]
    symbol: ClassVar[str] = "α"
    has_ladder: ClassVar[bool] = True

    @abstractmethod
    def series(self, base: BaseNetwork, *, divisor: int = 1) -> Series:
        """The shapes in rising order; ProfileError or ModelError if the base has none of them.

        divisor: of the widths of groups (see WidthSeries); no effect on kinds that change a
            builder's arguments.
        """

    @final
    def member(self, base: BaseNetwork, parameter: float, *, divisor: int = 1) -> Shape:
        """The shape at one value of the parameter, whatever it costs."""
        return self.series(base, divisor=divisor).shape(parameter)


@final
@dataclass(frozen=True)
class Copycat(FamilyKind):
    """One α over the profile's groups, the rest as in the base network: B(N_i, α·N_m, N_o).

    Source: Crowley et al., §3.2. α = 1 is the profile itself.
    """

    profile: WidthProfile
    name = "copycat"

    def series(self, base: BaseNetwork, *, divisor: int = 1) -> Series:
        return scale_of(self.profile, base.graph_of(self.profile), divisor=divisor)


@final
@dataclass(frozen=True)
class CopycatOfAll(FamilyKind):
    """One α over all groups that can lose channels, also those that the profile leaves whole."""

    profile: WidthProfile
    name = "copycat of all groups"

    def series(self, base: BaseNetwork, *, divisor: int = 1) -> Series:
        graph = base.graph_of(self.profile)
        whole = WidthProfile.of(graph).widths
        profile = WidthProfile({**whole, **self.profile.widths}, self.profile.removed)
        return scale_of(profile, graph, divisor=divisor)


@final
@dataclass(frozen=True)
class TemperedCopycat(FamilyKind):
    """As Copycat, of a shape between two: the profile and another, or the base network.

    A group of width N_m in the profile and N in the other shape becomes α·N·(N_m / N)^ρ; one that
    the other shape does not name is as wide there as in the base network.
    rho: in [0, 1]; 1 is Copycat of the profile. 0 is that of the other shape, but for structures,
        of which those are missing that the profile lacks.
    towards: the other shape; by default the base network, whose groups that the profile names
        are then narrowed by one factor at ρ = 0.
    Raises ProfileError for another ρ.
    """

    profile: WidthProfile
    rho: float
    towards: WidthProfile | None = None
    name = "tempered copycat"

    def __post_init__(self) -> None:
        if not 0 <= self.rho <= 1:
            raise ProfileError(f"ρ must be from 0 to 1, got {self.rho}")

    def series(self, base: BaseNetwork, *, divisor: int = 1) -> Series:
        graph, rho = base.graph_of(self.profile), self.rho
        self.profile.check(graph)
        other = {} if self.towards is None else self.towards.widths
        targets = {
            name: width**rho * other.get(name, graph.group(name).width) ** (1 - rho)
            for name, width in self.profile.widths.items()
            if graph.group(name).pinned is None
        }
        return WidthSeries(graph, targets, self.profile, divisor=divisor)


@final
@dataclass(frozen=True)
class UniformWidth(FamilyKind):
    """The base network with groups narrowed (or widened) by one factor, a width multiplier.

    names: of the groups; None for all that can lose channels.
    """

    names: tuple[str, ...] | None = None
    name = "uniform width"

    def series(self, base: BaseNetwork, *, divisor: int = 1) -> Series:
        return scale_of(WidthProfile.of(base.graph, self.names), base.graph, divisor=divisor)


@final
@dataclass(frozen=True)
class WideResNetWidth(FamilyKind):
    """WRN-depth-k for real k: all stages k times as wide as in WRN-depth-1, the stem as it is.

    Source: Crowley et al., §3.1 (the yellow curve). The base network is a wide ResNet whose
    builder has an argument `width`, its own k, above 1: at k = 1 the first block has no
    projection, so that it is another topology.
    """

    name = "WRN width"
    symbol = "k"

    def series(self, base: BaseNetwork, *, divisor: int = 1) -> Series:
        own = whole_argument(base.builder, "width")
        groups = base.graph.prunable
        if own < 2 or groups[0].residual:
            raise ProfileError(
                f"{self.name} needs a wide ResNet of k ≥ 2 as its base, got k = {own}"
            )
        targets = {group.name: float(group.width) for group in groups[1:]}
        return WidthSeries(base.graph, targets, divisor=divisor, unit=own)


@final
@dataclass(frozen=True)
class Bottleneck(FamilyKind):
    """The channels inside residual blocks times z: B(N_i, z·N_m, N_o).

    Source: Crowley et al., §3.1 (the green curve), where N_m = N_o. z = 1 is the base network.
    Raises ProfileError if no residual block has channels of its own.
    """

    name = "bottleneck"
    symbol = "z"

    def series(self, base: BaseNetwork, *, divisor: int = 1) -> Series:
        blocks = [f"{block.name}." for block in residual_blocks(base.made[0])]
        names = tuple(
            group.name
            for group in base.graph.prunable
            if not group.residual
            and any(all(p.startswith(b) for p in (*group.producers, *group.layers)) for b in blocks)
        )
        if not names:
            raise ProfileError(f"{self.name} needs a network with residual blocks")
        return scale_of(WidthProfile.of(base.graph, names), base.graph, divisor=divisor)


@final
@dataclass(frozen=True)
class Depth(FamilyKind):
    """The base network with fewer layers, by the argument `depth` of its builder.

    step: between two depths; 6 is a block in each of three stages (ResNets of He et al. §4.2,
        wide ResNets).
    """

    step: int = 6
    name = "depth"
    symbol = "depth"

    def series(self, base: BaseNetwork, *, divisor: int = 1) -> Series:  # noqa: ARG002 - no widths here
        depth = whole_argument(base.builder, "depth")
        depths = range(depth, 0, -self.step)
        return BuilderSeries(
            {float(d): changed(base.builder, depth=d) for d in reversed(depths)},
            base.example_input,
        )


@final
@dataclass(frozen=True)
class MobileNetV2(FamilyKind):
    """torchvision's MobileNetV2 by its width multiplier, whatever the base network.

    Source: RNI, Table 5. Reads 3-channel images; its widths are multiples of 8, as
    torchvision rounds them. The multiplier goes up to `most`.
    """

    num_classes: int
    most: float = 4.0
    name = "MobileNetV2"
    symbol = "multiplier"

    def series(self, base: BaseNetwork, *, divisor: int = 1) -> Series:  # noqa: ARG002 - torchvision's
        return MobileNetSeries(self.num_classes, self.most, base.example_input)


@final
@dataclass(frozen=True)
class PrunedShape(FamilyKind):
    """The profile itself, at every budget that it meets (the blue curve of Crowley et al.)."""

    profile: WidthProfile
    name = "pruned shape"
    has_ladder = False

    def series(self, base: BaseNetwork, *, divisor: int = 1) -> Series:  # noqa: ARG002 - nothing to round
        return _OneShape(self.profile, base.graph_of(self.profile))


class _OneShape(Series):
    def __init__(self, profile: WidthProfile, graph: ChannelGraph) -> None:
        profile.check(graph)
        self._profile, self._graph = profile, graph

    least = most = 1.0

    def shape(self, parameter: float) -> Shape:  # noqa: ARG002 - the same at each
        return Shape(self._profile)

    def cost(self, shape: Shape) -> Cost:
        return self._graph.cost(shape.profile.widths)

    def num_steps(self, low: float, high: float) -> int:  # noqa: ARG002 - none anywhere
        return 0

    def steps(self, low: float, high: float) -> Sequence[float]:  # noqa: ARG002 - none anywhere
        return ()
