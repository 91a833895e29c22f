"""trace(model, example_input): from a network to its ChannelGraph."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from pruning.channel_graph import ChannelGraph
from pruning.cost import ExampleInput
from pruning.deep_copies import check_copyable, deep_copy
from pruning.errors import ModelError, TraceError, first_line
from pruning.graph_builder import build_graph
from pruning.tracer import Tracer, follow, run
from pruning.verification import Rehearsals, verified
from pruning.wrappers import unwrapped


def trace(model: nn.Module, example_input: ExampleInput) -> ChannelGraph:
    """The channel graph of `model`, which is left untouched and may be of any width and mode.

    example_input: a tensor N×C×H×W with N = 1 (or a tuple of arguments, or a mapping of
        keyword arguments); costs are counted at this batch size and extent.

    The network runs in eval mode on meta tensors, so no arithmetic is done and no memory
    used. It then runs at other widths: a group whose removal breaks the code (a size written
    into a reshape, say) is pinned with the reason; one that must not get too narrow for the
    code has `min_units`. A network that cannot run on meta tensors
    runs on real ones instead. Raises TraceError if it cannot run at all.
    """
    model = unwrapped(model)
    try:
        return _trace_on(model, example_input, torch.device("meta"))
    except TraceError:
        return _trace_on(model, example_input, None)


def _trace_on(
    model: nn.Module, example_input: ExampleInput, device: torch.device | None
) -> ChannelGraph:
    skeleton = _moved_copy(model, device).eval()
    return verified(*_predicted(skeleton, _moved(example_input, device)))


def _predicted(skeleton: nn.Module, inputs: ExampleInput) -> tuple[ChannelGraph, Rehearsals]:
    """What one run tells, and what it can be held against; most of the trace is forgotten."""
    tracer = _run(skeleton, inputs)
    if any(p.dim() > 1 and name not in tracer.used for name, p in skeleton.named_parameters()):
        _follow_training(tracer, skeleton, inputs)
    graph, atoms = build_graph(tracer)
    return graph, Rehearsals(skeleton, inputs, graph, atoms, tracer)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = dict(model.named_parameters())
    tensors.update(model.named_buffers())
    return tensors


def _moved_copy(model: nn.Module, device: torch.device | None) -> nn.Module:
    """A copy of the structure of `model`; on the meta device its parameters take no memory."""
    try:
        check_copyable(model)
        memo: dict[int, Any] = {}
        for parameter in model.parameters():
            moved = parameter.detach().to(device) if device else parameter.detach()
            memo[id(parameter)] = nn.Parameter(moved, requires_grad=parameter.requires_grad)
        for buffer in model.buffers():
            memo[id(buffer)] = buffer.detach().to(device) if device else buffer.detach().clone()
        return deep_copy(model, memo)
    except ModelError as error:
        raise TraceError(str(error)) from error


def _moved(value: Any, device: torch.device | None) -> Any:
    return _with_tensors(lambda t: t.detach().to(device) if device else t.detach().clone(), value)


def _with_tensors(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """`value`, nested tuples (named ones, too), lists and mappings, with every tensor changed."""
    if isinstance(value, Mapping):
        return {key: _with_tensors(change, item) for key, item in value.items()}
    return tree_map_only(Tensor, change, value)


def _run(model: nn.Module, inputs: ExampleInput) -> Tracer:
    try:
        return run(model, inputs, _tensors(model))
    except Exception as error:
        shapes = ", ".join(_shapes(inputs)) or "no tensor"
        raise TraceError(
            f"{type(model).__name__} cannot run on an example input of {shapes}: "
            f"{first_line(error)}"
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
            f"not run in training mode: {first_line(error)}",
            stacklevel=2,
        )
    finally:
        skeleton.eval()


def _doubled(value: Any) -> Any:
    """Every tensor twice along its first axis."""
    return _with_tensors(lambda t: torch.cat([t, t]) if t.dim() else t, value)


def _shapes(value: Any) -> list[str]:
    if isinstance(value, Tensor):
        return ["×".join(map(str, value.shape))]
    if isinstance(value, Mapping):
        return [shape for item in value.values() for shape in _shapes(item)]
    if isinstance(value, list | tuple):
        return [shape for item in value for shape in _shapes(item)]
    return []
