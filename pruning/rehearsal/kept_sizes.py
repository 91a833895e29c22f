"""Which attributes of a network's modules hold a number of channels that its code goes by.

Code such as `x.split(self.width, 1)` works with fewer channels if `self.width` follows them. Where
a step fails in runs with fewer channels, numbers of the module that runs are tried that are as
large as an axis of the step, and those kept with which the step does not fail any more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from torch import nn

from pruning.graph.channel_labels import Labels
from pruning.layer_sizes import own_sizes
from pruning.rehearsal.verification import Failure
from pruning.tracer.trace_records import Slot, Step

_MOST_RUNS = 4
"""How often other attributes are tried for steps that fail."""


def kept_sizes(
    model: nn.Module, failures: Callable[[Sequence[Slot]], Sequence[Failure]]
) -> tuple[Slot, ...]:
    """The attributes of modules of `model` that must follow channels, with their labels.

    failures: how a run with fewer channels fails if these attributes follow them.
    """
    kept: dict[int, list[Slot]] = {}
    turns: Counter[int] = Counter()
    for number in range(_MOST_RUNS):
        failing = {f.step: f.at for f in failures(_all(kept)) if f.at is not None}
        proposals = {
            step: [] if number == _MOST_RUNS - 1 else _proposals(model, at, turns[step])
            for step, at in failing.items()
        }
        turns.update(failing.keys())
        if not any(slots or step in kept for step, slots in proposals.items()):
            break
        kept = {step: slots for step, slots in (kept | proposals).items() if slots}
    return _all(kept)


def _all(kept: dict[int, list[Slot]]) -> tuple[Slot, ...]:
    """Every attribute once: where it is to follow several axes, the first step's."""
    slots: dict[str, Slot] = {}
    for _, proposed in sorted(kept.items()):
        for slot in proposed:
            slots.setdefault(slot.name, slot)
    return tuple(slots.values())


def _proposals(model: nn.Module, step: Step, turn: int) -> list[Slot]:
    """For each axis of channels in a step the attribute whose turn it is, or the last there is.

    None if no axis has so many.
    """
    axes = {id(a): a for labels in (*step.axes, *step.operands) for a in labels if a is not None}
    pairs = [(labels, list(_names(model, step.module, labels))) for labels in axes.values()]
    if turn >= max((len(names) for _, names in pairs), default=0):
        return []
    return [Slot(names[min(turn, len(names) - 1)], 0, labels) for labels, names in pairs if names]


def _names(model: nn.Module, module: str, labels: Labels) -> Iterator[str]:
    """Attributes as large as an axis: of the module that runs first, then of those around it."""
    while True:
        for name, value in own_sizes(model.get_submodule(module), module):
            if value == len(labels):
                yield name
        if not module:
            return
        module = module.rpartition(".")[0]
