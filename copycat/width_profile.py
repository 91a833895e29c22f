"""WidthProfile: the shape of a network, as numbers that a person can read and edit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import floor
from typing import Any

from torch import nn

from pruning.cost import ExampleInput
from pruning.errors import PlanError, ProfileError
from pruning.graph.channel_graph import ChannelGraph
from pruning.networks.wrappers import unwrapped
from pruning.rules import OF_HEADS, Offered
from pruning.structure_removal.structures import KINDS, Structure
from pruning.tracing import whole_trace

MOST_CHANNELS = 2**31 - 1
"""The widest group that a profile may ask for."""


@dataclass(frozen=True)
class WidthProfile:
    """Width per channel group; groups that are left out are as wide as in the base network.

    removed: layers, branches and blocks that are gone (see pruning.remove_structures).
    Profiles are equal when they name the same widths, in any order, and removed structures.
    Source: the retained-channel profile of Crowley et al., "Pruning neural networks: is it
    time to nip it in the bud?", fig. 2c.
    """

    widths: Mapping[str, int]
    removed: tuple[Structure, ...] = ()

    def __post_init__(self) -> None:
        by_kind = sorted(self.removed, key=lambda structure: KINDS.index(structure.kind))
        object.__setattr__(self, "removed", tuple(by_kind))  # as in JSON
        for name, width in self.widths.items():
            is_number = isinstance(width, int) and not isinstance(width, bool)
            if not is_number or not 1 <= width <= MOST_CHANNELS:
                raise ProfileError(
                    f"the width of group {name!r} must be a whole number from 1 to "
                    f"{MOST_CHANNELS}, got {width!r}"
                )

    @classmethod
    def of(cls, graph: ChannelGraph, names: tuple[str, ...] | None = None) -> WidthProfile:
        """The full widths of these groups, or of all prunable ones."""
        chosen = names if names is not None else tuple(g.name for g in graph.prunable)
        return cls({name: graph.group(name).width for name in chosen})

    @classmethod
    def of_network(
        cls,
        model: nn.Module,
        example_input: ExampleInput,
        base: ChannelGraph,
        removed: tuple[Structure, ...] = (),
    ) -> WidthProfile:
        """The widths that pruning left: of `model`, for every prunable group of its base network.

        base: the graph of the base network, without the structures that are `removed` if there
            are any. Raises ProfileError if `model` is no narrowed form of it.
        """
        offered = Offered(whole_heads=base.offered.whole_heads)
        widths = whole_trace(model, example_input, offered).widths | _widths_of_heads(model, base)
        missing = [group.name for group in base.prunable if group.name not in widths]
        if missing:
            raise ProfileError(
                f"this network has no channel group {missing[0]!r} as its base network has: name "
                "the structures that were removed, and trace the base network without them"
            )
        profile = cls({group.name: widths[group.name] for group in base.prunable}, removed)
        profile.check(base)
        return profile

    @classmethod
    def mean(cls, profiles: Sequence[WidthProfile], graph: ChannelGraph) -> WidthProfile:
        """The mean width of every group that any of them names, rounded half up to whole units.

        graph: of the network without the structures that they all lack; its widths stand for
            groups that are left out. Raises ProfileError for no profile, profiles that remove
            different structures, and widths that do not fit the graph.
        """
        if not profiles:
            raise ProfileError("the mean of no profiles: give at least one")
        if any(set(profile.removed) != set(profiles[0].removed) for profile in profiles):
            raise ProfileError("profiles that remove different structures have no mean")
        for profile in profiles:
            profile.check(graph)
        widths = {}
        for name in dict.fromkeys(name for profile in profiles for name in profile.widths):
            group = graph.group(name)
            total = sum(profile.widths.get(name, group.width) for profile in profiles)
            units = floor(Fraction(total, len(profiles) * group.unit) + Fraction(1, 2))
            widths[name] = group.unit * max(group.min_units, units)
        return cls(widths, profiles[0].removed)

    @classmethod
    def from_json(cls, text: str) -> WidthProfile:
        """Reads what `to_json` writes; ProfileError for anything else."""
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ProfileError(f"a profile is not readable as JSON: {error}") from error
        return cls.from_mapping(content)

    @classmethod
    def from_mapping(cls, content: object) -> WidthProfile:
        """Reads what `to_mapping` writes; ProfileError for anything else."""
        if not isinstance(content, Mapping) or not isinstance(content.get("widths"), Mapping):
            raise ProfileError('a profile is a JSON object such as {"widths": {"conv1": 12}}')
        return cls(dict(content["widths"]), _structures(content.get("removed", {})))

    def to_json(self) -> str:
        """One group a line, in the order of the network."""
        return json.dumps(self.to_mapping(), indent=2)

    def to_mapping(self) -> dict[str, Any]:
        """JSON-able; removed structures are mentioned, by kind, only if there are any."""
        removed: dict[str, list[str]] = {}
        for structure in self.removed:
            removed.setdefault(structure.kind, []).append(structure.name)
        return {"widths": dict(self.widths), **({"removed": removed} if removed else {})}

    def difference(self, other: WidthProfile, graph: ChannelGraph) -> dict[str, int]:
        """Channels that `self` has more (or, below 0, fewer) of than `other`, where they differ.

        graph: its widths stand for groups that are left out. Groups in the order of the graph;
        empty exactly if both ask for the same widths. Raises ProfileError for widths that do
        not fit the graph.
        """
        both = [graph.widths | dict(profile.widths) for profile in (self, other)]
        for profile in (self, other):
            profile.check(graph)
        return {
            name: both[0][name] - both[1][name]
            for name in both[0]
            if both[0][name] != both[1][name]
        }

    def check(self, graph: ChannelGraph) -> None:
        """Raise ProfileError unless the network of `graph` can be built at these widths.

        The message says what is wrong with the first group that does not fit: a name that no
        group has, a layer that shares the channels of another, a width that is pinned or that
        splits channels which go together.
        """
        known = graph.widths
        for name, width in self.widths.items():
            if name not in known:
                for group in graph.groups:
                    if name in group.layers or name in group.producers:
                        raise ProfileError(
                            f"{name!r} has no width of its own: its channels are tied to those of "
                            f"group {group.name!r}; set the width there"
                        )
            try:
                graph.units_at(name, width)
            except PlanError as error:
                raise ProfileError(f"the profile does not fit the network: {error}") from error

    def permitted(self, graph: ChannelGraph) -> WidthProfile:
        """The same with the least width that `graph` permits where one is below that.

        Such are groups that keep more than they need; see pruning.Restrictions. Raises
        ProfileError for a profile that does not fit the graph even so.
        """
        known = {group.name: group for group in graph.groups}
        widths = {
            name: max(width, known[name].least_width) if name in known else width
            for name, width in self.widths.items()
        }
        profile = WidthProfile(widths, self.removed)
        profile.check(graph)
        return profile

    def fits(self, graph: ChannelGraph) -> bool:
        """Whether the network of `graph` can be built at these widths."""
        try:
            self.check(graph)
        except ProfileError:
            return False
        return True

    @property
    def has_whole_heads(self) -> bool:
        """Whether it says how many channels whole heads keep; see `pruning.trace`."""
        return any(name.endswith(OF_HEADS) for name in self.widths)

    @property
    def digest(self) -> str:
        """Eight hexadecimal digits that name this shape; equal for equal profiles."""
        text = json.dumps(self.to_mapping(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]


def _widths_of_heads(model: nn.Module, base: ChannelGraph) -> dict[str, int]:
    """Widths of the groups of `base` of which whole heads go, as long as their layers' outputs.

    A trace does not tell where a single head is left.
    """
    shapes = {name: tensor.shape for name, tensor in unwrapped(model).named_parameters()}
    axes = {g.name: base.axis_along(g) for g in base.prunable if g.name.endswith(OF_HEADS)}
    return {
        group: int(shapes[axis[0]][axis[1]])
        for group, axis in axes.items()
        if axis is not None and axis[0] in shapes
    }


def _structures(content: object) -> tuple[Structure, ...]:
    if not isinstance(content, Mapping) or not all(
        kind in KINDS and isinstance(names, list) and all(isinstance(n, str) for n in names)
        for kind, names in content.items()
    ):
        raise ProfileError(
            f'"removed" must hold lists of names under {", ".join(KINDS)}, got {content!r}'
        )
    return tuple(Structure(kind, name) for kind in KINDS for name in content.get(kind, []))
