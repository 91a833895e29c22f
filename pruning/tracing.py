"""trace(model, example_input): from a network to its ChannelGraph."""

from __future__ import annotations

import copy
import itertools
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pruning.channel_graph import ChannelGraph
from pruning.cost import ExampleInput
from pruning.errors import TraceError
from pruning.graph_builder import build_graph
from pruning.selection import KeepPlan
from pruning.surgery import remove_channels
from pruning.tracer import Step, Tracer, follow, run


def trace(model: nn.Module, example_input: ExampleInput) -> ChannelGraph:
    """The channel graph of `model`, which is left untouched and may be of any width and mode.

    example_input: a tensor N×C×H×W with N = 1 (or a tuple of arguments, or a mapping of
        keyword arguments); costs are counted at this batch size and extent.

    The network runs in eval mode on meta tensors, so no arithmetic is done and no memory
    used. It then runs at other widths: a group whose removal breaks the code (a size written
    into a reshape, say) is pinned with the reason. A network that cannot run on meta tensors
    runs on real ones instead. Raises TraceError if it cannot run at all.
    """
    try:
        return _trace_on(model, example_input, torch.device("meta"))
    except TraceError:
        return _trace_on(model, example_input, None)


def _trace_on(
    model: nn.Module, example_input: ExampleInput, device: torch.device | None
) -> ChannelGraph:
    skeleton = _moved_copy(model, device).eval()
    inputs = _moved(example_input, device)
    tracer = _run(skeleton, inputs)
    if any(p.dim() > 1 and name not in tracer.used for name, p in skeleton.named_parameters()):
        _follow_training(tracer, skeleton, inputs)
    graph = build_graph(tracer)
    reasons = _failing_groups(skeleton, inputs, graph, tracer)
    for name, reason in reasons.items():
        for labels in _labels_of(tracer, graph, name):
            tracer.channels.pin(labels, reason)
    return build_graph(tracer) if reasons else graph


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = dict(model.named_parameters())
    tensors.update(model.named_buffers())
    return tensors


def _moved_copy(model: nn.Module, device: torch.device | None) -> nn.Module:
    """A copy of the structure of `model`; on the meta device its parameters take no memory."""
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        moved = parameter.detach().to(device) if device else parameter.detach()
        memo[id(parameter)] = nn.Parameter(moved, requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = buffer.detach().to(device) if device else buffer.detach().clone()
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:
        raise TraceError(f"{type(model).__name__} cannot be copied: {error}") from error


def _moved(value: Any, device: torch.device | None) -> Any:
    if isinstance(value, Tensor):
        return value.detach().to(device) if device else value.detach().clone()
    if isinstance(value, Mapping):
        return {key: _moved(item, device) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_moved(item, device) for item in value)
    return value


def _run(model: nn.Module, inputs: ExampleInput) -> Tracer:
    try:
        return run(model, inputs, _tensors(model))
    except Exception as error:
        shapes = ", ".join(_shapes(inputs)) or "no tensor"
        raise TraceError(
            f"{type(model).__name__} cannot run on an example input of {shapes}: "
            f"{_first_line(error)}"
        ) from error


def _follow_training(tracer: Tracer, skeleton: nn.Module, inputs: ExampleInput) -> None:
    """Tie what only training uses, such as the auxiliary heads of GoogLeNet.

    On a batch of two, which batch norm needs. A network that cannot run like this keeps what
    was found in eval mode.
    """
    try:
        with tracer.only_ties():
            follow(tracer, skeleton.train(), _doubled(inputs))
    except Exception as error:
        warnings.warn(
            f"{type(skeleton).__name__} has parameters that eval mode does not use, and does "
            f"not run in training mode: {_first_line(error)}",
            stacklevel=2,
        )
    finally:
        skeleton.eval()


def _doubled(value: Any) -> Any:
    """Every tensor twice along its first axis."""
    if isinstance(value, Tensor):
        return torch.cat([value, value]) if value.dim() else value
    if isinstance(value, Mapping):
        return {key: _doubled(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_doubled(item) for item in value)
    return value


def _shapes(value: Any) -> list[str]:
    if isinstance(value, Tensor):
        return ["×".join(map(str, value.shape))]
    if isinstance(value, Mapping):
        return [shape for item in value.values() for shape in _shapes(item)]
    if isinstance(value, list | tuple):
        return [shape for item in value for shape in _shapes(item)]
    return []


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]


def _failing_groups(
    skeleton: nn.Module, inputs: ExampleInput, graph: ChannelGraph, tracer: Tracer
) -> dict[str, str]:
    """The groups without which the network runs differently from what the graph predicts."""
    names = [group.name for group in graph.prunable if group.num_units > 1]
    predictor = _Predictor(skeleton, inputs, graph, tracer)
    return _bisect(names, predictor.difference)


def _bisect(names: Sequence[str], difference: Any) -> dict[str, str]:
    """The smallest sets that fail, by halving; sets that fail only together fail as one."""
    if not names or (reason := difference(names)) is None:
        return {}
    if len(names) == 1:
        return {names[0]: reason}
    middle = len(names) // 2
    found = {**_bisect(names[:middle], difference), **_bisect(names[middle:], difference)}
    return found or dict.fromkeys(names, reason)


class _Predictor:
    """Runs the network without some channels and compares it with the prediction."""

    def __init__(
        self, skeleton: nn.Module, inputs: ExampleInput, graph: ChannelGraph, tracer: Tracer
    ) -> None:
        self._skeleton, self._inputs, self._graph = skeleton, inputs, graph
        self._steps = tracer.steps
        self._component = tracer.channels.components()
        self._slots = {(s.name, s.axis): s.labels for s in tracer.slots}

    def difference(self, names: Sequence[str]) -> str | None:
        """Why removing channels of these groups does not work, or None if it does."""
        plan = KeepPlan({name: self._fewer(name) for name in names})
        smaller = remove_channels(self._skeleton, self._graph, plan)
        try:
            steps = _run(smaller, self._inputs).steps
        except TraceError as error:
            why = _first_line(error.__cause__ or error)
            return f"a size written into the network's code ({textwrap.shorten(why, 70)})"
        alive = self._alive(plan)
        for before, after in itertools.zip_longest(self._steps, steps):
            if (found := _compare(before, after, self._component, alive)) is not None:
                return found
        return None

    def _fewer(self, name: str) -> tuple[int, ...]:
        """Without about a third of the units, the last ones; a different number per group."""
        group = self._graph.group(name)
        stay = max(1, group.num_units - 1 - (group.num_units - 2) // 3)
        return tuple(np.flatnonzero(group.unit_of_channel < stay).tolist())

    def _alive(self, plan: KeepPlan) -> np.ndarray[Any, np.dtype[np.bool_]]:
        alive = np.ones(int(self._component.max(initial=-1)) + 1, dtype=bool)
        kept = plan.units_kept(self._graph)
        for axis in self._graph.axes:
            components = self._component[self._slots[axis.tensor, axis.axis]]
            for number in np.unique(axis.groups[axis.groups >= 0]).tolist():
                here = axis.groups == number
                alive[components[here]] = kept[self._graph.groups[number].name][axis.units[here]]
        return alive


def _compare(before: Step | None, after: Step | None, component: Any, alive: Any) -> str | None:
    if before is None or after is None or before.operator != after.operator:
        return "the network takes another path through its code with fewer channels"
    where = f"{before.operator} in {before.module or 'the network'}"
    if before.constants != after.constants:
        return f"{where} uses a number that is computed from the number of channels"
    for shape, axes, new_shape in zip(before.shapes, before.axes, after.shapes, strict=True):
        expected = tuple(
            size if labels is None else int(alive[component[labels]].sum())
            for size, labels in zip(shape, axes, strict=True)
        )
        if expected != new_shape:
            return f"{where} has a size written into the network's code"
    return None


def _labels_of(tracer: Tracer, graph: ChannelGraph, name: str) -> list[Any]:
    number = graph.index(name)
    by_axis = {(axis.tensor, axis.axis): axis.groups == number for axis in graph.axes}
    return [
        slot.labels[by_axis[slot.name, slot.axis]]
        for slot in tracer.slots
        if (slot.name, slot.axis) in by_axis and by_axis[slot.name, slot.axis].any()
    ]
