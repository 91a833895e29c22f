"""A stored network as a short Python module that needs only torch, to be pasted anywhere."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import torch
from torch import nn

from copycat.architecture import Architecture
from copycat.export import random_inputs, tensors_of
from copycat.input_shape import InputForm, shape_text
from copycat.python_source.classes import PythonClasses
from copycat.python_source.expression import Bracketed, render
from pruning.cost import ExampleInput, call_arguments
from pruning.errors import ArchitectureError, first_line
from pruning.sigmoid_batchnorm import fold

_TEXT = '''"""{name}: {params:,} parameters, {flops:,} multiply-adds.

It reads {reads}. The weights are loaded by

    model = build()
    model.load_state_dict(safetensors.torch.load_file("weights.safetensors"))
    model.eval()
"""

{imports}

{content}
'''


def to_python(architecture: Architecture, model: nn.Module) -> str:
    """The source of a module whose `build()` makes `model` with fresh weights.

    One class for each kind of module that is not torch's, and one expression with every layer.
    Parameters keep their names, so that build().load_state_dict() takes the stored weights.
    The text depends on nothing but the network. It is run here, and its output equals that of
    `model` to the bit: ArchitectureError otherwise, and for what cannot be written down.

    architecture: what `model` was loaded from.
    """
    model = fold(model).cpu().eval()
    _check_nothing_is_shared(model)
    dtype = _dtype_of(model)
    text = _module_text(architecture, copy.deepcopy(model).float(), dtype)
    problem = _problem(text, model, architecture.example_input)
    if problem is not None:
        raise ArchitectureError(f"this network cannot be written as Python: {problem}")
    return text


def _check_nothing_is_shared(model: nn.Module) -> None:
    seen: dict[int, str] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        if id(value) in seen:
            raise ArchitectureError(
                f"this network cannot be written as Python: {seen[id(value)]} and {name} are one"
            )
        seen[id(value)] = name


def _dtype_of(model: nn.Module) -> torch.dtype:
    dtypes = {value.dtype for value in model.state_dict().values() if value.is_floating_point()}
    if len(dtypes) > 1:
        several = ", ".join(sorted(map(str, dtypes)))
        raise ArchitectureError(
            f"this network cannot be written as Python: its weights are of {several}"
        )
    return next(iter(dtypes), torch.float32)


def _module_text(architecture: Architecture, model: nn.Module, dtype: torch.dtype) -> str:
    """model: in float32."""
    classes = PythonClasses()
    expression = classes.expression(model, type(model).__name__)
    network = render(expression, 4, len("return "))
    network += "" if dtype == torch.float32 else f".to({dtype})"
    names = Bracketed("[", tuple(("", _quoted(name)) for name in architecture.classes), "]")
    parts = [
        f"CLASSES = {render(names, 0, len('CLASSES = '))}",
        *classes.definitions.values(),
        *classes.texts,
        f'def build():\n    """The network with fresh weights."""\n    return {network}',
    ]
    content = "\n\n\n".join(parts)
    return _TEXT.format(
        name=type(model).__name__,
        params=architecture.cost.params,
        flops=architecture.cost.flops,
        reads=_what_it_reads(architecture),
        imports=_imports({*classes.imports.values()}, content),
        content=content,
    )


def _what_it_reads(architecture: Architecture) -> str:
    shape, num_classes = architecture.input_shape, len(architecture.classes)
    if isinstance(shape, InputForm):
        return f"inputs such as {shape_text(shape)}"
    reads = f"{'images' if len(shape) == 3 else 'samples'} N×{shape_text(shape)}"
    return f"{reads} and gives N×{num_classes} logits" if num_classes else reads


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if text.isprintable() else ascii(text)


def _imports(lines: set[str], content: str) -> str:
    """Python's own first, then torch's; `import` before `from`."""
    lines = {*lines, "from torch import nn"}
    if "OrderedDict(" in content:
        lines.add("from collections import OrderedDict")
    if re.search(r"(?<![\w.])torch\.", content):
        lines.add("import torch")
    stock = {line for line in lines if line.split()[1].startswith("torch")}
    return "\n\n".join(
        "\n".join(sorted(block, key=lambda line: (line.startswith("from"), line)))
        for block in (lines - stock, stock)
        if block
    )


def _problem(text: str, model: nn.Module, example_input: ExampleInput) -> str | None:
    """Why the module does not make the same network; None if it does."""
    names: dict[str, Any] = {"__name__": "exported"}
    positional, keyword = call_arguments(random_inputs(example_input, 2))
    try:
        exec(compile(text, "<export>", "exec"), names)  # the network's own code, which ran before
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            network = names["build"]()
            network.load_state_dict(model.state_dict())
            outputs = tensors_of(network.eval()(*positional, **keyword))
            expected = tensors_of(model(*positional, **keyword))
    except Exception as error:  # the user's code may raise anything
        return first_line(error)
    same = len(outputs) == len(expected) and all(map(torch.equal, outputs, expected))
    return None if same else "it gives another output than the stored one"
