"""Values that a network's code reads from its tensors, kept so that other runs go the same way."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pruning.cost import ExampleInput, call_arguments, exits_as_errors
from pruning.networks.state_outside import state_outside_kept
from pruning.networks.torch_interior import TorchDispatchMode, schema_of, tree_map_only

_READERS = frozenset({Tensor.tolist, Tensor.numpy, Tensor.__array__})
"""What copies values out of a tensor past the dispatcher."""

_DEVICE_OF = Tensor.device.__get__

_DATA_DEPENDENT = frozenset({torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape})
_INDEXED = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_unsafe_index")
_MASK_TYPES = (torch.bool, torch.uint8)


class ChangedPathError(Exception):
    """A run reads other values, or in another order, than the one that was recorded."""


class RecordedValues:
    """What was read from tensors in one real run, in order: numbers, positions, chosen boxes.

    Networks such as detectors go on with what they find in an image: how many boxes there are
    decides the sizes of tensors. A later run, on meta tensors or with fewer channels, is given the
    same values, so that only what follows from its widths can differ.

    device: of the network, on which later runs seem to be: some code goes another way elsewhere.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._results: list[tuple[str, Any]] = []

    def keep(self, name: str, result: Any) -> None:
        """Note what a call returned."""
        copied = tree_map_only(Tensor, lambda tensor: tensor.detach().clone(), result)
        self._results.append((name, copied))

    def replay(self) -> ValueReplay:
        """The values once more, from the first on."""
        return ValueReplay(iter(self._results), self.device)


class ValueReplay:
    """The values of a recorded run, handed out in its order."""

    def __init__(self, results: Iterator[tuple[str, Any]], device: torch.device) -> None:
        self.device = device
        self._results = results

    def next(self, name: str, device: torch.device | None) -> Any:
        """What the next call returned, on this device; ChangedPathError if it is another call."""
        recorded, result = next(self._results, ("nothing", None))
        if recorded != name:
            raise ChangedPathError(f"{name} where {recorded} read values before")
        return tree_map_only(Tensor, lambda tensor: tensor.to(device or tensor.device), result)


@functools.cache
def reads_values(func: Any) -> bool:
    """Whether the shape or value that an operator returns to Python depends on values.

    Indexing is left out, which does so by its masks alone.
    """
    name = schema_of(func).name
    return name == "torchvision::nms" or (
        name not in _INDEXED and any(tag in func.tags for tag in _DATA_DEPENDENT)
    )


def with_positions(func: Any, args: Sequence[Any], positions: Callable[[Tensor], Any]) -> Any:
    """The arguments of a call, with the `positions` of what is true for masks to index with."""
    if schema_of(func).name not in _INDEXED:
        return args
    indices: list[Tensor | None] = []
    for index in args[1]:
        if index is not None and index.dtype in _MASK_TYPES:
            indices += positions(index)
        else:
            indices.append(index)
    return (args[0], indices, *args[2:])


def record(
    model: nn.Module, example_input: ExampleInput, tick: Callable[[], None]
) -> RecordedValues:
    """The values that `model` reads on the way; whatever it raises is passed on.

    tick: called at every operator.
    """
    tensors = itertools.chain(model.parameters(), model.buffers(), [torch.empty(0)])
    values = RecordedValues(next(tensors).device)
    positional, keyword = call_arguments(example_input)
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(state_outside_kept(model))
        stack.enter_context(_RecordedReaders(values))
        stack.enter_context(_RecordedOperators(values, tick))
        stack.enter_context(exits_as_errors())
        model(*positional, **keyword)
    return values


class _RecordedOperators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, values: RecordedValues, tick: Callable[[], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._values, self._tick = values, tick

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self._tick()
        args = with_positions(func, args, self._positions)
        result = func(*args, **(kwargs or {}))
        if reads_values(func):
            self._values.keep(schema_of(func).name, result)
        return result

    def _positions(self, mask: Tensor) -> Any:
        positions = mask.nonzero(as_tuple=True)
        self._values.keep("mask", positions)
        return positions


class _RecordedReaders(TorchFunctionMode):
    def __init__(self, values: RecordedValues) -> None:
        super().__init__()
        self._values = values

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _READERS:
            self._values.keep(func.__name__, result)
        return result


class ReplayedReaders(TorchFunctionMode):
    """While this is open, values read from tensors, and devices, are those of a recorded run."""

    def __init__(self, values: ValueReplay) -> None:
        super().__init__()
        self._values = values

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in _READERS:
            return self._values.next(func.__name__, None)
        if func == _DEVICE_OF:
            return self._values.device
        return func(*args, **(kwargs or {}))
