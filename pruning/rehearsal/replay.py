"""A run with fewer channels, held step by step against what is predicted."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pruning.cost import ExampleInput
from pruning.errors import first_line
from pruning.graph.channel_labels import AxisLabels, Labels
from pruning.graph.operators.rule import Call
from pruning.networks.copies import moved
from pruning.networks.nested_tensors import tensors_in
from pruning.networks.torch_interior import disable_current_modes, schema_of
from pruning.tracer.composite_calls import note_constant
from pruning.tracer.declarations import declaration_of
from pruning.tracer.network_runs import run as run_network
from pruning.tracer.recorded_values import ChangedPathError, RecordedValues
from pruning.tracer.tensor_dict import TensorDict
from pruning.tracer.trace_records import Step
from pruning.tracer.tracer import Tracer, call_of

COPY = "aten::clone"
_VIEWS = frozenset({"aten::view", "aten::_unsafe_view", "aten::_reshape_alias"})
"""Whether `reshape` copies depends on the layout of memory, which a single channel simplifies."""

_RESHAPES = (Tensor.reshape, torch.reshape, Tensor.unflatten, torch.unflatten)

_OTHER_PATH = "the network takes another path through its code with fewer channels"
_WRITTEN = "a size written into the network's code"

_COMPUTED = "uses a number that is computed from the number of channels"
_SIZED = "has a size written into the network's code"

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class TracedRun:
    """A run at full width, to hold others against.

    inputs: what the network was given.  values: what it was told that its tensors hold.
    training: its mode.
    """

    inputs: ExampleInput
    steps: Sequence[Step]
    values: RecordedValues | None
    training: bool = False


def _kind(operator: str) -> str:
    return "aten::view" if operator in _VIEWS else operator


@dataclass(frozen=True)
class Difference:
    """A step that is not as predicted.

    asked: the sizes that a reshape was asked for.  is_of_sizes: whether sizes differ, not values.
    is_last: whether the run ended with it, be it for another one before.
    """

    step: int
    reason: str
    asked: tuple[int, ...] = ()
    is_of_sizes: bool = True
    is_last: bool = False


class Replay(Tracer):  # type: ignore[no-untyped-call]
    """Follows no labels but compares every step with the one that is expected.

    A step whose sizes are wrong is noted, and the run goes on with what was predicted; it ends
    where the network does something else.

    expected: steps at full width. alive: per atom, whether it stays.
    exact: whether numbers that become values must stay as they are.
    tick: called at every operator.
    """

    def __init__(
        self, expected: Sequence[Step], alive: Flags, *, exact: bool, tick: Callable[[], None]
    ) -> None:
        super().__init__({}, tick=tick)
        self._expected, self._alive, self._exact = expected, alive, exact
        self._sizes: dict[int, int] = {}
        self._resized: TensorDict[bool] = TensorDict()
        self._position = 0
        self.differences: list[Difference] = []

    def follow(
        self, model: nn.Module, run: TracedRun, device: torch.device | None
    ) -> Difference | None:
        """Run `model`; the difference, besides those noted, that ended the run early, if any."""
        inputs = moved(run.inputs, None)
        try:
            with _Calls(self):
                run_network(self, model, inputs, device=device, values=run.values)
            reason = "" if self._position == len(self._expected) else _OTHER_PATH
        except (_OtherPathError, ChangedPathError):
            reason = _OTHER_PATH
        except Exception as error:  # whatever a network raises that is not made for this width
            reason = f"{_WRITTEN} ({textwrap.shorten(first_line(error), 70)})"
        is_noted = bool(self.differences) and self.differences[-1].step == self._position
        if not reason or is_noted:
            return None
        return Difference(self._position, reason, is_last=True)

    def note(self, step: Step) -> None:
        """Compare a tensor that is made of numbers."""
        before = self._next(step.operator)
        if self._exact and before.constants != step.constants:
            self._differs(before, _COMPUTED)
        self._position += 1

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = declaration_of(func).name
        args, kwargs = self._arguments(func, args, kwargs or {})
        if name == COPY:
            result = self._result(func, args, kwargs)
            self.constants.know(tensors_in(result))
            return result
        before = self._next(name)
        result = self._compared(before, func, args, kwargs)
        self.constants.know(tensors_in(result))
        self._position += 1
        return result

    def _compared(self, before: Step, func: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
        """What a call returns, or was predicted to return where that is not so."""
        asked = tuple(args[1]) if _kind(declaration_of(func).name) == "aten::view" else ()
        predicted = tuple(map(self._sizes_of, before.shapes, before.axes))
        try:
            result = self._result(func, args, kwargs)
        except ChangedPathError:
            raise
        except Exception as error:
            why = textwrap.shorten(first_line(error), 70)
            self._differs(before, f"{_WRITTEN} ({why})", asked)
            return _tensors_like(before, predicted, func, error, args)
        after = call_of(func, args, kwargs, result)
        if self._exact and before.constants != self.constants.of(after):
            self._differs(before, _COMPUTED)
        sizes = tuple(tuple(output.shape) for output in after.outputs)
        if before.is_filled:
            for output in after.outputs:
                self._resized[output] = predicted != sizes
        elif predicted != sizes:
            self._differs(before, _SIZED, asked)
            return _tensors_like(before, predicted, func, _OtherPathError(), args)
        elif self._exact and self._is_number_of_values(before, after):
            self._differs(before, _COMPUTED)
        return result

    def _is_number_of_values(self, before: Step, after: Call) -> bool:
        """Whether a call makes something of how many values there are in a tensor of one value.

        Such a tensor may be of any size; where it meets channels, their labels tell which.
        """
        labelled = any(a is not None for axes in (*before.axes, *before.operands) for a in axes)
        return not labelled and any(self._resized.get(tensor, False) for tensor in after.tensors)

    def reshaped(self, x: Tensor, asked: tuple[int, ...], error: Exception) -> Tensor:
        """What a reshape that failed before any operator was called was predicted to return."""
        if self._position == len(self._expected):
            raise error
        before = self._expected[self._position]
        if _kind(before.operator) != "aten::view":
            raise error
        why = textwrap.shorten(first_line(error), 70)
        self._differs(before, f"{_WRITTEN} ({why})", asked)
        self._position += 1
        (shape,) = map(self._sizes_of, before.shapes, before.axes)
        with disable_current_modes():  # this is no call of the network
            result = x.new_empty(shape)
        self.constants.know([result])
        return result

    def _next(self, operator: str) -> Step:
        if self._position == len(self._expected):
            raise _OtherPathError
        before = self._expected[self._position]
        if _kind(before.operator) != _kind(operator):
            raise _OtherPathError
        return before

    def _differs(self, step: Step, reason: str, asked: tuple[int, ...] = ()) -> None:
        where = f"{step.operator} in {step.module or 'the network'}"
        text = reason if reason.startswith(_WRITTEN) else f"{where} {reason}"
        is_of_sizes = reason != _COMPUTED
        self.differences.append(Difference(self._position, text, asked, is_of_sizes))

    def _sizes_of(self, shape: tuple[int, ...], axes: AxisLabels) -> tuple[int, ...]:
        return tuple(
            size if labels is None else self._num_alive(labels)
            for size, labels in zip(shape, axes, strict=True)
        )

    def _num_alive(self, labels: Labels) -> int:
        if id(labels) not in self._sizes:  # the steps hold the labels, so ids stay taken
            self._sizes[id(labels)] = int(np.count_nonzero(self._alive[labels]))
        return self._sizes[id(labels)]


class _Calls(TorchFunctionMode):
    """Sees tensors that are made of numbers, and has a run go on after reshapes that do not fit.

    That is where a reshape finds out by itself, before any operator is called.
    """

    def __init__(self, replay: Replay) -> None:
        super().__init__()
        self._replay = replay

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        note_constant(self._replay, func, args, kwargs)
        try:
            return func(*args, **(kwargs or {}))
        except RuntimeError as error:
            if func not in _RESHAPES:
                raise
            return self._replay.reshaped(args[0], _asked(func, args[1:], kwargs or {}), error)


def _asked(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[int, ...]:
    """The sizes of all axes that a reshape is asked for; none where it tells those of some."""
    if func not in (Tensor.reshape, torch.reshape):
        return ()
    sizes = kwargs.get("shape", args)
    return tuple(sizes[0] if len(sizes) == 1 and not isinstance(sizes[0], int) else sizes)


class _OtherPathError(Exception):
    """The network does something else than at full width."""


def _tensors_like(
    before: Step,
    shapes: Sequence[tuple[int, ...]],
    func: Any,
    error: Exception,
    args: tuple[Any, ...],
) -> Any:
    """What a step was predicted to return; `error` where that cannot be made up.

    The network may have kept what an operator works on in place, so that nothing can replace it.
    """
    returns = schema_of(func).returns
    if schema_of(func).is_mutable or len(returns) != 1 or not isinstance(args[0], Tensor):
        raise error
    like = args[0]
    made = [
        like.new_empty(shape, dtype=dtype)
        for shape, dtype in zip(shapes, before.dtypes, strict=True)
    ]
    return made if str(returns[0].type) == "Tensor[]" else made[0]
