"""Which attributes of a network's modules hold a number of channels that its code goes by.

Code such as `x.split(self.width, 1)` works with fewer channels if `self.width` follows them. Where
a step fails in runs with fewer channels, numbers of the module that runs are tried that are as
large as an axis of the step, and those kept with which the step does not fail any more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

from torch import nn

from pruning.layer_sizes import own_sizes
from pruning.rehearsal.verification import Failure
from pruning.tracer.trace_records import Slot

_MOST_TURNS = 6
"""How often other attributes are tried for one step."""

_MOST_PARTS = 4
"""Into how many equal parts an axis is divided, such as queries, keys and values."""


def kept_sizes(
    model: nn.Module, failures: Callable[[Sequence[Slot]], Sequence[Failure]]
) -> tuple[Slot, ...]:
    """The attributes of modules of `model` that must follow channels, with their labels.

    failures: how a run with fewer channels fails if these attributes follow them. It may end with
        the first step that fails, so that there are as many runs as there are such steps.
    """
    kept: dict[int, list[Slot]] = {}
    turns: Counter[int] = Counter()
    while True:
        failed = [failure for failure in failures(_all(kept)) if failure.at]
        first = [failure for failure in failed if not failure.is_last]
        failing = {failure.step: failure for failure in first or failed}
        proposals = {step: _in_turn(model, why, turns[step]) for step, why in failing.items()}
        turns.update(failing.keys())
        if not any(slots or step in kept for step, slots in proposals.items()):
            return _all(kept)
        kept = {step: slots for step, slots in (kept | proposals).items() if slots}


def _all(kept: dict[int, list[Slot]]) -> tuple[Slot, ...]:
    """Every attribute with each number of channels once, in the order of the steps."""
    slots = [slot for _, proposed in sorted(kept.items()) for slot in proposed]
    return tuple({(slot.name, id(slot.labels)): slot for slot in slots}.values())


def _in_turn(model: nn.Module, failure: Failure, turn: int) -> list[Slot]:
    """What is tried for a step that failed as often before; nothing after the last turn."""
    return next(islice(_alternatives(model, failure), turn, _MOST_TURNS), [])


def _alternatives(model: nn.Module, failure: Failure) -> Iterator[list[Slot]]:
    """An attribute for each axis of a step that is narrower than before.

    First those as large as the axis, one after the other; then different ones for axes of one
    size; then those as large as one of a few equal parts.
    """
    choices = _choices(model, failure)
    for turn in range(max(map(len, choices), default=0)):
        yield [slots[min(turn, len(slots) - 1)] for slots in choices]
    if failure.is_last:
        return  # it may only follow from another one, for which these are tried
    others = [_different(model, failure)]
    others += [_parts(model, failure, number) for number in range(2, _MOST_PARTS + 1)]
    yield from (slots for slots in others if slots)


def _different(model: nn.Module, failure: Failure) -> list[Slot]:
    """Different attributes for axes of one size, as in a split at two sizes that are equal."""
    ranks: Counter[tuple[str, ...]] = Counter()
    chosen = []
    for slots in _choices(model, failure):
        names = tuple(slot.name for slot in slots)
        chosen.append(slots[ranks[names] % len(slots)])
        ranks[names] += 1
    return chosen if any(n > 1 and len(names) > 1 for names, n in ranks.items()) else []


def _parts(model: nn.Module, failure: Failure, parts: int) -> list[Slot]:
    """For each axis the first attribute as large as one of so many equal parts, which it ties."""
    first_choices = [slots[0] for slots in _choices(model, failure, parts)]
    return [
        replace(slot, labels=part)
        for slot in first_choices
        for part in slot.labels.reshape(parts, -1)
    ]


def _choices(model: nn.Module, failure: Failure, parts: int = 1) -> list[list[Slot]]:
    """For each narrower axis of the step that has any, all attributes as large as a part of it.

    Of the module that runs first, then of those around it.
    """
    sizes = list(_sizes_around(model, failure.at.module)) if failure.at else []
    choices = [
        [
            Slot(name, 0, labels)
            for name, value in sizes
            if value * parts == len(labels) and value >= min(parts, 2)
        ]
        for labels in failure.narrowed
    ]
    return [slots for slots in choices if slots]


def _sizes_around(model: nn.Module, module: str) -> Iterator[tuple[str, int]]:
    while True:
        yield from own_sizes(model.get_submodule(module), module)
        if not module:
            return
        module = module.rpartition(".")[0]
