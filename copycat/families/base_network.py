"""The network that the members of families are made of."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from copycat.build import build, without_removed
from copycat.builder import Builder
from copycat.families.series import Shape
from copycat.recipes import Recipe, recorded
from copycat.width_profile import WidthProfile
from pruning.cost import ExampleInput
from pruning.graph.channel_graph import ChannelGraph
from pruning.restrictions import Restrictions
from pruning.rules import Offered
from pruning.structure_removal.structures import Structure
from pruning.tracing import whole_trace


@dataclass(frozen=True)
class BaseNetwork:
    """A network that others are derived from.

    builder: makes it.  graph: its trace, under its restrictions.
    restrictions: what keeps its channels in all that are derived.
    """

    builder: Builder
    graph: ChannelGraph
    example_input: ExampleInput
    restrictions: Restrictions = field(default_factory=Restrictions)

    @classmethod
    def of(
        cls,
        builder: Builder,
        example_input: ExampleInput,
        *,
        exact: bool = True,
        whole_heads: bool = False,
    ) -> BaseNetwork:
        """Build the network once and trace it; `exact` and `whole_heads` as for `trace`."""
        made = _fresh(builder)
        graph = whole_trace(made[0], example_input, Offered(exact, whole_heads))
        base = cls(builder, graph, example_input)
        base.__dict__["made"] = made
        return base

    def under(self, restrictions: Restrictions) -> BaseNetwork:
        """The same under these restrictions; ConfigError for one that fits no layer."""
        restrictions.check(self.graph)
        return self._with(restrictions.of(self.graph), restrictions)

    def pruning(self, names: Iterable[str]) -> BaseNetwork:
        """The same, of which these groups are pruned; see ChannelGraph.pruning."""
        return self._with(self.graph.pruning(names), self.restrictions)

    def _with(self, graph: ChannelGraph, restrictions: Restrictions) -> BaseNetwork:
        base = replace(self, graph=graph, restrictions=restrictions)
        base.__dict__["made"] = self.made
        return base

    @functools.cached_property
    def made(self) -> tuple[nn.Module, Recipe]:
        """The network and its constructor's recipe, made when they are first asked for."""
        return _fresh(self.builder)

    def graph_of(self, profile: WidthProfile) -> ChannelGraph:
        """The graph that prices this shape: without the structures that it lacks."""
        if profile.removed not in self._graphs:
            left = without_removed(self.made[0], profile, self.example_input)
            graph = whole_trace(left, self.example_input, self.graph.offered)
            self._graphs[profile.removed] = self.restrictions.of(graph, self.graph)
        return self._graphs[profile.removed]

    @functools.cached_property
    def _graphs(self) -> dict[tuple[Structure, ...], ChannelGraph]:
        """By the structures that are missing."""
        return {(): self.graph}

    def build(self, shape: Shape, seed: int = 0) -> nn.Module:
        """The network of this shape with fresh weights drawn from `seed`.

        torch's own random generators are left as they were.
        """
        if shape.builder is None:
            model, recipe = self.made
            return build(
                model, shape.profile, self.example_input, seed, graph=self.graph, recipe=recipe
            )
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return shape.builder()


def _fresh(builder: Builder) -> tuple[nn.Module, Recipe]:
    with torch.random.fork_rng(devices=[]):  # weights do not matter here
        return recorded(builder)
