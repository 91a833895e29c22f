"""From a finished trace to its ChannelGraph: tied atoms become groups."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pruning.graph.call_sites import CallSite
from pruning.graph.channel_graph import (
    NO_GROUP,
    ChannelGraph,
    ChannelGroup,
    CostForms,
    Product,
    TensorAxis,
    layer_of,
)
from pruning.graph.channel_labels import Labels
from pruning.graph.closed_form import AxisSizes, ClosedForm, PeakForm, Term
from pruning.rules import OF_HEADS
from pruning.tracer.calls import COUNTED
from pruning.tracer.trace_records import Contraction, Rows, Slot
from pruning.tracer.tracer import Tracer


@dataclass(frozen=True)
class Atoms:
    """Where every atom of a trace went: its group, or NO_GROUP, and its unit in there."""

    group: Labels
    unit: Labels

    def names(self, graph: ChannelGraph, axes: Iterable[Labels]) -> list[str]:
        """The groups that have channels along any of these axes, in the order of the graph."""
        numbers = {int(n) for labels in axes for n in np.unique(self.group[labels])}
        return [graph.groups[number].name for number in sorted(numbers - {NO_GROUP})]


def build_graph(tracer: Tracer, sizes: Sequence[Slot] = ()) -> tuple[ChannelGraph, Atoms]:
    """The graph that a finished trace describes.

    sizes: further attributes of modules that hold a number of channels. One that holds that of
        several axes ties their channels.
    """
    return _GraphBuilder(tracer, sizes).build()


class _GraphBuilder:
    """Turns tied atoms into groups.

    Components that touch the same axes, each equally often, are the channels of one group.
    """

    def __init__(self, tracer: Tracer, sizes: Sequence[Slot]) -> None:
        self._tracer, self._labelled = tracer, tracer.labelled
        first: dict[str, Slot] = {}
        ties = [(first.setdefault(slot.name, slot).labels, slot.labels) for slot in sizes]
        self._sizes = (*tracer.labelled.sizes, *first.values())
        self._component = tracer.channels.components(ties)
        self._num_components = int(self._component.max(initial=-1)) + 1
        self._reasons = tracer.channels.pinned(self._component)
        self._inexact = tracer.channels.inexact(self._component)

    def build(self) -> tuple[ChannelGraph, Atoms]:
        groups, group_of = self._name_groups(self._group_components())
        unit_of = _ranks(group_of, len(groups))
        atoms = Atoms(group_of[self._component], unit_of[self._component])
        layers, residual = self._layers(atoms.group), self._residual(atoms.group)
        groups = tuple(
            replace(
                group,
                residual=number in residual,
                layers=tuple(layers[number]),
                unit_of_channel=unit_of[group.unit_of_channel],
            )
            for number, group in enumerate(groups)
        )
        units = np.bincount(group_of[group_of >= 0], minlength=len(groups))
        sizes = AxisSizes(atoms.group, units.astype(np.int32))
        graph = ChannelGraph(
            groups,
            self._axes(self._labelled.slots, atoms),
            self._forms(sizes),
            sizes=self._axes(self._sizes, atoms),
            group_split=frozenset(self._tracer.group_split),
            products=self._products(atoms),
            offered=self._tracer.offered,
            notes=tuple(self._unused()),
        )
        return graph, atoms

    def _unused(self) -> list[str]:
        """A note on the layers that neither mode runs, if there are any."""
        names = [t.name for t in self._labelled.stored if t.is_parameter and len(t.axes) > 1]
        layers = dict.fromkeys(layer_of(name) for name in names if name not in self._labelled.used)
        if not layers:
            return []
        return [
            f"no mode of the network runs {', '.join(layers)}: left as wide as before, whatever "
            "becomes of what it would read"
        ]

    def _forms(self, sizes: AxisSizes) -> CostForms:
        parameters, weights = self._parameter_terms()
        storages = [storage for storage in self._tracer.memory.storages if storage.is_read]
        counted = self._tracer.costs.terms()
        flops = ClosedForm(sizes, counted.pop(COUNTED, []))
        uncounted = {name: ClosedForm(sizes, terms) for name, terms in counted.items()}
        params, weight_bytes = ClosedForm(sizes, parameters), ClosedForm(sizes, weights)
        peak = PeakForm(
            sizes,
            [(storage.element_size, storage.sizes) for storage in storages],
            [(storage.first, storage.last) for storage in storages],
        )
        return CostForms(*sizes.matrix(), flops, params, weight_bytes, peak, uncounted)

    def _group_components(self) -> Labels:
        """A group number per component; NO_GROUP where no layer produces the component."""
        signature = np.zeros(self._num_components, dtype=np.uint64)
        slots = (*self._labelled.slots, *self._sizes)
        random = np.random.default_rng(0).integers(1, 2**63, size=len(slots) + 2, dtype=np.uint64)
        for slot, number in zip(slots, random[2:], strict=True):
            np.add.at(signature, self._component[slot.labels], number)
        signature[list(self._reasons)] += random[0]
        signature[list(self._inexact)] += random[1]
        produced = np.zeros(self._num_components, dtype=bool)
        for labels, _ in self._tracer.produced:
            produced[self._component[labels]] = True
        numbers = np.unique(signature, return_inverse=True)[1].astype(np.int32)
        numbers[~produced] = NO_GROUP
        return numbers

    def _name_groups(self, numbers: Labels) -> tuple[tuple[ChannelGroup, ...], Labels]:
        """Groups in the order in which they are produced, and their number per component."""
        producers: dict[int, list[str]] = {}
        first_axis: dict[int, Labels] = {}
        sizes = np.bincount(numbers[numbers != NO_GROUP])
        slots = reversed(self._labelled.slots)  # of equal labels the first slot counts
        names = {int(slot.labels[0]): slot.name for slot in slots if len(slot.labels)}
        for labels, module in self._tracer.produced:
            name = names.get(int(labels[0]))
            layer = layer_of(name) if name else module
            components = self._component[labels]
            for number in dict.fromkeys(numbers[components].tolist()):
                layers = producers.setdefault(number, [])
                if layer and layer not in layers:
                    layers.append(layer)
                here = components[numbers[components] == number]
                before = first_axis.setdefault(number, here)
                if before is not here and len(np.unique(before)) < sizes[number]:
                    others = here[~np.isin(here, before)]  # which another part of a weight makes
                    first_axis[number] = np.concatenate([before, others])
        order = {number: i for i, number in enumerate(producers)}
        renumbered = np.array([order.get(n, NO_GROUP) for n in numbers.tolist()], dtype=np.int32)
        heads = {
            int(number)
            for _, labels in self._tracer.reshapes.heads
            for number in np.unique(numbers[self._component[labels]])
        }
        titles = _unique(
            [
                (layers[0] if layers else "group") + (OF_HEADS if number in heads else "")
                for number, layers in producers.items()
            ]
        )
        groups = tuple(
            ChannelGroup(
                name=title,
                width=len(first_axis[number]),
                unit=len(first_axis[number]) // int((renumbered == i).sum()),
                pinned=self._reasons.get(int(first_axis[number][0])),
                residual=False,
                producers=tuple(producers[number]),
                layers=(),
                unit_of_channel=first_axis[number],
                inexact=self._inexact.get(int(first_axis[number][0])),
            )
            for i, (title, number) in enumerate(zip(titles, producers, strict=True))
        )
        return groups, renumbered

    def _layers(self, atom_group: Labels) -> dict[int, dict[str, None]]:
        """Per group, every layer with an axis along its channels, in order."""
        layers: dict[int, dict[str, None]] = defaultdict(dict)
        for slot in self._labelled.slots:
            for number in np.unique(atom_group[slot.labels]).tolist():
                layers[number][layer_of(slot.name)] = None
        return layers

    def _residual(self, atom_group: Labels) -> set[int]:
        return {
            int(number)
            for labels in self._tracer.residual
            for number in np.unique(atom_group[labels])
        }

    def _axes(self, slots: Sequence[Slot], atoms: Atoms) -> tuple[TensorAxis, ...]:
        """Every slot in a group; axes along the same channels share their arrays."""
        consumed = {int(labels[0]) for labels in self._tracer.consumed if len(labels)}
        shared: dict[bytes, tuple[Labels, Labels]] = {}
        axes = []
        for slot in slots:
            groups, units = atoms.group[slot.labels], atoms.unit[slot.labels]
            if (groups != NO_GROUP).any():
                key = groups.tobytes() + units.tobytes()
                groups, units = shared.setdefault(key, (groups, units))
                is_input = int(slot.labels[0]) in consumed
                axes.append(TensorAxis(slot.name, slot.axis, groups, units, is_input))
        return tuple(axes)

    def _products(self, atoms: Atoms) -> tuple[Product, ...]:
        """Every contraction of activations along channels of a group, each place of it once."""
        products: dict[tuple[CallSite, int | None, int, bytes], Product] = {}
        for contraction in self._tracer.functions.contracted:
            groups, units = atoms.group[contraction.labels], atoms.unit[contraction.labels]
            if (groups != NO_GROUP).any():
                argument, axis = _place_of(contraction, groups, units, atoms)
                weights = tuple(_weight_axis(rows, atoms) for rows in contraction.weights)
                product = Product(contraction.call, argument, axis, groups, units, weights)
                products[contraction.call, argument, axis, groups.tobytes()] = product
        return tuple(products.values())

    def _parameter_terms(self) -> tuple[list[Term], list[Term]]:
        """Numbers of parameters, and bytes of parameters and buffers."""
        tensors = self._labelled.stored
        return (
            [(1, tensor.axes) for tensor in tensors if tensor.is_parameter],
            [(tensor.element_size, tensor.axes) for tensor in tensors],
        )


def _place_of(
    contraction: Contraction, groups: Labels, units: Labels, atoms: Atoms
) -> tuple[int | None, int]:
    """The first argument, and its axis, that carries these channels; None if there is none.

    Nor if several axes of it do, of which the call may sum over any.
    """
    for place, axes in contraction.arguments:
        found = [
            axis
            for axis, labels in enumerate(axes)
            if labels is not None
            and np.array_equal(atoms.group[labels], groups)
            and np.array_equal(atoms.unit[labels], units)
        ]
        if found:
            return (place, found[0]) if len(found) == 1 else (None, 0)
    return None, 0


def _weight_axis(rows: Rows, atoms: Atoms) -> TensorAxis:
    """The axis of a parameter, of which only its first rows are in groups."""
    groups, units = atoms.group[rows.labels], atoms.unit[rows.labels]
    groups[rows.number :] = NO_GROUP
    return TensorAxis(rows.parameter, 0, groups, units, is_input=False)


def _unique(names: list[str]) -> list[str]:
    """Names with .1, .2 … behind all but the first of equal ones; no number that is a name too."""
    result: dict[str, None] = {}
    for name in names:
        numbered = (f"{name}.{number}" for number in itertools.count(1))
        free = (new for new in numbered if new not in result and new not in names)
        result[name if name not in result else next(free)] = None
    return list(result)


def _ranks(group_of: Labels, num_groups: int) -> Labels:
    """Per component, its position among the components of its group."""
    ranks = np.full(len(group_of), -1, dtype=np.int32)
    for number in range(num_groups):
        members = np.flatnonzero(group_of == number)
        ranks[members] = np.arange(len(members))
    return ranks
