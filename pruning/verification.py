"""Holds a channel graph against the network, which is run with fewer channels."""

from __future__ import annotations

import copy
from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from pruning.channel_graph import NO_GROUP, ChannelGraph
from pruning.graph_builder import Atoms
from pruning.meta_kernels import MetaKernels
from pruning.replay import COPY, Difference, Flags, Replay, TracedRun
from pruning.selection import KeepPlan
from pruning.surgery import remove_channels
from pruning.time_limit import Clock, OutOfTimeError
from pruning.trace_records import Reshape, Step

Units = Mapping[str, int]
"""How many units stay of each group; groups that are left out stay whole."""

_UNFINISHED = "tracing was stopped at {limit:g} s, before it was known whether these can go"


@dataclass(frozen=True)
class Failure:
    """Why a step of a run with fewer channels is not as predicted.

    suspects: groups, of those that lost channels, that pass through the step, or else through
        the next that any of them passes through; in the order of the network.
    step: which one.
    reshape: of a reshape that splits an axis of channels, and what the network asked for now.
    """

    reason: str
    suspects: tuple[str, ...] = ()
    step: int = 0
    reshape: Reshape | None = None
    asked: tuple[int, ...] = ()


Rehearse = Callable[[Units], tuple[Failure, ...]]


def verified(graph: ChannelGraph, rehearse: Rehearse, uneven: Collection[str] = ()) -> ChannelGraph:
    """`graph` with groups pinned, or bounded from below, that the network's code rules out.

    uneven: groups that are divided into parts of several sizes. They lose channels one at a time
        too, since code that divides by a fixed ratio works with equal losses.
    """
    some = some_units(graph)
    pinned: dict[str, str] = {}
    least: dict[str, int] = {}
    try:
        pinned |= failing_groups(some, rehearse)
        for name in uneven:
            if name in some and name not in pinned:
                pinned |= failing_groups({name: some[name]}, rehearse)
        some = {name: units for name, units in some.items() if name not in pinned}
        least = dict(some)
        floors = dict.fromkeys(some, 1)
        for name, reason in failing_groups(floors, rehearse).items():
            if rehearse({name: some[name]}):  # it only works as long as others lose as much
                pinned[name] = reason
            floors[name] = _least_units(name, some[name], rehearse)
        pinned |= failing_groups({n: u for n, u in floors.items() if n not in pinned}, rehearse)
        least = {name: units for name, units in floors.items() if name not in pinned}
    except OutOfTimeError as stopped:
        reason = _UNFINISHED.format(limit=stopped.limit)
        passed = {name: units for name, units in least.items() if name not in pinned}
        least = passed or stopped.passed
        pinned |= {name: reason for name in some if name not in pinned and name not in least}
    known = {name: graph.group(name) for name in (*least, *pinned)}
    return graph.with_groups(
        {name: replace(known[name], min_units=units) for name, units in least.items()}
        | {name: replace(known[name], pinned=reason) for name, reason in pinned.items()}
    )


def _least_units(name: str, most: int, rehearse: Rehearse) -> int:
    """The fewest units of one group that the network runs with; `most` are known to do."""
    return 1 + bisect_left(range(1, most), True, key=lambda n: not rehearse({name: n}))


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
    """The reason per group that must stay whole for the network to run with these units."""
    failing: dict[str, str] = {}
    rest = dict(units)
    while failures := rehearse(rest):
        guilty = _guilty_alone(failures, rest, rehearse) or _guilty_together(
            failures, rest, rehearse
        )
        failing |= guilty
        rest = {name: number for name, number in rest.items() if name not in guilty}
    return failing


def _guilty_alone(failures: Sequence[Failure], units: Units, rehearse: Rehearse) -> dict[str, str]:
    """Groups without which the steps that failed do not, and the reasons; none if unclear.

    Each step is tried with one of its suspects, all steps in one run, so that it takes as few
    runs for a hundred equal blocks as for one.
    """
    for turn in range(max(len(failure.suspects) for failure in failures)):
        batch = {f.suspects[turn] for f in failures if turn < len(f.suspects)}
        again = rehearse({name: units[name] for name in units if name in batch})
        accused = {f.step: (f.suspects[0], f.reason) for f in again if len(f.suspects) == 1}
        without = {name for name, _ in accused.values()}
        if not accused:
            continue
        rest = {name: number for name, number in units.items() if name not in without}
        still = {failure.step for failure in rehearse(rest)}
        guilty: dict[str, str] = {}
        for step, (name, reason) in accused.items():
            if step not in still:
                guilty.setdefault(name, reason)
        if guilty:
            return guilty
    return {}


def _guilty_together(
    failures: Sequence[Failure], units: Units, rehearse: Rehearse
) -> dict[str, str]:
    """Groups that only fail together, the fewest that there are, and why."""
    names = list(failures[0].suspects)
    alone = rehearse({name: units[name] for name in names})
    guilty = _smallest(names if alone else list(units), [], units, rehearse)
    failed = rehearse({name: units[name] for name in guilty}) or failures
    return dict.fromkeys(guilty, failed[0].reason)


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
        if not rehearse({name: units[name] for name in context}):
            found += _smallest(half, context, units, rehearse)
    return found


class Rehearsals:
    """Runs the network with fewer channels and tells which steps are not what the graph predicts.

    skeleton: the network, which itself never runs: what a run leaves on it would change the next.
    graph, atoms: what the runs at full width told.
    kernels: what has run on meta tensors before.
    device: on which the network makes tensors of its own.
    clock: ends what takes too long, by OutOfTimeError.
    exact: whether numbers that become values must stay as they are.
    """

    def __init__(
        self,
        skeleton: nn.Module,
        graph: ChannelGraph,
        atoms: Atoms,
        runs: Sequence[TracedRun],
        *,
        kernels: MetaKernels,
        device: torch.device | None,
        clock: Clock,
        exact: bool,
    ) -> None:
        self._skeleton, self._graph, self._atoms, self._kernels = skeleton, graph, atoms, kernels
        self._device, self._clock, self._exact = device, clock, exact
        self._runs = [
            replace(run, steps=[step for step in run.steps if step.operator != COPY])
            for run in runs
        ]
        self._known: dict[frozenset[tuple[str, int]], tuple[Failure, ...]] = {}
        self._passed: Units = {}

    def __call__(self, units: Units) -> tuple[Failure, ...]:
        """How the network without some units fails, step by step; nothing if as predicted."""
        key = frozenset(units.items())
        if key not in self._known:
            self._clock.check(len(self._known), self._passed)
            self._known[key] = self._rehearse(units) if units else ()
            if not self._known[key] and len(units) > len(self._passed):
                self._passed = dict(units)
        return self._known[key]

    def comparing_numbers(self) -> Rehearsals:
        """The same that also fails where a number that becomes a value follows a width."""
        result = copy.copy(self)
        result._exact, result._known = True, {}
        return result

    def _rehearse(self, units: Units) -> tuple[Failure, ...]:
        """Of the first mode in which it fails."""
        plan, alive = self._plan(units), self._alive(units)
        for run in self._runs:
            replay = Replay(run.steps, alive, self._kernels, exact=self._exact)
            smaller = remove_channels(self._skeleton, self._graph, plan).train(run.training)
            last = replay.follow(smaller, run, self._device)
            found = [*replay.differences, *([last] if last else [])]
            if found:
                return tuple(self._failure(run, difference, units) for difference in found)
        return ()

    def _failure(self, run: TracedRun, difference: Difference, units: Units) -> Failure:
        steps, number = run.steps, difference.step
        step = steps[number] if number < len(steps) else None
        return Failure(
            difference.reason,
            self._suspects(steps[number:], units),
            number + (len(self._runs[0].steps) if run.training else 0),
            step.reshape if step else None,
            difference.asked,
        )

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

    def _suspects(self, steps: Sequence[Step], units: Units) -> tuple[str, ...]:
        """The groups among `units` in the first of these steps that touches any of them."""
        for step in steps:
            labels = [a for axes in (*step.axes, *step.operands) for a in axes if a is not None]
            numbers = {int(n) for a in labels for n in np.unique(self._atoms.group[a])}
            names = [self._graph.groups[n].name for n in sorted(numbers) if n != NO_GROUP]
            if touched := [name for name in names if name in units]:
                return tuple(touched)
        return ()
