"""Runs a network once and follows channel labels through every operator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from pruning.graph.call_sites import CallSite, CallSites
from pruning.graph.channel_labels import AxisLabels, ChannelLabels, Labels, TensorLabels
from pruning.graph.operators import RULES, Call
from pruning.graph.operators.elementwise import elementwise
from pruning.graph.operators.rule import Size, aten_names, pin_all, unlabelled
from pruning.networks.torch_interior import TorchDispatchMode, schema_of, tree_leaves
from pruning.tracer.calls import COUNTED, Calls
from pruning.tracer.constants import Constants
from pruning.tracer.meta_kernels import MetaKernels
from pruning.tracer.nested_tensors import tensors_in
from pruning.tracer.recorded_values import (
    RecordedValues,
    ReplayedReaders,
    ValueReplay,
    reads_values,
    with_positions,
)
from pruning.tracer.trace_records import (
    Contraction,
    Course,
    Reshape,
    ReshapeKey,
    Rows,
    Slot,
    Step,
    Storage,
    StoredTensor,
)

_SAME_VALUES = frozenset(
    aten_names(
        "view _unsafe_view reshape _reshape_alias flatten unflatten permute t transpose unsqueeze "
        "squeeze expand slice select split split_with_sizes unbind clone _to_copy detach alias "
        "lift_fresh contiguous"
    )
)
"""Operators that only choose and order the values of a tensor."""

_FILLERS = frozenset(aten_names("zeros ones full empty"))
"""Operators that make all values alike. Whether the size fits shows where the tensor is used."""


class Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Labels every tensor that a network computes, and adds up what the operators cost.

    tensors: parameters and buffers by name; each axis gets atoms of its own.
    kernels: what has run on meta tensors before.
    courses: how channels go on in reshapes that split their axis, where that is not the usual way.
    exact: whether channels may only be removed if the others keep their values.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        kernels: MetaKernels | None = None,
        *,
        courses: Mapping[ReshapeKey, Course] | None = None,
        exact: bool = True,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kernels = kernels or MetaKernels()
        self.constants = Constants()
        self.channels = ChannelLabels(exact=exact)
        self.uneven: list[Labels] = []
        self._replay: ValueReplay | None = None
        self._device: torch.device | None = None
        self._courses = courses or {}
        self._num_reshapes: Counter[str] = Counter()
        self._reshape: Reshape | None = None
        self.tensors: list[StoredTensor] = []
        self.slots: list[Slot] = []
        self.steps: list[Step] = []
        self.calls = Calls()
        self.counting: Callable[[str], str | None] = as_counted
        self.residual: list[Labels] = []
        self.produced: list[tuple[Labels, str]] = []
        self.consumed: list[Labels] = []
        self.contracted: list[Contraction] = []
        self.call_sites = CallSites()
        self._present_call = CallSite("", "", 0)
        self._present_arguments: Any = ()
        self._query_rows: tuple[Rows, ...] = ()
        self.group_split: set[str] = set()
        self.group_choices: dict[str, bool] = {}
        self.used: set[str] = set()
        self.storages: list[Storage] = []
        self.module = ""
        self._is_measuring = True
        self._operator = ""
        self._known: Any = WeakIdKeyDictionary()
        self._storage_of: Any = WeakIdKeyDictionary()
        self._names: Any = WeakIdKeyDictionary()
        self._filled: Any = WeakIdKeyDictionary()  # by tensor of one value, the memory behind it
        for name, tensor in tensors.items():
            self._register(name, tensor)

    def _register(self, name: str, tensor: Tensor) -> None:
        axes = tuple(self.channels.new(int(size)) for size in tensor.shape)
        self._known[tensor] = TensorLabels(axes, from_parameters=True, is_stored=True)
        self._names[tensor] = name
        is_parameter = isinstance(tensor, nn.Parameter)
        self.tensors.append(StoredTensor(name, axes, tensor.element_size(), is_parameter))
        self.slots += [Slot(name, axis, labels) for axis, labels in enumerate(axes)]

    def label_again(self, tensors: Mapping[str, Tensor]) -> None:
        """Label the tensors of a copy of the network like those of the same names."""
        for stored in self.tensors:
            tensor = tensors[stored.name]
            self._known[tensor] = TensorLabels(stored.axes, from_parameters=True, is_stored=True)
            self._names[tensor] = stored.name

    # What rules read and write (pruning.graph.operators.rule.Tracing).

    def axes(self, tensor: Tensor) -> AxisLabels:
        known = self._known.get(tensor)
        return known.axes if known is not None else unlabelled(tensor)

    def is_parameter(self, tensor: Tensor) -> bool:
        known = self._known.get(tensor)
        return known is not None and known.from_parameters

    def is_stored(self, tensor: Tensor) -> bool:
        known = self._known.get(tensor)
        return known is not None and known.is_stored

    def follows(self, tensor: Tensor, axis: int, labels: Labels) -> bool:
        for storage in self._filled.get(tensor, ()):
            storage.sizes[axis] = labels
        return tensor in self._filled

    def produces(self, weight: Labels) -> None:
        self.produced.append((weight, self.module))

    def consumes(self, weight: Labels) -> None:
        self.consumed.append(weight)

    def contracts(self, labels: Labels) -> None:
        arguments = tuple(
            (place, self.axes(leaf))
            for place, leaf in enumerate(tree_leaves(self._present_arguments))
            if isinstance(leaf, Tensor) and not self.is_parameter(leaf)
        )
        self.contracted.append(Contraction(self._present_call, labels, arguments, self._query_rows))

    def adds(self, labels: Labels) -> None:
        self.residual.append(labels)

    def loses_whole_groups(self, weight: Tensor) -> bool | None:
        return self.group_choices.get(self._names.get(weight, ""))

    def splits_groups(self, weight: Tensor) -> None:
        name = self._names.get(weight)
        if name is not None:
            self.group_split.add(name)

    def splits_unevenly(self, labels: Labels) -> None:
        self.uneven.append(labels)

    def split_axis(self, sizes: tuple[int, ...], axes: Sequence[int], usual: int) -> int:
        key = (self.module, self._num_reshapes[self.module])
        self._num_reshapes[self.module] += 1
        course = self._courses.get(key, Course(usual))
        if course.axis not in axes:
            course = Course(usual)
        self._reshape = Reshape(key, sizes, tuple(axes), course)
        return course.axis

    def went_on_along(self, labels: Labels) -> None:
        course = self._reshape.course if self._reshape else None
        if course is None or course.width_of is None:
            return
        slots = (s.labels for s in self.slots if (s.name, s.axis) == course.width_of)
        others = next(slots, labels[:0])
        if len(others) and len(others) % len(labels) == 0:
            self.channels.tie(self.channels.tie_rows(others.reshape(-1, len(labels))), labels)

    def count(self, factor: int, *sizes: Size) -> None:
        self._count(self.counting(self._operator), factor, sizes)

    def leave_out(self, *sizes: Size) -> None:
        name = self.counting(self._operator)
        self._count(self._operator if name == COUNTED else name, 1, sizes)

    def _count(self, name: str | None, factor: int, sizes: tuple[Size, ...]) -> None:
        if self._is_measuring and name is not None:
            self.calls.count(name, factor, sizes)

    def calls_now(self, func: Any, arguments: Any) -> None:
        """Note the call, with its arguments, that the next operators belong to."""
        self._present_call = self.call_sites.next(func)
        self._present_arguments = arguments
        self._query_rows = ()

    def makes_queries(self, weights: Iterable[Tensor | None], number: int) -> None:
        """Note parameters whose first rows make one side of what the present call multiplies."""
        self._query_rows = tuple(
            Rows(self._names[weight], labels, number)
            for weight in weights
            if weight is not None and weight in self._names
            for labels in self.axes(weight)[:1]
            if labels is not None
        )

    def makes_constant(self, numbers: Iterable[float]) -> None:
        """Note a tensor made of numbers, the one way for them to pass the dispatcher by."""
        self.note(Step("torch.tensor", self.module, tuple(numbers), (), ()))

    def note(self, step: Step) -> None:
        """Record a step of a run that is measured."""
        self.steps.append(step)

    # The dispatch itself.

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        args, kwargs = self._arguments(func, args, kwargs or {})
        result = self._result(func, args, kwargs)
        call = call_of(func, args, kwargs, result)
        self._reshape = None
        self.calls.begin()
        self._follow(call, torch.Tag.pointwise in func.tags)
        is_filled = _fills(func, call, self._filled)
        self._record(call, is_filled=is_filled)
        if self._is_measuring:
            self._store(call, _aliases(schema_of(func), result))
        if is_filled:
            self._note_filled(call)
        else:
            self._forget_filled(schema_of(func), call)
        self.constants.know(call.outputs)
        return result

    def _arguments(
        self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What an operator is called with: positions for masks, and all made on one device."""
        kwargs = dict(kwargs)
        if self._replay is not None:
            replay = self._replay
            args = with_positions(func, args, lambda _mask: replay.next("mask", self._device))
            has_device = any(argument.name == "device" for argument in schema_of(func).arguments)
            is_factory = has_device and next(tensors_in((args, kwargs)), None) is None
            if self._device is not None and is_factory:
                kwargs["device"] = self._device
        return args, kwargs

    def _result(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._replay is not None and reads_values(func):
            return self._replay.next(schema_of(func).name, self._device)
        return self.kernels(func, args, kwargs)

    @contextmanager
    def counted_as(self, name_of: Callable[[str], str | None]) -> Iterator[None]:
        """Inside the block what an operator costs is counted under this name, or not at all.

        Inside another such block its name stays.
        """
        before = self.counting
        if before is as_counted or name_of is not_at_all:
            self.counting = name_of
        try:
            yield
        finally:
            self.counting = before

    @contextmanager
    def running(self, device: torch.device | None, values: RecordedValues | None) -> Iterator[None]:
        """Around one run of the network; see `follow`."""
        self._device = device
        self._num_reshapes.clear()
        self._replay = values.replay() if values else None
        with ReplayedReaders(self._replay) if self._replay else nullcontext():
            yield

    @contextmanager
    def only_ties(self) -> Iterator[list[Step]]:
        """Inside the block labels are followed but nothing is priced; yields the steps of it."""
        before, self.steps, self._is_measuring = self.steps, [], False
        try:
            yield self.steps
        finally:
            self.steps = before
            self._is_measuring = True

    def _note_filled(self, call: Call) -> None:
        """Note tensors of one value, with the memory of all that they were made of."""
        for output in call.outputs:
            made = [t for t in (output, *call.tensors) if t.shape == output.shape]
            self._filled[output] = [
                *(self._storage_of[t] for t in made if t in self._storage_of),
                *(storage for t in made for storage in self._filled.get(t, ())),
            ]

    def _forget_filled(self, schema: Any, call: Call) -> None:
        """Something may be written to what an operator changed or returned a view of."""
        for place, declared in enumerate(schema.arguments):
            if declared.alias_info is not None:
                for tensor in tensors_in(call.arg(place, declared.name)):
                    self._filled.pop(tensor, None)

    def _follow(self, call: Call, pointwise: bool) -> None:
        known = [self._known[t] for t in call.tensors if t in self._known]
        if not known:
            return
        self.used.update(self._names[t] for t in call.tensors if t in self._names)
        self._operator = call.name
        rule = RULES.get(call.name) or (elementwise if pointwise else None)
        if rule is None:
            pin_all(self, call.tensors, _no_rule(call))
            found = [self._labelled_without_rule(call, output) for output in call.outputs]
        else:
            labelled = rule(self, call)
            found = labelled if isinstance(labelled, list) else [labelled]
        from_parameters = all(k.from_parameters for k in known) and all(
            t in self._known or t in self._filled for t in call.tensors if t.dim() > 0
        )
        for output, axes in zip(call.outputs, found, strict=True):
            assert len(axes) == output.dim(), (call.name, axes, output.shape)
            is_stored = call.name in _SAME_VALUES and all(k.is_stored for k in known)
            self._known[output] = TensorLabels(axes, from_parameters, is_stored)

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

    def notes_size(self, attribute: str, tensor: Tensor) -> None:
        """Label an attribute that holds a number of channels and has no tensor to follow."""
        labels = self.axes(tensor)[1]
        if labels is not None and all(slot.name != attribute for slot in self.slots):
            self.slots.append(Slot(attribute, 0, labels))

    def lives_from_here(self, tensor: Tensor) -> None:
        """Note an activation that begins to take memory now."""
        if not self._is_measuring:
            return
        axes = self.axes(tensor)
        sizes = [int(n) if a is None else a for n, a in zip(tensor.shape, axes, strict=True)]
        now = len(self.steps)
        self._storage_of[tensor] = storage = Storage(tensor.element_size(), sizes, now, now)
        self.storages.append(storage)

    def lives_until_here(self, tensor: Tensor) -> None:
        """Note that an activation is still needed now."""
        if tensor in self._storage_of:
            storage = self._storage_of[tensor]
            storage.last, storage.is_read = len(self.steps), True

    def _store(self, call: Call, is_alias: list[bool]) -> None:
        self.calls.made(call, is_alias)
        for tensor in call.tensors:
            self.lives_until_here(tensor)
        for output, shares in zip(call.outputs, is_alias, strict=True):
            if shares and call.tensors:
                source = self._storage_of.get(call.tensors[0])
                if source is not None:  # parameters take no memory of activations
                    self._storage_of[output] = source
            else:
                self.lives_from_here(output)

    def _record(self, call: Call, *, is_filled: bool) -> None:
        self.note(
            Step(
                call.name,
                self.module,
                self.constants.of(call),
                tuple(tuple(output.shape) for output in call.outputs),
                tuple(self.axes(output) for output in call.outputs),
                tuple(output.dtype for output in call.outputs),
                tuple(self.axes(tensor) for tensor in call.tensors),
                self._reshape,
                is_filled,
            )
        )


def _no_rule(call: Call) -> str:
    return f"the operator {call.name} has no rule"


def _fills(func: Any, call: Call, filled: Container[Tensor]) -> bool:
    """Whether an operator makes tensors of one value, or changes such ones in all places alike."""
    if call.name in _FILLERS:
        return True
    is_alike = torch.Tag.pointwise in func.tags or call.name == "aten::_to_copy"
    if not is_alike or torch.Tag.nondeterministic_seeded in func.tags:
        return False
    return bool(call.tensors) and all(tensor in filled for tensor in call.tensors)


def call_of(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Call:
    """A call of an operator and what it returned."""
    return Call(
        name=schema_of(func).name,
        args=args,
        kwargs=kwargs,
        outputs=tuple(tensors_in(result)),
        tensors=tuple(tensors_in((args, kwargs))),
    )


def _aliases(schema: Any, result: Any) -> list[bool]:
    """Per tensor that an operator returned, whether it shares memory with an argument."""
    values = (result,) if len(schema.returns) == 1 else result or ()
    return [
        declared.alias_info is not None
        for declared, value in zip(schema.returns, values, strict=True)
        for _ in tensors_in(value)
    ]


def as_counted(_operator: str) -> str | None:
    return COUNTED


def not_at_all(_operator: str) -> str | None:
    return None
