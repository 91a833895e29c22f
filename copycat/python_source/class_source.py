"""The class of a module, written again as plain source that needs only torch.

Its forward is what torch.fx sees of it in evaluation. Where torch.fx sees nothing, because the
code decides by the shape of its input (the shortcut of a CIFAR ResNet) or calls a function that
fx leaves whole (stochastic depth), it is the methods that forward needs, as their author wrote
them.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import re
import sys
import textwrap
import types
from dataclasses import dataclass, field
from types import FunctionType, ModuleType
from typing import Any

from torch import fx, nn

from pruning.networks.torch_interior import buffer_slots, child_slots, parameter_slots
from pruning.structure_removal.residual_blocks import own_graph

_STOCK = {"torch", *sys.stdlib_module_names}
_LITERALS = (int, float, str, bool, type(None))


class UnwritableError(Exception):
    """This source needs what cannot be written down."""


@dataclass
class Source:
    """Source of functions, and all that it needs.

    functions: text by name; methods of a class, or functions of a module.
    attributes: of the instance, that the methods read.
    imports: lines.
    definitions: functions and constants of a module, text by name, each after what it needs.
    in_evaluation: whether the source is only right in this mode.
    """

    functions: dict[str, str] = field(default_factory=dict)
    attributes: list[str] = field(default_factory=list)
    imports: set[str] = field(default_factory=set)
    definitions: dict[str, str] = field(default_factory=dict)
    in_evaluation: bool = False


def seen_by_fx(module: nn.Module) -> Source:
    """The forward of `module` in evaluation as torch.fx sees it. Raises UnwritableError."""
    graph = module.graph if isinstance(module, fx.GraphModule) else own_graph(module)
    if graph is None:
        try:
            graph = fx.Tracer().trace(module)
        except Exception as error:  # the user's code may raise anything
            raise UnwritableError("torch.fx cannot read its forward") from error
    for node in graph.nodes:
        node.type = None  # its annotation
    code = graph.python_code("self")
    source = Source(in_evaluation=not isinstance(module, fx.GraphModule))
    text = re.sub(r";  \w+( = \w+)* = None", "", code.src)
    tree = _bare(ast.parse(text).body[-1])
    source.functions["forward"] = ast.unparse(tree)
    for name in sorted(_free_names(tree)):
        if name in code.globals:
            _define(name, code.globals[name], source)
    source.attributes = [
        name
        for name in _attributes_of_self(tree)
        if name in parameter_slots(module) or name in buffer_slots(module)
    ]
    return source


def written(module: nn.Module) -> Source:
    """The methods of the class of `module` that its forward needs, as they were written.

    Annotations, decorators, docstrings and comments are left out. Raises UnwritableError.
    """
    if "forward" in vars(module):
        raise UnwritableError("its forward has no source")
    source, waiting = Source(), ["forward"]
    while waiting:
        name = waiting.pop(0)
        function = inspect.getattr_static(type(module), name)
        tree = _tree(function)
        own_name = tree.args.args[0].arg if tree.args.args else ""
        if own_name != "self":
            raise UnwritableError(f"the first argument of {name} is not called self")
        source.functions[name] = ast.unparse(tree)
        _resolve(function, tree, source)
        for attribute in _attributes_of_self(tree):
            home = _home(module, attribute)
            if home is None and attribute not in source.attributes:
                source.attributes.append(attribute)
            elif home and attribute not in (*source.functions, *waiting):
                waiting.append(attribute)
    return source


def _home(module: nn.Module, name: str) -> str | None:
    """The module whose class defines this method; "" for torch's own; None for an attribute."""
    slots = (child_slots(module), parameter_slots(module), buffer_slots(module))
    if any(name in held for held in (vars(module), *slots)):
        return None
    for kind in type(module).__mro__:
        if name in vars(kind):
            return "" if kind.__module__.startswith("torch.nn.") else kind.__module__
    raise UnwritableError(f"nobody knows its attribute {name!r}")


def _tree(function: object) -> ast.FunctionDef:
    if not isinstance(function, FunctionType) or function.__code__.co_freevars:
        raise UnwritableError("a method of it is more than a function")
    try:
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    except (OSError, TypeError, SyntaxError, ValueError) as error:
        raise UnwritableError("its source cannot be found") from error
    return _bare(tree)


def _bare(tree: ast.stmt) -> ast.FunctionDef:
    """The function without annotations, decorators and docstring."""
    if not isinstance(tree, ast.FunctionDef):
        raise UnwritableError("its source is no function")
    tree.decorator_list, tree.returns = [], None
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            node.annotation = None
    if ast.get_docstring(tree) is not None and len(tree.body) > 1:
        del tree.body[0]
    return tree


def _attributes_of_self(tree: ast.AST) -> list[str]:
    attributes = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute))
    names = [a.attr for a in attributes if isinstance(a.value, ast.Name) and a.value.id == "self"]
    return [name for name in dict.fromkeys(names) if name != "training"]


def _free_names(tree: ast.AST) -> set[str]:
    """Names that `tree` reads and that are neither its own nor builtin."""
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    own = {node.id for node in names if not isinstance(node.ctx, ast.Load)}
    own |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    return {node.id for node in names} - own - set(vars(builtins))


def _resolve(function: FunctionType, tree: ast.AST, source: Source) -> None:
    for name in sorted(_free_names(tree)):
        if name not in function.__globals__:
            raise UnwritableError(f"nobody knows its name {name!r}")
        _define(name, function.__globals__[name], source)


def _define(name: str, value: Any, source: Source) -> None:
    """Makes `name` mean `value` in `source`."""
    if name in source.definitions:
        return
    line = _import_line(name, value)
    if line is not None:
        source.imports.add(line)
    elif _is_literal(value):
        source.definitions[name] = f"{name} = {value!r}"
    elif isinstance(value, FunctionType) and value.__name__ == name:
        tree = _tree(value)
        source.definitions[name] = ""  # it may call itself
        _resolve(value, tree, source)
        del source.definitions[name]
        source.definitions[name] = ast.unparse(tree)
    else:
        raise UnwritableError(f"its name {name!r} stands for a {type(value).__name__}")


def _is_literal(value: object) -> bool:
    if isinstance(value, tuple):
        return all(_is_literal(part) for part in value)
    return type(value) in _LITERALS


def _import_line(name: str, value: Any) -> str | None:
    """The import of a module, class or function of torch or Python; None for all others."""
    if getattr(types, name, None) is value:
        home, leaf = "types", name
    elif isinstance(value, ModuleType):
        home, _, leaf = value.__name__.rpartition(".")
        if value.__name__.partition(".")[0] not in _STOCK:
            return None
    else:
        home, leaf = str(getattr(value, "__module__", "")), str(getattr(value, "__name__", ""))
        if home.partition(".")[0] not in _STOCK or not callable(value):
            return None
        if getattr(importlib.import_module(home), leaf, None) is not value:
            return None
    alias = "" if leaf == name else f" as {name}"
    return f"from {home} import {leaf}{alias}" if home else f"import {leaf}{alias}"
