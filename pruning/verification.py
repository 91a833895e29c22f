"""Holds a channel graph against the network, which is run with fewer channels."""

from __future__ import annotations

import textwrap
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import nn

from pruning.channel_graph import NO_GROUP, ChannelGraph
from pruning.channel_labels import AxisLabels, Labels
from pruning.cost import ExampleInput
from pruning.errors import first_line
from pruning.graph_builder import Atoms
from pruning.meta_kernels import MetaKernels
from pruning.operators import Call
from pruning.selection import KeepPlan
from pruning.surgery import remove_channels
from pruning.trace_records import Step
from pruning.tracer import Tracer, follow

Units = Mapping[str, int]
"""How many units stay of each group; groups that are left out stay whole."""


@dataclass(frozen=True)
class Failure:
    """Why a run with fewer channels is not as predicted.

    suspects: groups whose channels pass through the step at which it showed.
    """

    reason: str
    suspects: frozenset[str]


_COPY = "aten::clone"
_VIEWS = frozenset({"aten::view", "aten::_unsafe_view", "aten::_reshape_alias"})
"""Whether `reshape` copies depends on the layout of memory, which a single channel simplifies."""

_OTHER_PATH = "the network takes another path through its code with fewer channels"

Flags = NDArray[np.bool_]
Rehearse = Callable[[Units], Failure | None]


def verified(graph: ChannelGraph, rehearse: Rehearse) -> ChannelGraph:
    """`graph` with groups pinned, or bounded from below, that the network's code rules out."""
    some = some_units(graph)
    pinned = failing_groups(some, rehearse)
    some = {name: units for name, units in some.items() if name not in pinned}
    floors = dict.fromkeys(some, 1)
    for name in failing_groups(floors, rehearse):
        floors[name] = _least_units(name, some[name], rehearse)
    pinned |= failing_groups(floors, rehearse)
    known = {name: graph.group(name) for name in (*floors, *pinned)}
    return graph.with_groups(
        {name: replace(known[name], min_units=units) for name, units in floors.items()}
        | {name: replace(known[name], pinned=reason) for name, reason in pinned.items()}
    )


def _least_units(name: str, most: int, rehearse: Rehearse) -> int:
    """The fewest units of one group that the network runs with; `most` are known to do."""
    return 1 + bisect_left(range(1, most), True, key=lambda n: rehearse({name: n}) is None)


def some_units(graph: ChannelGraph) -> dict[str, int]:
    """About two thirds of the units of each prunable group that has several.

    Groups of one size lose different numbers, so that mistaking one for another shows.
    """
    result: dict[str, int] = {}
    num_alike: dict[int, int] = {}
    for group in graph.prunable:
        most = group.num_units - 1
        if most > 0:
            number = num_alike[most] = num_alike.get(most, -1) + 1
            result[group.name] = 1 + (most - 1 - (most - 1) // 3 - number) % most
    return result


def failing_groups(units: Units, rehearse: Rehearse) -> dict[str, str]:
    """The reason per group that must stay whole for the network to run with these units.

    Whichever pass through the step that shows a failure are tried first.
    """
    failing: dict[str, str] = {}
    rest = dict(units)
    while (failure := rehearse(rest)) is not None:
        names = [name for name in rest if name in failure.suspects]
        alone = rehearse({name: rest[name] for name in names})
        guilty = _smallest(names if alone else list(rest), [], rest, rehearse)
        found = rehearse({name: rest.pop(name) for name in guilty}) or failure
        failing |= dict.fromkeys(guilty, found.reason)
    return failing


def _smallest(
    names: Sequence[str], others: Sequence[str], units: Units, rehearse: Rehearse
) -> list[str]:
    """The fewest of `names` that fail together with `others`, by halving.

    All `names` with `others` are known to fail. Junker (2004), "QuickXplain".
    """
    if len(names) == 1:
        return list(names)
    middle = len(names) // 2
    first, second = names[:middle], names[middle:]
    found: list[str] = []
    for half, rest in ((second, first), (first, found)):
        context = [*others, *rest]
        if rehearse({name: units[name] for name in context}) is None:
            found += _smallest(half, context, units, rehearse)
    return found


class Rehearsals:
    """Runs the network with fewer channels until a step is not what the graph predicts.

    tracer: of the run at full width that the graph and its `atoms` were made from.
    """

    def __init__(
        self,
        skeleton: nn.Module,
        inputs: ExampleInput,
        graph: ChannelGraph,
        atoms: Atoms,
        tracer: Tracer,
    ) -> None:
        self._skeleton, self._inputs, self._graph = skeleton, inputs, graph
        self._atoms, self._kernels = atoms, tracer.kernels
        self._steps = [step for step in tracer.steps if step.operator != _COPY]
        self._known: dict[frozenset[tuple[str, int]], Failure | None] = {}

    def __call__(self, units: Units) -> Failure | None:
        """How the network without some units fails, or None if it runs as predicted."""
        key = frozenset(units.items())
        if key not in self._known:
            self._known[key] = self._rehearse(units) if units else None
        return self._known[key]

    def _rehearse(self, units: Units) -> Failure | None:
        smaller = remove_channels(self._skeleton, self._graph, self._plan(units))
        replay = _Replay(self._steps, self._alive(units), self._kernels)
        try:
            follow(replay, smaller, self._inputs)
            reason = replay.difference or replay.missing()
        except Exception as error:  # whatever a network raises that is not made for this width
            why = textwrap.shorten(first_line(error), 70)
            reason = replay.difference or f"a size written into the network's code ({why})"
        return Failure(reason, self._suspects(replay.position, units)) if reason else None

    def _plan(self, units: Units) -> KeepPlan:
        """The last units of each group go."""
        unit_of = {name: self._graph.group(name).unit_of_channel for name in units}
        return KeepPlan(
            {name: tuple(np.flatnonzero(unit_of[name] < n).tolist()) for name, n in units.items()}
        )

    def _alive(self, units: Units) -> Flags:
        """Per atom, whether it stays."""
        stay = np.array([units.get(g.name, g.num_units) for g in self._graph.groups] + [0])
        alive: Flags = self._atoms.unit < stay[self._atoms.group]
        alive |= self._atoms.group == NO_GROUP
        return alive

    def _suspects(self, position: int, units: Units) -> frozenset[str]:
        """The groups among `units` in the first step from here on that touches any of them."""
        for step in self._steps[position:]:
            labels = [a for axes in (*step.axes, *step.operands) for a in axes if a is not None]
            numbers = {int(n) for a in labels for n in np.unique(self._atoms.group[a])}
            names = {self._graph.groups[n].name for n in numbers if n != NO_GROUP}
            if found := names & units.keys():
                return frozenset(found)
        return frozenset()


def _kind(step: Step) -> str:
    return "aten::view" if step.operator in _VIEWS else step.operator


class _Replay(Tracer):  # type: ignore[no-untyped-call]
    """Follows no labels but compares every step, and ends the run at the first difference.

    expected: steps at full width. alive: per atom, whether it stays.
    """

    def __init__(self, expected: Sequence[Step], alive: Flags, kernels: MetaKernels) -> None:
        super().__init__({}, kernels)
        self._expected, self._alive = expected, alive
        self._sizes: dict[int, int] = {}
        self.position = 0
        self.difference: str | None = None

    def note(self, step: Step) -> None:
        if step.operator == _COPY:
            return
        self.difference = self._compare(step)
        if self.difference is not None:
            raise InterruptedError(self.difference)  # Rehearsals reads `difference`
        self.position += 1

    def missing(self) -> str | None:
        """What to say if the run ended before all steps were made."""
        return _OTHER_PATH if self.position < len(self._expected) else None

    def _follow(self, call: Call, pointwise: bool) -> None:
        pass

    def _store(self, call: Call, is_alias: list[bool]) -> None:
        pass

    def _compare(self, after: Step) -> str | None:
        before = self._expected[self.position] if self.missing() else None
        if before is None or _kind(before) != _kind(after):
            return _OTHER_PATH
        where = f"{before.operator} in {before.module or 'the network'}"
        if before.constants != after.constants:
            return f"{where} uses a number that is computed from the number of channels"
        sizes = map(self._sizes_of, before.shapes, before.axes)
        if tuple(sizes) != after.shapes:
            return f"{where} has a size written into the network's code"
        return None

    def _sizes_of(self, shape: tuple[int, ...], axes: AxisLabels) -> tuple[int, ...]:
        return tuple(
            size if labels is None else self._num_alive(labels)
            for size, labels in zip(shape, axes, strict=True)
        )

    def _num_alive(self, labels: Labels) -> int:
        if id(labels) not in self._sizes:  # the steps hold the labels, so ids stay taken
            self._sizes[id(labels)] = int(np.count_nonzero(self._alive[labels]))
        return self._sizes[id(labels)]
