"""ChannelGraph: which parameter axes live or die together, and what every width costs."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pruning.cost import Cost, format_count
from pruning.errors import PlanError
from pruning.graph.call_sites import CallSite
from pruning.graph.closed_form import ClosedForm, PeakForm
from pruning.rules import Offered

NO_GROUP = -1

Flags = NDArray[np.bool_]
"""Whether each of several things stays."""


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that are produced together; each can be removed on its own, unless pinned.

    name: the layer that produces the channels, and OF_HEADS where whole heads go; stable from run
        to run, unique in the graph.
    width: channels of that layer.
    unit: channels that only go together (1, or the size of a normalisation group …).
    pinned: why no channel can be removed, or None.
    residual: whether activations of several producers are added in these channels.
    producers: layers whose output channels these are.
    layers: every layer with a parameter or buffer along these channels.
    unit_of_channel: which unit each of the `width` channels belongs to.
    min_units: with fewer units than this the network's code no longer works as traced, or may not.
    why_no_fewer: than min_units.
    inexact: why, without one of these channels, others take other values, or None.
    """

    name: str
    width: int
    unit: int
    pinned: str | None
    residual: bool
    producers: tuple[str, ...]
    layers: tuple[str, ...]
    unit_of_channel: NDArray[np.int32] = field(repr=False, compare=False)
    min_units: int = 1
    inexact: str | None = None
    why_no_fewer: str = "with fewer the network's code does something else"

    @property
    def num_units(self) -> int:
        """How many times something can be removed, plus one."""
        return self.width // self.unit

    def floor(self, min_channels: int = 1) -> int:
        """The fewest units that hold `min_channels`, or all, and that the network works with."""
        return max(self.min_units, min(self.num_units, -(-min_channels // self.unit)))

    @property
    def least_width(self) -> int:
        """The fewest channels that the group may have: all of one that is pinned."""
        return self.width if self.pinned is not None else self.min_units * self.unit

    def narrowed(self, kept: Flags) -> ChannelGroup:
        """The group with these of its units alone, numbered anew."""
        channels = self.unit_of_channel[kept[self.unit_of_channel]]
        return replace(self, width=len(channels), unit_of_channel=_ranks(kept)[channels])

    def check_floor(self, width: int) -> None:
        """Raise PlanError for fewer channels than the network works with."""
        if width < (least := self.min_units * self.unit):
            raise PlanError(
                f"group {self.name!r} needs at least {least} channels, got {width}: "
                f"{self.why_no_fewer}"
            )


@dataclass(frozen=True)
class TensorAxis:
    """One axis of a parameter or buffer: the group and unit of each of its positions.

    groups: index into ChannelGraph.groups per position, or NO_GROUP.
    units: unit within that group per position.
    is_input: whether a weight consumes channels along this axis.
    """

    tensor: str
    axis: int
    groups: NDArray[np.int32] = field(repr=False)
    units: NDArray[np.int32] = field(repr=False)
    is_input: bool

    def narrowed(self, keep: Sequence[Flags]) -> TensorAxis:
        """The axis without the units that do not stay, of each group in turn."""
        groups, units = _narrowed(self.groups, self.units, keep)
        return replace(self, groups=groups, units=units)


def layer_of(tensor: str) -> str:
    """The module that owns a parameter or buffer; a bare one of the network stands for itself."""
    owner, _, own = tensor.rpartition(".")
    return owner or own


@dataclass(frozen=True)
class Product:
    """A call in which channels of activations meet each other instead of a weight.

    Such are the scores of an attention, and kernels that are computed from the input.
    argument: its place among the leaves of the call's arguments, of the one activation whose
        channels stand for both; None where none of them shows these channels.
    axis: of that activation; groups, units: as in TensorAxis.
    weights: where no argument shows the channels, the axes of parameters that make one of the two
        activations inside the call; empty if they are not known either.
    """

    call: CallSite
    argument: int | None
    axis: int
    groups: NDArray[np.int32] = field(repr=False)
    units: NDArray[np.int32] = field(repr=False)
    weights: tuple[TensorAxis, ...] = ()

    @property
    def is_reachable(self) -> bool:
        """Whether gates can act on one of the two activations alone."""
        return self.argument is not None or bool(self.weights)

    def narrowed(self, keep: Sequence[Flags]) -> Product:
        """The product without the units that do not stay, of each group in turn."""
        groups, units = _narrowed(self.groups, self.units, keep)
        weights = tuple(axis.narrowed(keep) for axis in self.weights)
        return replace(self, groups=groups, units=units, weights=weights)


@dataclass(frozen=True)
class CostForms:
    """Every quantity of a cost as a closed form in the units kept per group.

    constants, multiplicities: sizes of axes = constants + multiplicities @ units.
    uncounted: multiply-adds that fvcore does not count, by the name of the operator.
    """

    constants: NDArray[np.float64]
    multiplicities: NDArray[np.float64]
    flops: ClosedForm
    params: ClosedForm
    weight_bytes: ClosedForm
    peak_activation_bytes: PeakForm
    uncounted: Mapping[str, ClosedForm] = field(default_factory=dict)

    def at(self, units: NDArray[np.float64], notes: tuple[str, ...]) -> Cost:
        """The cost with so many units per group."""
        sizes = self.constants + self.multiplicities @ units
        uncounted = {name: form(sizes) for name, form in self.uncounted.items()}
        lacking = (
            f"fvcore does not count {name}: {format_count(number)} more multiply-adds"
            for name, number in uncounted.items()
        )
        return Cost(
            self.flops(sizes),
            self.params(sizes),
            (*notes, *lacking),
            self.weight_bytes(sizes),
            self.peak_activation_bytes(sizes),
            uncounted=sum(uncounted.values()),
        )


class ChannelGraph:
    """The channels of one network, as found by `pruning.trace`.

    It holds no tensor of the network and can be pickled and shared. Groups are in the order
    in which the network runs them.

    offered: which channels a trace looks for.
    axes: of parameters and buffers.
    sizes: attributes of modules that hold a number of channels, as axes by the attribute's name
        (block.width, or block.sizes.1 of several numbers).
    pruned_layers: those whose filters are pruned, and count as `channels` of a cost; None where it
        was not said (see `pruning`).
    """

    def __init__(
        self,
        groups: tuple[ChannelGroup, ...],
        axes: tuple[TensorAxis, ...],
        forms: CostForms,
        *,
        group_split: frozenset[str],
        offered: Offered,
        sizes: tuple[TensorAxis, ...] = (),
        products: tuple[Product, ...] = (),
        notes: tuple[str, ...] = (),
        pruned_layers: frozenset[str] | None = None,
    ) -> None:
        self.groups = groups
        self.offered = offered
        self.pruned_layers = pruned_layers
        self.axes = axes
        self.group_split = group_split
        self.sizes = sizes
        self.products = products
        self._notes = notes
        self._forms = forms
        self._index = {group.name: i for i, group in enumerate(groups)}
        self._base_units = np.array([g.num_units for g in groups], dtype=np.float64)
        self._filters_per_unit = np.array(
            [g.unit * len(_filtering(g) & (pruned_layers or set())) for g in groups],
            dtype=np.float64,
        )

    @property
    def prunable(self) -> tuple[ChannelGroup, ...]:
        """The groups that are not pinned."""
        return tuple(group for group in self.groups if group.pinned is None)

    @property
    def pruned(self) -> tuple[ChannelGroup, ...]:
        """The groups that are pruned: those of `pruned_layers`.

        Where nothing was said, those that are not pinned and are no residual streams, as RNI has it
        (§5.1).
        """
        layers = self.pruned_layers
        if layers is None:
            return tuple(group for group in self.prunable if not group.residual)
        return tuple(group for group in self.prunable if _filtering(group) & layers)

    @property
    def widths(self) -> dict[str, int]:
        """Width per group of the traced network."""
        return {group.name: group.width for group in self.groups}

    def group(self, name: str) -> ChannelGroup:
        """The group called `name`; PlanError names the close ones if there is none."""
        return self.groups[self.index(name)]

    def index(self, name: str) -> int:
        """The position of a group in `groups`."""
        if name not in self._index:
            raise PlanError(f"this network has no channel group {name!r}: {self._hint(name)}")
        return self._index[name]

    def cost(self, widths: Mapping[str, int] | None = None) -> Cost:
        """Cost at these widths; groups that are left out keep their full width.

        Equal to fvcore's count, eval mode, of the network built at these widths. Widths may
        exceed the traced ones. Raises PlanError for widths that the graph forbids.
        """
        units = self._base_units if not widths else self._units(widths)
        cost = self._forms.at(units, self._notes)
        if self.pruned_layers is None:
            return cost
        return replace(cost, channels=round(float(units @ self._filters_per_unit)))

    def narrowed_inexactly(self, widths: Mapping[str, int]) -> dict[str, str]:
        """Why, per group that loses channels at these widths, others then take other values.

        Groups of which channels can be removed exactly are left out. Widths: of a plan or profile.
        Raises PlanError for a group that there is none of.
        """
        groups = ((self.group(name), width) for name, width in widths.items())
        return {g.name: g.inexact for g, width in groups if g.inexact and width < g.width}

    def with_groups(self, changed: Mapping[str, ChannelGroup]) -> ChannelGraph:
        """This graph with another description of some groups, by name."""
        groups = tuple(changed.get(group.name, group) for group in self.groups)
        return self._with(groups=groups)

    def narrowed(self, units_kept: Mapping[str, Flags]) -> ChannelGraph:
        """The graph of the network without some units: those of a plan (KeepPlan.units_kept).

        What goes together stays together, which a trace might not see where few channels are left.
        """
        keep = [units_kept[group.name] for group in self.groups]
        return self._with(
            groups=tuple(
                group.narrowed(kept) for group, kept in zip(self.groups, keep, strict=True)
            ),
            axes=tuple(axis.narrowed(keep) for axis in self.axes),
            sizes=tuple(axis.narrowed(keep) for axis in self.sizes),
            products=tuple(product.narrowed(keep) for product in self.products),
        )

    def pruning(self, names: Iterable[str]) -> ChannelGraph:
        """This graph as that of a network of which these groups are pruned, and no others.

        Their filters are what counts as `channels` of a cost: each channel once per layer that
        produces it. RNI's 90 % of ResNet-56 are so of the filters off its residual streams; where
        all groups are pruned, all convolutions and hidden layers count. Raises PlanError for a
        group that there is none of.
        """
        groups = map(self.group, names)
        return self.pruning_layers(frozenset().union(*(_filtering(group) for group in groups)))

    def pruning_layers(self, layers: frozenset[str] | None) -> ChannelGraph:
        """This graph with these `pruned_layers`: those of the graph that it came of, say."""
        return self._with(pruned_layers=layers)

    def _with(self, **changed: Any) -> ChannelGraph:
        """This graph with other parts, by the names of the constructor's arguments."""
        parts: dict[str, Any] = {
            "groups": self.groups,
            "axes": self.axes,
            "forms": self._forms,
            "group_split": self.group_split,
            "sizes": self.sizes,
            "products": self.products,
            "notes": self._notes,
            "offered": self.offered,
            "pruned_layers": self.pruned_layers,
        }
        return ChannelGraph(**(parts | changed))

    def summary(self, min_channels: int = 3, *, count_attention: bool = False) -> dict[str, Any]:
        """JSON-able: base cost, the least cost that pruning can reach, and every group.

        A group's shares, in [0, 1], are the parts of the FLOPs and parameters that would
        vanish with all of its channels; two layers in a row both count what is between them,
        so shares add up to more than 1.
        channels, channels_with_residual: how many a budget of channels is a share of, where
        residual streams are left whole or pruned.
        min_channels: channels that stay in each group at the least cost.
        count_attention: whether multiply_adds, also those that fvcore leaves out, stand in the
            place of flops.
        """
        counted = "multiply_adds" if count_attention else "flops"
        base = self.cost()
        least = self.cost({g.name: g.floor(min_channels) * g.unit for g in self.prunable})
        inside = [group for group in self.prunable if not group.residual]
        return {
            "base": _quantities(base, counted),
            "reachable": _quantities(least, counted),
            "channels": self._num_filters(inside),
            "channels_with_residual": self._num_filters(self.prunable),
            "notes": list(base.notes),
            "groups": [self._group_summary(i, base, counted) for i in range(len(self.groups))],
        }

    def _num_filters(self, groups: Iterable[ChannelGroup]) -> int:
        """What `channels` of a cost are where these groups are pruned."""
        return round(self.pruning(group.name for group in groups).cost().of("channels"))

    def _group_summary(self, number: int, base: Cost, counted: str) -> dict[str, Any]:
        group, units = self.groups[number], self._base_units.copy()
        units[number] = 0
        without = self._forms.at(units, ())
        return {
            "name": group.name,
            "width": group.width,
            "unit": group.unit,
            "min_width": group.min_units * group.unit,
            "why_no_fewer": group.why_no_fewer if group.min_units > 1 else None,
            "layers": list(group.layers),
            f"{counted}_share": 1 - without.of(counted) / max(1, base.of(counted)),
            "params_share": 1 - without.params / max(1, base.params),
            "prunable": group.pinned is None,
            "pinned": group.pinned,
            "inexact": group.inexact,
            "residual": group.residual,
        }

    def describe(self, min_channels: int = 3, *, count_attention: bool = False) -> str:
        """`summary` as text, one line per group."""
        content = self.summary(min_channels, count_attention=count_attention)
        counted, heading = ("multiply_adds", "mul-adds") if count_attention else ("flops", "FLOPs")
        rows = [("group", "width", "layers", heading, "params", "prunable")]
        for group in content["groups"]:
            status = "residual stream" if group["residual"] else "yes"
            if group["min_width"] > group["unit"]:
                status += f", at least {group['min_width']} channels: {group['why_no_fewer']}"
            if group["inexact"]:
                status += f", inexactly: {group['inexact']}"
            rows.append(
                (
                    group["name"],
                    str(group["width"]),
                    str(len(group["layers"])),
                    f"{group[f'{counted}_share']:.1%}",
                    f"{group['params_share']:.1%}",
                    f"no: {group['pinned']}" if group["pinned"] else status,
                )
            )
        lines = [
            f"base network  {_in_words(content['base'])}",
            f"reachable     {_in_words(content['reachable'])}",
            f"prunable      {_channels_in_words(content)}",
            "",
            *_aligned(rows),
        ]
        return "\n".join([*lines, *(f"note: {note}" for note in content["notes"])])

    def _units(self, widths: Mapping[str, int]) -> NDArray[np.float64]:
        units = self._base_units.copy()
        for name, width in widths.items():
            units[self.index(name)] = self.units_at(name, width)
        return units

    def axis_along(self, group: ChannelGroup) -> tuple[str, int] | None:
        """A tensor and its axis that has every channel of `group` once, and no other."""
        number = self.index(group.name)
        axes = (a for a in self.axes if len(a.groups) == group.width)
        whole = next((a for a in axes if (a.groups == number).all()), None)
        return (whole.tensor, whole.axis) if whole else None

    def units_at(self, name: str, width: int) -> int:
        """Units of group `name` at `width` channels; PlanError if it can't have that width."""
        group = self.group(name)
        if width < 1:
            raise PlanError(f"group {name!r} needs at least 1 channel, got {width}")
        if group.pinned is not None and width != group.width:
            raise PlanError(
                f"group {name!r} is pinned at {group.width} channels, got {width}: {group.pinned}"
            )
        if width % group.unit:
            raise PlanError(
                f"group {name!r} has channels that go together in units of {group.unit}, "
                f"got width {width}: choose a multiple of {group.unit}"
            )
        group.check_floor(width)
        return width // group.unit

    def _hint(self, name: str) -> str:

        close = difflib.get_close_matches(name, self._index, n=3)
        return f"did you mean {', '.join(close)}?" if close else "see graph.groups for the names"


def _narrowed(
    groups: NDArray[np.int32], units: NDArray[np.int32], keep: Sequence[Flags]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Groups and units of the positions that stay along an axis, the units numbered anew."""
    stays, numbers = np.ones(len(groups), dtype=bool), units.copy()
    for group in np.unique(groups[groups != NO_GROUP]).tolist():
        here = groups == group
        stays[here] = keep[group][units[here]]
        numbers[here] = _ranks(keep[group])[units[here]]
    return groups[stays], numbers[stays]


def _ranks(kept: Flags) -> NDArray[np.int32]:
    """For each unit that stays, how many do so before it."""
    return (np.cumsum(kept) - 1).astype(np.int32)


def _filtering(group: ChannelGroup) -> set[str]:
    """The layers that have a filter for each channel of `group`."""
    return set(group.producers or (group.name,))


def _quantities(cost: Cost, counted: str) -> dict[str, float]:
    """Of a cost by name; `counted` is flops or multiply_adds."""
    return {
        name: cost.of(name) for name in (counted, "params", "weight_bytes", "peak_activation_bytes")
    }


def _in_words(quantities: Mapping[str, float]) -> str:
    unit = "FLOPs (multiply-adds)" if "flops" in quantities else "multiply-adds"
    counted, params, *_ = map(format_count, quantities.values())
    megabytes = [quantities[n] / 1e6 for n in ("weight_bytes", "peak_activation_bytes")]
    return (
        f"{counted} {unit}, {params} params, {megabytes[0]:.3g} MB of weights, "
        f"{megabytes[1]:.3g} MB of activations"
    )


def _channels_in_words(content: Mapping[str, Any]) -> str:
    inside, every = content["channels"], content["channels_with_residual"]
    further = f"; {every:,} with residual streams" if every > inside else ""
    return f"{inside:,} channels{further}"


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Columns of text: the first and the last to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column in (0, len(row) - 1) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
