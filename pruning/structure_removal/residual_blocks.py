"""Residual blocks, and what becomes of their branches: removed or gated.

A block is a module whose own forward adds a branch to a shortcut. Its code is rewritten by
torch.fx: the addition becomes the shortcut, and whatever only fed the branch disappears. Or
the branch goes through a gate before it is added.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from types import MethodType

import torch
from torch import fx, nn

from pruning.networks.wrappers import unwrapped

_ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
"""As torch.fx names them: functions by themselves, methods by name."""

_CONCATENATIONS = (torch.cat, torch.concat, torch.concatenate)
_GATE = "branch_gate"


@dataclass(frozen=True)
class ResidualBlock:
    """A block of a network and whether its branch can be removed.

    name: of the module whose forward adds a branch to a shortcut.
    obstacle: why the branch cannot be removed, or None.
    """

    name: str
    obstacle: str | None


def residual_blocks(model: nn.Module) -> tuple[ResidualBlock, ...]:
    """Every module of `model` whose own forward adds two activations, in order.

    Modules that torch.fx cannot read (control flow on data) are not among them.
    """
    return tuple(
        ResidualBlock(name, _obstacle(module, graph))
        for name, module in unwrapped(model).named_modules()
        if name and (graph := own_graph(module)) is not None and _additions(graph)
    )


def without_branch(module: nn.Module) -> nn.Module:
    """What a block without an obstacle is when its branch gives zero: its shortcut alone.

    module: left untouched, but for sharing its parts with the result, under their names.
    """
    graph, addition = _own_addition(module)
    shortcut, _ = _sides(module, addition)
    with graph.inserting_before(addition):
        # what follows may work in place, on what was the sum and not the block's input
        alone = graph.call_method("clone", (shortcut,))
    addition.replace_all_uses_with(alone)
    graph.erase_node(addition)
    rewritten = fx.GraphModule(module, graph, class_name=type(module).__name__)
    rewritten.graph.eliminate_dead_code()
    rewritten.recompile()
    rewritten.delete_all_unused_submodules()
    rewritten.train(module.training)
    return rewritten


def gate_branch(module: nn.Module, gate: nn.Module) -> None:
    """Make `module`, in place, pass what its branch computes through `gate` before adding it.

    module: of a block without an obstacle (see `residual_blocks`). Its class, attributes and
        parameter names stay; `gate` becomes a child. Copies of it are gated by their copies.
    """
    graph, addition = _own_addition(module)
    _, branch = _sides(module, addition)
    module.add_module(_GATE, gate)
    with graph.inserting_before(addition):
        addition.replace_input_with(branch, graph.call_module(_GATE, (branch,)))
    forward = type(fx.GraphModule(module, graph)).forward
    vars(module)["forward"] = MethodType(forward, module)


def branch_gate(module: nn.Module) -> nn.Module:
    """The gate that `gate_branch` gave to `module`."""
    return module.get_submodule(_GATE)


def ungate_branch(module: nn.Module) -> None:
    """Undo `gate_branch`, in place."""
    delattr(module, _GATE)
    del vars(module)["forward"]


def joins_paths(module: nn.Module) -> bool:
    """Whether the own forward of `module` adds or concatenates what comes from its input twice."""
    graph = own_graph(module)
    if graph is None:
        return False
    return any(
        sum(_comes_from_input(argument) for argument in node.all_input_nodes) > 1
        for node in graph.nodes
        if node.target in _CONCATENATIONS or node in _additions(graph)
    )


def own_graph(module: nn.Module) -> fx.Graph | None:
    """What the forward of `module` itself does, its children being single steps."""
    if isinstance(module, nn.Sequential | nn.ModuleList) or not list(module.children()):
        return None
    try:
        return _ChildrenAreLeaves().trace(module)
    except Exception:
        return None


def _own_addition(module: nn.Module) -> tuple[fx.Graph, fx.Node]:
    """The graph of a block without an obstacle, and its addition."""
    graph = own_graph(module)
    assert graph is not None
    (addition,) = _additions(graph)
    return graph, addition


def _depends_on_mode(module: nn.Module, graph: fx.Graph) -> bool:
    """Whether rewriting would freeze the mode, training or evaluation, into the code."""
    other = copy.copy(module)
    other.training = not module.training
    return str(own_graph(other)) != str(graph)


class _ChildrenAreLeaves(fx.Tracer):
    def is_leaf_module(self, *_: object) -> bool:
        return True


def _additions(graph: fx.Graph) -> list[fx.Node]:
    return [
        node
        for node in graph.nodes
        if (
            node.target in _ADDITIONS
            or (node.op == "call_method" and node.target in ("add", "add_"))
        )
        and len(node.args) == 2
        and not node.kwargs  # a factor on one side, for instance
        and all(isinstance(argument, fx.Node) for argument in node.args)
    ]


def _obstacle(module: nn.Module, graph: fx.Graph) -> str | None:
    additions = _additions(graph)
    if len(additions) > 1:
        return f"its forward has {len(additions)} additions, so no branch stands for itself"
    shortcut, branch = _sides(module, additions[0])
    if not _comes_from_input(shortcut) or not _comes_from_input(branch):
        return "what it adds does not come from its input"
    if len(branch.users) > 1:
        return "what its branch computes is used a second time"
    if _num_parameters(module, shortcut) == _num_parameters(module, branch):
        return "both sides of its addition have as many parameters: neither is the shortcut"
    if _depends_on_mode(module, graph):
        return "its own code does something else in training, and rewriting would freeze the mode"
    return None


def _sides(module: nn.Module, addition: fx.Node) -> tuple[fx.Node, fx.Node]:
    """(shortcut, branch): the side with fewer parameters is the shortcut."""
    first, second = addition.args
    assert isinstance(first, fx.Node)
    assert isinstance(second, fx.Node)
    sizes = _num_parameters(module, first), _num_parameters(module, second)
    return (first, second) if sizes[0] < sizes[1] else (second, first)


def _ancestors(node: fx.Node) -> Iterator[fx.Node]:
    seen, waiting = set(), [node]
    while waiting:
        current = waiting.pop()
        if current not in seen:
            seen.add(current)
            waiting.extend(current.all_input_nodes)
            yield current


def _num_parameters(module: nn.Module, node: fx.Node) -> int:
    return sum(
        parameter.numel()
        for ancestor in _ancestors(node)
        if ancestor.op == "call_module"
        for parameter in module.get_submodule(str(ancestor.target)).parameters()
    )


def _comes_from_input(node: fx.Node) -> bool:
    return any(ancestor.op == "placeholder" for ancestor in _ancestors(node))
