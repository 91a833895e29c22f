"""The classes that a network needs beside torch's, and the expression that makes it of them."""

from __future__ import annotations

import keyword
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx, nn

from copycat.python_source.class_source import Source, UnwritableError, seen_by_fx, written
from copycat.python_source.expression import Bracketed, Expression, render
from copycat.python_source.layer_source import is_stock, layer_expression
from pruning.errors import ArchitectureError
from pruning.networks.torch_interior import buffer_slots, child_slots, parameter_slots

RESERVED = ("build", "CLASSES", "OrderedDict", "nn", "torch")
"""Names that classes must not take."""

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class _Class:
    name: str
    text: str


@dataclass
class PythonClasses:
    """Gathers classes, and the imports and definitions they need, while a network is written."""

    imports: dict[str, str] = field(default_factory=dict)
    definitions: dict[str, str] = field(default_factory=dict)
    _classes: dict[object, _Class] = field(default_factory=dict)

    @property
    def texts(self) -> tuple[str, ...]:
        """The classes, outer ones first."""
        return tuple(made.text for made in self._classes.values())

    def expression(self, module: nn.Module, where: str) -> Expression:
        """What makes `module`, which errors call `where`. Raises ArchitectureError."""
        if is_stock(module):
            return layer_expression(module)
        container = next((kind for kind in _CONTAINERS if isinstance(module, kind)), None)
        if container is None:
            return self._instance(module, where)
        if type(module).forward is container.forward:
            name = f"nn.{container.__name__}"
        else:
            name, _ = self._class_of(module, where, f"nn.{container.__name__}")
        children = {
            name: self.expression(child, f"{where}.{name}")
            for name, child in child_slots(module).items()
            if child is not None
        }
        return _container(name, container, children)

    def _instance(self, module: nn.Module, where: str) -> Expression:
        class_name, attributes = self._class_of(module, where, "nn.Module")
        arguments = tuple(
            (f"{name}=", self._argument(getattr(module, name), f"{where}.{name}"))
            for name in attributes
        )
        return Bracketed(f"{class_name}(", arguments, ")")

    def _argument(self, value: object, where: str) -> Expression:
        if isinstance(value, nn.Module):
            return self.expression(value, where)
        if isinstance(value, Tensor):
            dtype = "" if value.dtype == torch.float32 else f", dtype={value.dtype}"
            zeros = f"torch.zeros({tuple(value.shape)}{dtype})"
            return f"nn.Parameter({zeros})" if isinstance(value, nn.Parameter) else zeros
        return repr(value)

    def _class_of(self, module: nn.Module, where: str, base: str) -> tuple[str, tuple[str, ...]]:
        """The name of the class of `module`, and what its constructor takes."""
        source, attributes = self._source(module, where, base)
        wanted = "Rewritten" if isinstance(module, fx.GraphModule) else type(module).__name__
        buffers = frozenset(buffer_slots(module))
        content = (frozenset(attributes), buffers, tuple(source.functions.items()))
        origin = _origin(module, source)
        key = (origin, base, content)
        if key not in self._classes:
            taken = {made.name for made in self._classes.values()}
            taken |= {*self.imports, *self.definitions, *RESERVED}
            name, number = wanted, 1
            while name in taken:
                number += 1
                name = f"{wanted}{number}"
            parts = [f'class {name}({base}):\n    """{origin}"""']
            parts += [_constructor(attributes, buffers)] if attributes else []
            parts += [_indented(function) for function in source.functions.values()]
            self._classes[key] = _Class(name, "\n\n".join(parts))
        return self._classes[key].name, attributes

    def _source(self, module: nn.Module, where: str, base: str) -> tuple[Source, tuple[str, ...]]:
        """The first way to write the class that works, and the attributes of an instance."""
        problems = []
        for read in (seen_by_fx, written):
            try:
                source = read(module)
                attributes = _attributes(module, source, base)
                self._gather(source)
            except UnwritableError as error:
                problems.append(str(error))
            else:
                return source, attributes
        raise ArchitectureError(f"{where} cannot be written as Python: {'; '.join(problems)}")

    def _gather(self, source: Source) -> None:
        imports = {line.split()[-1]: line for line in sorted(source.imports)}
        known = {**self.imports, **self.definitions}
        new = {**imports, **source.definitions}
        classes = {made.name for made in self._classes.values()}
        for name, text in new.items():
            if known.get(name, text) != text or name in {*classes, "build", "CLASSES"}:
                raise UnwritableError(f"its name {name!r} means two things")
        self.imports |= imports
        self.definitions |= source.definitions


def _attributes(module: nn.Module, source: Source, base: str) -> tuple[str, ...]:
    """What the constructor takes: children, parameters, buffers, and what the source reads."""
    if getattr(nn, type(module).__name__, None) is type(module):
        raise UnwritableError(f"torch's {type(module).__name__} has parts of its own")
    held = (*child_slots(module), *parameter_slots(module), *buffer_slots(module))
    names = tuple(dict.fromkeys((*held, *source.attributes)))
    if base != "nn.Module":
        names = tuple(name for name in names if name not in child_slots(module))
        if names:
            raise UnwritableError(f"it is a container with attributes: {', '.join(names)}")
    for name in names:
        value = getattr(module, name)
        if not name.isidentifier() or keyword.iskeyword(name):
            raise UnwritableError(f"its attribute {name!r} is no name of Python's")
        if name in module._non_persistent_buffers_set:
            raise UnwritableError(f"its buffer {name!r} is not among its weights")
        if not isinstance(value, nn.Module | Tensor) and not _is_plain(value):
            raise UnwritableError(f"its attribute {name!r} is a {type(value).__name__}")
    return names


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple | list):  # a named tuple is not written as one
        return type(value) in (tuple, list) and all(_is_plain(part) for part in value)
    return type(value) in (int, float, str, bool, type(None))


def _container(
    name: str, container: type[nn.Module], children: Mapping[str, Expression]
) -> Expression:
    unnamed = tuple(("", child) for child in children.values())
    if container is nn.ModuleList:
        return Bracketed(f"{name}([", unnamed, "])")
    if container is nn.Sequential and list(children) == [str(i) for i in range(len(children))]:
        return Bracketed(f"{name}(", unnamed, ")")
    if all(key.isidentifier() and not keyword.iskeyword(key) for key in children):
        named = tuple((f"{key}=", child) for key, child in children.items())
        return Bracketed(f"{name}(OrderedDict(", named, "))")
    pairs = tuple(
        ("", Bracketed(f"({key!r}, ", (("", child),), ")")) for key, child in children.items()
    )
    return Bracketed(f"{name}(OrderedDict([", pairs, "]))")


def _origin(module: nn.Module, source: Source) -> str:
    if isinstance(module, fx.GraphModule):
        return "A module that torch.fx rewrote, such as a block whose branch was removed."
    mode = " in evaluation" if source.in_evaluation else ""
    return f"Computes what {type(module).__module__}.{type(module).__qualname__} does{mode}."


def _constructor(attributes: tuple[str, ...], buffers: frozenset[str]) -> str:
    taken = tuple(("", name) for name in ("self", "*", *attributes))
    lines = [
        render(Bracketed("def __init__(", taken, "):"), 4, 0),
        "        super().__init__()",
    ]
    for name in attributes:
        registered = f'self.register_buffer("{name}", {name})'
        lines.append(f"        {registered if name in buffers else f'self.{name} = {name}'}")
    return "    " + "\n".join(lines)


def _indented(function: str) -> str:
    return "\n".join(f"    {line}" if line else "" for line in function.split("\n"))
