"""What a network reads, without the values: sizes and dtypes of the tensors in an example input.

In architecture.json `input_shape` is a list of sizes for a network of one tensor of fractions, its
axis of samples left out: [3, 224, 224] for images, [9] for rows of nine numbers. For any other
network it is an object: {"shape": [1, 128], "dtype": "int64", "highest": 999} for a tensor, axis
of samples included, and {"tuple": […]}, {"list": […]} or {"mapping": {…}} for what holds several.
Numbers, texts, true, false and null stand for themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from pruning.cost import ExampleInput
from pruning.errors import ArchitectureError

FRACTIONS = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
"""What most weights, and what they are multiplied by, may be made of, by the name in the file."""

_WHOLE = {
    **{f"int{bits}": getattr(torch, f"int{bits}") for bits in (64, 32, 16, 8)},
    **{"uint8": torch.uint8, "bool": torch.bool},
}
_DTYPES = FRACTIONS | _WHOLE
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}

_MOST_VALUES = 2**28
"""A damaged file must not take all memory: 2²⁸ values are 1 GiB, an image of 9459×9459×3."""

_MOST_AXES = 64
"""torch's own limit."""

_CONTAINERS = {"tuple": tuple, "list": list}


@dataclass(frozen=True)
class TensorForm:
    """One tensor of an example input.

    shape: with the axis of samples, if it has one.  dtype: its name in torch, such as int64.
    highest: of whole numbers and truth values, the highest; all from 0 to it can be read.
    """

    shape: tuple[int, ...]
    dtype: str
    highest: int = 0

    @classmethod
    def of(cls, tensor: Tensor) -> TensorForm:
        """The form of a tensor; ArchitectureError for a dtype that files have no name for."""
        if tensor.dtype not in _NAMES:
            raise ArchitectureError(
                f"an example input holds tensors of {', '.join(_DTYPES)}, got {tensor.dtype}"
            )
        is_whole = not tensor.is_floating_point() and tensor.numel() > 0
        name = _NAMES[tensor.dtype]
        highest = min(max(0, int(tensor.max())), _most(name)) if is_whole else 0
        return cls(tuple(tensor.shape), name, highest)

    def example(self) -> Tensor:
        """Zeros; of whole numbers and truth values the highest."""
        return torch.full(self.shape, self.highest, dtype=_DTYPES[self.dtype])

    def random(self, generator: torch.Generator) -> Tensor:
        """N(0, 1) in float32, or from 0 to the highest, then in the tensor's own dtype."""
        if self.dtype in FRACTIONS:
            values = torch.randn(self.shape, generator=generator)
        else:
            values = torch.randint(0, self.highest + 1, self.shape, generator=generator)
        return values.to(_DTYPES[self.dtype])


@dataclass(frozen=True)
class InputForm:
    """An example input of any kind, with a TensorForm in the place of every tensor."""

    structure: Any

    @classmethod
    def of(cls, example_input: ExampleInput) -> InputForm:
        """ArchitectureError for anything but nested tuples, lists and mappings of tensors."""
        return cls(_with_forms(example_input))

    def example(self) -> ExampleInput:
        """An input of this form, of zeros; see TensorForm.example."""
        made: ExampleInput = _with_tensors(self.structure, TensorForm.example)
        return made

    def random(self, generator: torch.Generator) -> ExampleInput:
        """An input of this form, drawn tensor by tensor; see TensorForm.random."""
        made: ExampleInput = _with_tensors(self.structure, lambda form: form.random(generator))
        return made


InputShape: TypeAlias = tuple[int, ...] | InputForm
"""Sizes of one sample, where a network reads one tensor in the dtype of its weights; or all."""


def input_shape_of(example_input: ExampleInput) -> InputShape:
    """What a network reads: a single sample's sizes where it is one tensor of fractions, 1×….

    example_input: as for `pruning.trace`; its values are not kept.
    """
    if isinstance(example_input, Tensor) and example_input.is_floating_point():
        num_samples, *sizes = example_input.shape or (0,)
        if num_samples == 1 and sizes:
            return tuple(sizes)
    return InputForm.of(example_input)


def example_of(shape: InputShape, dtype: torch.dtype = torch.float32) -> ExampleInput:
    """An example input of this shape, for one sample; of zeros, but see TensorForm.example.

    dtype: of the tensor of a network that reads only one; others have their own.
    """
    return shape.example() if isinstance(shape, InputForm) else torch.zeros(1, *shape, dtype=dtype)


def random_of(shape: InputShape, dtype: torch.dtype, seed: int) -> ExampleInput:
    """A repeatable input of this shape, for one sample, on the CPU; see TensorForm.random."""
    generator = torch.Generator().manual_seed(seed)
    if isinstance(shape, InputForm):
        return shape.random(generator)
    return torch.randn(1, *shape, generator=generator).to(dtype)


def shape_text(shape: InputShape) -> str:
    """For messages: 3×32×32, or 1×128 int64 and 1×9 float32."""
    if not isinstance(shape, InputForm):
        return "×".join(map(str, shape))
    forms = _forms(shape.structure)
    return " and ".join("×".join(map(str, form.shape)) + f" {form.dtype}" for form in forms)


def to_content(shape: InputShape) -> Any:
    """As JSON has it."""
    return _content(shape.structure) if isinstance(shape, InputForm) else list(shape)


def from_content(content: object) -> InputShape:
    """The inverse of `to_content`; ArchitectureError, in the words of a file's, for all else."""
    is_short = isinstance(content, list)
    structure = _sizes(content) if is_short else _structure(content)
    sizes = [structure] if is_short else [form.shape for form in _forms(structure)]
    if not any(sizes) or sum(map(math.prod, sizes)) > _MOST_VALUES:
        raise _damaged(f"those of tensors of 1 to {_MOST_VALUES:,} values", content)
    return structure if is_short else InputForm(structure)


def _with_forms(value: Any) -> Any:
    if isinstance(value, Tensor):
        return TensorForm.of(value)
    if isinstance(value, Mapping):
        return {_key(name): _with_forms(part) for name, part in value.items()}
    if type(value) in (tuple, list):
        return type(value)(map(_with_forms, value))
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ArchitectureError(
        f"an example input holds tensors, tuples, lists, mappings, numbers and texts, got "
        f"{type(value).__name__}"
    )


def _key(name: object) -> str:
    if not isinstance(name, str):
        raise ArchitectureError(f"mappings of an example input have texts for keys, got {name!r}")
    return name


def _with_tensors(structure: Any, make: Callable[[TensorForm], Tensor]) -> Any:
    if isinstance(structure, TensorForm):
        return make(structure)
    if isinstance(structure, Mapping):
        return {name: _with_tensors(part, make) for name, part in structure.items()}
    if isinstance(structure, tuple | list):
        return type(structure)([_with_tensors(part, make) for part in structure])
    return structure


def _forms(structure: Any) -> Iterator[TensorForm]:
    if isinstance(structure, TensorForm):
        yield structure
    elif isinstance(structure, Mapping):
        yield from (form for part in structure.values() for form in _forms(part))
    elif isinstance(structure, tuple | list):
        yield from (form for part in structure for form in _forms(part))


def _content(structure: Any) -> Any:
    if isinstance(structure, TensorForm):
        highest = {"highest": structure.highest} if structure.highest else {}
        return {"shape": list(structure.shape), "dtype": structure.dtype, **highest}
    if isinstance(structure, Mapping):
        return {"mapping": {name: _content(part) for name, part in structure.items()}}
    if isinstance(structure, tuple | list):
        return {type(structure).__name__: [_content(part) for part in structure]}
    return structure


def _structure(content: object) -> Any:
    """What an object of the file means; the inverse of `_content`."""
    if content is None or isinstance(content, bool | int | float | str):
        return content
    if isinstance(content, dict):
        if content.keys() - {"highest"} == {"shape", "dtype"}:
            return _tensor_form(content)
        kind, parts = next(iter(content.items()), ("", None))
        if len(content) == 1 and kind == "mapping" and isinstance(parts, dict):
            return {name: _structure(part) for name, part in parts.items()}
        if len(content) == 1 and kind in _CONTAINERS and isinstance(parts, list):
            return _CONTAINERS[kind](map(_structure, parts))
    raise _damaged("sizes, or an object with shape and dtype, tuple, list or mapping", content)


def _tensor_form(content: Mapping[str, Any]) -> TensorForm:
    dtype, highest = content["dtype"], content.get("highest", 0)
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise _damaged(f"of dtypes {', '.join(_DTYPES)}", dtype)
    if type(highest) is not int or not 0 <= highest <= _most(dtype):
        raise _damaged(f"of whole numbers up to {_most(dtype)} where it is {dtype}", highest)
    return TensorForm(_sizes(content["shape"]), dtype, highest)


def _most(dtype: str) -> int:
    """What may be named as the highest number of this dtype: torch draws below the next."""
    if dtype in FRACTIONS:
        return 0
    return 1 if dtype == "bool" else torch.iinfo(_DTYPES[dtype]).max - 1


def _sizes(value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) >= _MOST_AXES:
        raise _damaged(f"of at most {_MOST_AXES - 1} sizes", value)
    for size in value:
        if type(size) is not int or size < 1:
            raise _damaged("of whole numbers from 1", size)
    return tuple(value)


def _damaged(expected: str, value: object) -> ArchitectureError:
    shown = repr(value)
    shown = shown if len(shown) <= 80 else f"{shown[:77]}…"
    return ArchitectureError(f"is damaged: input_shape must be {expected}, got {shown}")
