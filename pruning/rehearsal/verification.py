"""Holds a channel graph against the network, which is run with fewer channels."""

from __future__ import annotations

import copy
import math
import re
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from pruning.graph.channel_graph import NO_GROUP, ChannelGraph, ChannelGroup
from pruning.graph.channel_labels import Labels
from pruning.networks.garbage_collection import collection_paused
from pruning.rehearsal.replay import COPY, Difference, Flags, Replay, TracedRun
from pruning.rehearsal.time_limit import Clock, OutOfTimeError
from pruning.surgery import UnitsKept, without_units
from pruning.tracer.graph_builder import Atoms
from pruning.tracer.trace_records import Step

Units = Mapping[str, int]
"""How many units stay of each group; groups that are left out stay whole."""

_GOLDEN = (5**0.5 - 1) / 2
"""Multiples of it, less their whole parts, are far from each other."""

_MOST_DOUBTS = 8
"""So many groups are tried one by one that need not be what made a step fail."""

_NUMBER = re.compile(r"\d+")
_STOPPED = "tracing was stopped at {limit:g} s, before it was known whether {what} can go"


@dataclass(frozen=True)
class Failure:
    """Why a step of a run with fewer channels is not as predicted.

    suspects: groups, of those that lost channels, that pass through the step, or else through
        the next that any of them passes through; in the order of the network.
    step: which one.  at: what was expected of it; None behind the last one.
    asked: for what sizes the network asked now, of a reshape.
    narrowed: axes of it along which channels are missing, if its sizes are not as predicted.
    is_last: whether the run ended with it, be it for another one before.
    is_near: whether the suspects pass through the step itself.
    """

    reason: str
    suspects: tuple[str, ...] = ()
    step: int = 0
    at: Step | None = None
    asked: tuple[int, ...] = ()
    narrowed: tuple[Labels, ...] = ()
    is_last: bool = False
    is_near: bool = True


Rehearse = Callable[[Units], tuple[Failure, ...]]


def verified(
    graph: ChannelGraph,
    rehearse: Rehearse,
    in_training: Rehearse | None = None,
    uneven: Collection[str] = (),
) -> ChannelGraph:
    """`graph` with groups pinned, or bounded from below, that the network's code rules out.

    in_training: the same for training mode, if the network runs in it; tried at one width.
    uneven: groups that are divided into parts of several sizes. They lose channels one at a time
        too, since code that divides by a fixed ratio works with equal losses.
    """
    some = some_units(graph)
    pinned: dict[str, str] = {}
    least: dict[str, int] = {}
    why_no_fewer = ChannelGroup.why_no_fewer
    try:
        _pin(failing_groups(some, rehearse), pinned, some)
        if in_training is not None:
            _pin(failing_groups(some, in_training), pinned, some)
        for name in uneven:
            if name in some:
                _pin(failing_groups({name: some[name]}, rehearse), pinned, some)
        least = dict(some)
        floors = _least_units(some, rehearse)
        _pin(failing_groups(floors, rehearse), pinned, some, floors)
        if any(units > 1 for units in floors.values()):
            mixed = _mixed_units(graph, floors)
            _pin(failing_groups(mixed, rehearse), pinned, some, floors)
        least = floors
    except OutOfTimeError as stopped:
        reason = _STOPPED.format(limit=stopped.limit, what="these")
        why_no_fewer = _STOPPED.format(limit=stopped.limit, what="more")
        least = {n: u for n, u in (least or stopped.passed).items() if n not in pinned}
        pinned |= {name: reason for name in some if name not in least}
    known = {name: graph.group(name) for name in (*least, *pinned)}
    return graph.with_groups(
        {
            name: replace(known[name], min_units=units, why_no_fewer=why_no_fewer)
            for name, units in least.items()
        }
        | {name: replace(known[name], pinned=reason) for name, reason in pinned.items()}
    )


def _pin(failing: Mapping[str, str], pinned: dict[str, str], *free: dict[str, int]) -> None:
    """Move what fails from the units of `free` groups to the pinned ones."""
    for name, reason in failing.items():
        pinned[name] = reason
        for units in free:
            units.pop(name, None)


def _least_units(some: Units, rehearse: Rehearse) -> dict[str, int]:
    """The fewest units, of each group, that the network runs with; `some` are known to do.

    Groups of layers that only differ by their number are taken to need the same at first.
    """
    least = dict.fromkeys(some, 1)
    while failures := rehearse(least):
        guilty = _guilty(failures, least, rehearse)
        alike = {_NUMBER.sub("#", name) for name in guilty}
        raised = {n for n in least if _NUMBER.sub("#", n) in alike and least[n] < some[n]}
        if not raised.intersection(guilty):
            break  # it only runs as long as others lose as much
        least |= {name: min(2 * least[name], some[name]) for name in raised}
    for name in [name for name, units in least.items() if units > 2]:
        rest = range(least[name] // 2 + 1, least[name])
        least[name] = rest.start + bisect_left(rest, True, key=lambda n: not rehearse({name: n}))
    return least


def _mixed_units(graph: ChannelGraph, least: Units) -> dict[str, int]:
    """Units of all groups in any proportions, so that sizes that depend on each other show."""
    random = np.random.default_rng(0)
    return {n: int(random.integers(u, graph.group(n).num_units)) for n, u in least.items()}


def some_units(graph: ChannelGraph) -> dict[str, int]:
    """Two thirds to five sixths of the units of each prunable group that has several.

    Groups of one size lose different numbers, so that mistaking one for another shows, and groups
    of different sizes different shares, so that code that works out one from the other does.
    """
    result: dict[str, int] = {}
    by_size: dict[int, list[str]] = {}
    for group in graph.prunable:
        by_size.setdefault(group.num_units - 1, []).append(group.name)
    by_size.pop(0, None)
    for kind, (most, names) in enumerate(by_size.items()):
        share = 2 / 3 + (kind * _GOLDEN) % 1 / 6
        for number, name in enumerate(names):
            result[name] = 1 + (math.ceil(share * (most - 1)) - number) % most
    return {group.name: result[group.name] for group in graph.prunable if group.name in result}


def failing_groups(units: Units, rehearse: Rehearse) -> dict[str, str]:
    """The reason per group that must stay whole for the network to run with these units."""
    failing: dict[str, str] = {}
    rest = dict(units)
    while failures := rehearse(rest):
        failing |= (guilty := _guilty(failures, rest, rehearse))
        rest = {name: number for name, number in rest.items() if name not in guilty}
    return failing


def _guilty(failures: Sequence[Failure], units: Units, rehearse: Rehearse) -> dict[str, str]:
    """Groups that make steps fail, some of them if not all, and the reasons."""
    alone = _guilty_alone(failures, units, rehearse)
    return alone or _guilty_together(failures, units, rehearse)


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
            far = {f.suspects[0] for f in again if len(f.suspects) == 1 and not f.is_near}
            return _confirmed(guilty, far, units, rehearse)
    return {}


def _confirmed(
    guilty: dict[str, str], far: Collection[str], units: Units, rehearse: Rehearse
) -> dict[str, str]:
    """Without those that are fine alone and merely pass through a step behind one that failed.

    far: groups that pass through no step that failed, which are not tried where they are many.
    """
    doubtful = [name for name in guilty if name in far]
    if len(guilty) == 1 or len(doubtful) > _MOST_DOUBTS:
        return guilty
    innocent = {name for name in doubtful if not rehearse({name: units[name]})}
    return {name: why for name, why in guilty.items() if name not in innocent} or guilty


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
    failing: list[str] = []
    for half, rest in ((second, first), (first, failing)):
        context = [*others, *rest]
        if not rehearse({name: units[name] for name in context}):
            failing += _smallest(half, context, units, rehearse)
    return failing


class Rehearsals:
    """Runs the network with fewer channels and tells which steps are not what the graph predicts.

    skeleton: the network, which itself never runs: what a run leaves on it would change the next.
    graph, atoms: what the runs at full width told.  run: the one to hold others against.
    device: on which the network makes tensors of its own.
    clock: ends what takes too long, by OutOfTimeError.
    exact: whether numbers that become values must stay as they are.
    """

    def __init__(
        self,
        skeleton: nn.Module,
        graph: ChannelGraph,
        atoms: Atoms,
        run: TracedRun,
        *,
        device: torch.device | None,
        clock: Clock,
        exact: bool,
    ) -> None:
        self._skeleton, self._graph, self._atoms = skeleton, graph, atoms
        self._device, self._clock, self._exact = device, clock, exact
        self._run = replace(run, steps=[step for step in run.steps if step.operator != COPY])
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

    def of(self, graph: ChannelGraph, atoms: Atoms) -> Rehearsals:
        """The same for another graph of the same runs."""
        result = copy.copy(self)
        result._graph, result._atoms, result._known, result._passed = graph, atoms, {}, {}
        return result

    def comparing_numbers(self) -> Rehearsals:
        """The same that also fails where a number that becomes a value follows a width."""
        result = copy.copy(self)
        result._exact, result._known = True, {}
        return result

    @collection_paused()
    def _rehearse(self, units: Units) -> tuple[Failure, ...]:
        run = self._run
        replay = Replay(run.steps, self._alive(units), exact=self._exact, tick=self._clock.tick)
        smaller = without_units(self._skeleton, self._graph, self._units_kept(units))
        last = replay.follow(smaller.train(run.training), run, self._device)
        differences = [*replay.differences, *([last] if last else [])]
        return tuple(self._failure(difference, units) for difference in differences)

    def _failure(self, difference: Difference, units: Units) -> Failure:
        steps = self._run.steps[difference.step :]
        axes = _labels_of(steps[:1]) if difference.is_of_sizes else ()
        suspects = self._suspects(steps, units)
        return Failure(
            difference.reason,
            suspects,
            difference.step,
            steps[0] if steps else None,
            difference.asked,
            tuple(labels for labels in axes if self._names(labels) & units.keys()),
            difference.is_last,
            is_near=self._suspects(steps[:1], units) == suspects,
        )

    def _units_kept(self, units: Units) -> UnitsKept:
        """The last units of each group go."""
        return {
            g.name: np.arange(g.num_units) < units.get(g.name, g.num_units)
            for g in self._graph.groups
        }

    def _alive(self, units: Units) -> Flags:
        """Per atom, whether it stays."""
        stay = np.array([units.get(g.name, g.num_units) for g in self._graph.groups] + [0])
        alive: Flags = self._atoms.unit < stay[self._atoms.group]
        alive |= self._atoms.group == NO_GROUP
        return alive

    def _suspects(self, steps: Sequence[Step], units: Units) -> tuple[str, ...]:
        """The groups among `units` in the first of these steps that touches any of them."""
        for step in steps:
            names = {name for labels in _labels_of([step]) for name in self._names(labels)}
            if touched := names & units.keys():
                return tuple(group.name for group in self._graph.groups if group.name in touched)
        return ()

    def _names(self, labels: Labels) -> set[str]:
        """The groups that have channels along an axis."""
        numbers = np.unique(self._atoms.group[labels]).tolist()
        return {self._graph.groups[number].name for number in numbers if number != NO_GROUP}


def _labels_of(steps: Sequence[Step]) -> Iterator[Labels]:
    """Of all axes of what these steps returned and were given, each once."""
    axes = (a for step in steps for labels in (*step.axes, *step.operands) for a in labels)
    yield from {id(labels): labels for labels in axes if labels is not None}.values()
