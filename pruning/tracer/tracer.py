"""Runs a network once and follows channel labels through every operator."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from pruning.errors import TraceError, first_line
from pruning.graph.channel_labels import AxisLabels, ChannelLabels, Labels, TensorLabels
from pruning.graph.operators import RULES, Call, Rule
from pruning.graph.operators.elementwise import elementwise
from pruning.graph.operators.rule import aten_names, pin_all, unlabelled
from pruning.networks.nested_tensors import tensors_in
from pruning.networks.torch_interior import TorchDispatchMode
from pruning.rules import Offered
from pruning.tracer.calls import Calls
from pruning.tracer.constants import Constants
from pruning.tracer.declarations import Declaration, declaration_of
from pruning.tracer.function_calls import FunctionCalls
from pruning.tracer.labelled_tensors import LabelledTensors
from pruning.tracer.memory import FilledTensors, Memory
from pruning.tracer.meta_kernels import kernels_of
from pruning.tracer.recorded_values import (
    RecordedValues,
    ReplayedReaders,
    ValueReplay,
    reads_values,
    with_positions,
)
from pruning.tracer.reshapes import Reshapes
from pruning.tracer.trace_records import Courses, Step
from pruning.tracer.unread_tensors import UnreadTensors

_SAME_VALUES = frozenset(
    aten_names(
        "view _unsafe_view reshape _reshape_alias flatten unflatten permute t transpose unsqueeze "
        "squeeze expand slice select split split_with_sizes unbind clone _to_copy detach alias "
        "lift_fresh contiguous"
    )
)
"""Operators that only choose and order the values of a tensor."""


def _nothing() -> None:
    pass


class Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Labels every tensor that a network computes, and adds up what the operators cost.

    It is what rules see (pruning.graph.operators.rule.Tracing), and runs them; what it writes down
    is in its parts.

    tensors: parameters and buffers by name.
    courses: how channels go on in reshapes that split their axis, where that is not the usual way.
    offered: which channels may be removed.
    tick: called at every operator.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        *,
        courses: Courses | None = None,
        offered: Offered | None = None,
        tick: Callable[[], None] = _nothing,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.offered = offered or Offered()
        self.channels = ChannelLabels(exact=self.offered.exact)
        self.labelled = LabelledTensors(tensors, self.channels)
        self.functions = FunctionCalls(self.labelled)
        self.reshapes = Reshapes(self.labelled, self.functions.sites, courses or {})
        self.memory = Memory(self.labelled)
        self.filled = FilledTensors(self.memory)
        self.unread = UnreadTensors()
        self.costs = Calls()
        self._kernels = kernels_of(torch.get_default_dtype())
        self.constants = Constants()
        self.steps: list[Step] = []
        self.produced: list[tuple[Labels, str]] = []
        self.consumed: list[Labels] = []
        self.residual: list[Labels] = []
        self.uneven: list[Labels] = []
        self.group_split: set[str] = set()
        self.group_choices: dict[str, bool] = {}
        self.axes, self.is_parameter = self.labelled.axes, self.labelled.is_parameter
        self.is_stored, self.follows = self.labelled.is_stored, self.filled.follows
        self.contracts = self.functions.contracts
        self._replay: ValueReplay | None = None
        self._device: torch.device | None = None
        self._tick = tick

    # What rules write (pruning.graph.operators.rule.Tracing).

    def produces(self, weight: Labels) -> None:
        self.produced.append((weight, self.functions.sites.module))

    def consumes(self, weight: Labels) -> None:
        self.consumed.append(weight)

    def adds(self, labels: Labels) -> None:
        self.residual.append(labels)

    def loses_whole_groups(self, weight: Tensor) -> bool | None:
        return self.group_choices.get(self.labelled.name(weight) or "")

    def splits_groups(self, weight: Tensor) -> None:
        if (name := self.labelled.name(weight)) is not None:
            self.group_split.add(name)

    def splits_unevenly(self, labels: Labels) -> None:
        self.uneven.append(labels)

    # The dispatch itself.

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        args, kwargs = self._arguments(func, args, kwargs or {})
        result = self._result(func, args, kwargs)
        call, declared = call_of(func, args, kwargs, result), declaration_of(func)
        self.reshapes.present = None
        self.costs.begin(call.name)
        self._follow(call, declared.is_pointwise)
        is_filled = self.filled.are_made(declared, call)
        self._record(call, is_filled=is_filled)
        self.unread.note(call)
        if self.costs.is_counting:
            is_alias = _aliases(declared, result)
            self.costs.made(call, is_alias)
            self.memory.makes(call, is_alias, len(self.steps))
        if is_filled:
            self.filled.note(call)
        else:
            self.filled.forget(declared, call)
        self.constants.know(call.outputs)
        return result

    def _arguments(
        self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What an operator is called with: positions for masks, and all made on one device."""
        self._tick()
        kwargs = dict(kwargs)
        if self._replay is not None:
            replay = self._replay
            args = with_positions(func, args, lambda _mask: replay.next("mask", self._device))
            takes_device = self._device is not None and declaration_of(func).takes_device
            if takes_device and next(tensors_in((args, kwargs)), None) is None:
                kwargs["device"] = self._device
        return args, kwargs

    def _result(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._replay is not None and reads_values(func):
            return self._replay.next(declaration_of(func).name, self._device)
        return self._kernels(func, args, kwargs)

    @contextmanager
    def running(self, device: torch.device | None, values: RecordedValues | None) -> Iterator[None]:
        """Around one run of the network; see `follow`."""
        self._device = device
        self.reshapes.begin_run()
        self._replay = values.replay() if values else None
        with ReplayedReaders(self._replay) if self._replay else nullcontext():
            yield

    @contextmanager
    def only_ties(self) -> Iterator[list[Step]]:
        """Inside the block labels are followed but nothing is priced; yields the steps of it."""
        before, self.steps, self.costs.is_counting = self.steps, [], False
        try:
            yield self.steps
        finally:
            self.steps = before
            self.costs.is_counting = True

    def _follow(self, call: Call, pointwise: bool) -> None:
        known = [self.labelled[t] for t in call.tensors if t in self.labelled]
        rule = RULES.get(call.name) or (elementwise if pointwise else None)
        if not known:
            if rule is not None:
                self._applied(rule, call)  # for its cost: what is made of inputs has no labels
            return
        names = map(self.labelled.name, call.tensors)
        self.labelled.used.update(name for name in names if name is not None)
        if rule is None:
            pin_all(self, call.tensors, _no_rule(call))
            labels = [self._labelled_without_rule(call, output) for output in call.outputs]
        else:
            labels = self._applied(rule, call)
            numbers, expected = [len(axes) for axes in labels], [out.dim() for out in call.outputs]
            if numbers != expected:
                raise _fault(call, f"labels of {numbers} axes for outputs of {expected}")
        from_parameters = all(k.from_parameters for k in known) and all(
            t in self.labelled or t in self.filled for t in call.tensors if t.dim() > 0
        )
        for output, axes in zip(call.outputs, labels, strict=True):
            is_stored = call.name in _SAME_VALUES and all(k.is_stored for k in known)
            self.labelled[output] = TensorLabels(axes, from_parameters, is_stored)

    def _applied(self, rule: Rule, call: Call) -> list[AxisLabels]:
        """Labels per output. TraceError if the rule fails, so that the network is not blamed."""
        try:
            labelled = rule(self, call)
        except Exception as error:
            raise _fault(call, f"{type(error).__name__}: {first_line(error)}") from error
        return labelled if isinstance(labelled, list) else [labelled]

    def _labelled_without_rule(self, call: Call, output: Tensor) -> AxisLabels:
        """Labels of what an operator without a rule made; if of a weight, pinned ones.

        So the layer that this weight is for has its group, with the reason.
        """
        if output.dim() < 2 or not all(map(self.is_parameter, call.tensors)):
            return unlabelled(output)
        weights = [tensor for tensor in call.tensors if tensor.shape == output.shape]
        if weights:
            return self.axes(weights[0])
        axes = tuple(self.channels.new(int(size)) for size in output.shape)
        for labels in axes:
            self.channels.pin(labels, _no_rule(call))
        return axes

    def note(self, step: Step) -> None:
        """Record a step."""
        self.steps.append(step)

    def _record(self, call: Call, *, is_filled: bool) -> None:
        self.note(
            Step(
                call.name,
                self.functions.sites.module,
                self.constants.of(call),
                tuple(tuple(output.shape) for output in call.outputs),
                tuple(self.axes(output) for output in call.outputs),
                tuple(output.dtype for output in call.outputs),
                tuple(self.axes(tensor) for tensor in call.tensors),
                self.reshapes.present,
                is_filled,
            )
        )


def _fault(call: Call, what: str) -> TraceError:
    return TraceError(
        f"the rule of the operator {call.name} fails, which is no fault of the network: {what}; "
        "please report it"
    )


def _no_rule(call: Call) -> str:
    return f"the operator {call.name} has no rule"


def call_of(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Call:
    """A call of an operator and what it returned."""
    return Call(
        name=declaration_of(func).name,
        args=args,
        kwargs=kwargs,
        outputs=tuple(tensors_in(result)),
        tensors=tuple(tensors_in((args, kwargs))),
    )


def _aliases(declared: Declaration, result: Any) -> list[bool]:
    """Per tensor that an operator returned, whether it shares memory with an argument."""
    values = (result,) if len(declared.shares_memory) == 1 else result or ()
    return [
        shares
        for shares, value in zip(declared.shares_memory, values, strict=True)
        for _ in tensors_in(value)
    ]
