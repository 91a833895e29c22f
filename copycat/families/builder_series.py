"""Shapes that differ in an argument of their builder, such as its depth."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch

from copycat.builder import Builder
from copycat.families.series import Series, Shape
from copycat.width_profile import WidthProfile
from pruning.cost import Cost, ExampleInput
from pruning.errors import ModelError
from pruning.tracing import trace


class BuilderSeries(Series):
    """Networks of several builders, by a rising parameter.

    builders: by parameter, rising. Those that raise ModelError and are smaller than all that
        can be built are no members. Each is built and traced when its cost is first asked for.
    """

    def __init__(self, builders: Mapping[float, Builder], example_input: ExampleInput) -> None:
        self._builders, self._example_input = builders, example_input
        self._parameters = sorted(builders)
        while self._parameters and not _can_be_built(builders[self._parameters[0]]):
            self._parameters.pop(0)
        if not self._parameters:
            raise ModelError("no smaller network of this kind can be built")
        self._costs: dict[int, Cost] = {}

    @property
    def least(self) -> float:
        return self._parameters[0]

    @property
    def most(self) -> float:
        return self._parameters[-1]

    def shape(self, parameter: float) -> Shape:
        """The shape at the parameter, or at the next lower one that there is."""
        return Shape(WidthProfile({}), self._builders[self.named(parameter)])

    def named(self, parameter: float) -> float:
        return max((p for p in self._parameters if p <= parameter), default=self.least)

    def cost(self, shape: Shape) -> Cost:
        assert shape.builder is not None
        key = id(shape.builder)  # of this series, which keeps its builders
        if key not in self._costs:
            with torch.random.fork_rng(devices=[]):  # weights do not matter here
                network = shape.builder()
            self._costs[key] = trace(network, self._example_input).cost()
        return self._costs[key]

    def num_steps(self, low: float, high: float) -> int:
        return len(self.steps(low, high))

    def steps(self, low: float, high: float) -> Sequence[float]:
        return [parameter for parameter in self._parameters if low < parameter <= high]


def changed(builder: Builder, **arguments: object) -> Builder:
    """The same builder with some arguments replaced."""
    return dataclasses.replace(builder, arguments={**builder.arguments, **arguments})


def whole_argument(builder: Builder, name: str) -> int:
    """A whole number among the builder's arguments; ModelError if it has none of that name."""
    value = builder.arguments.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ModelError(
            f"{builder.target} is not built with an argument {name!r}: give a builder such as "
            f'Builder("search.models:wide_resnet", {{"depth": 40, "width": 2}}), or '
            f'Builder("search.models:resnet", {{"depth": 56}})'
        )
    return value


def _can_be_built(builder: Builder) -> bool:
    try:
        with torch.random.fork_rng(devices=[]):
            builder()
    except ModelError:
        return False
    return True
