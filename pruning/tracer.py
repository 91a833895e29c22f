"""Runs a network once and follows channel labels through every operator."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _NormBase
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from pruning.call_sites import CallSite, CallSites
from pruning.calls import COUNTED, Calls
from pruning.channel_labels import AxisLabels, ChannelLabels, Labels, TensorLabels
from pruning.composite_costs import ATTENTION, UNCOUNTED, WHOLE, is_area
from pruning.cost import ExampleInput, call_arguments
from pruning.errors import TraceError
from pruning.meta_kernels import MetaKernels
from pruning.operators import RULES, Call
from pruning.operators.elementwise import elementwise
from pruning.operators.rule import Size, aten_names, pin_all, unlabelled
from pruning.recorded_values import (
    RecordedValues,
    ReplayedReaders,
    ValueReplay,
    reads_values,
    with_positions,
)
from pruning.trace_records import (
    LOSES_WHOLE_GROUPS,
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

_SIZES = frozenset(
    aten_names(
        "view _unsafe_view _reshape_alias expand repeat slice split split_with_sizes unsafe_split "
        "unsafe_split_with_sizes as_strided as_strided_ new_empty new_zeros new_ones convolution "
        "native_group_norm"
    )
)
_SIZE_LISTS = frozenset(
    aten_names("zeros ones empty full new_full constant_pad_nd affine_grid_generator")
)
"""Operators whose numbers may follow the channels: a mistake shows in the shape of what they make.

Of those in _SIZE_LISTS that is so for lists of numbers only.
"""

_FILLERS = frozenset(aten_names("zeros ones full empty"))
"""Operators that make all values alike. Whether the size fits shows where the tensor is used."""

_FROM_NUMBERS = (torch.tensor, torch.as_tensor, Tensor.new_tensor)


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
        self.counting: Callable[[str], str | None] = _as_counted
        self.residual: list[Labels] = []
        self.produced: list[tuple[Labels, str]] = []
        self.consumed: list[Labels] = []
        self.contracted: list[Contraction] = []
        self.call_sites = CallSites()
        self._present_call, self._present_leaves = CallSite("", "", 0), list[Any]()
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
        self._known[tensor] = TensorLabels(axes, from_parameters=True)
        self._names[tensor] = name
        is_parameter = isinstance(tensor, nn.Parameter)
        self.tensors.append(StoredTensor(name, axes, tensor.element_size(), is_parameter))
        self.slots += [Slot(name, axis, labels) for axis, labels in enumerate(axes)]

    def label_again(self, tensors: Mapping[str, Tensor]) -> None:
        """Label the tensors of a copy of the network like those of the same names."""
        for stored in self.tensors:
            tensor = tensors[stored.name]
            self._known[tensor] = TensorLabels(stored.axes, from_parameters=True)
            self._names[tensor] = stored.name

    # What rules read and write (pruning.operators.rule.Tracing).

    def axes(self, tensor: Tensor) -> AxisLabels:
        known = self._known.get(tensor)
        return known.axes if known is not None else unlabelled(tensor)

    def is_parameter(self, tensor: Tensor) -> bool:
        known = self._known.get(tensor)
        return known is not None and known.from_parameters

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
            for place, leaf in enumerate(self._present_leaves)
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
        self._present_leaves = tree_leaves(arguments)
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
            self._store(call, _aliases(func._schema, result))
        if is_filled:
            self._note_filled(call)
        else:
            self._forget_filled(func._schema, call)
        return result

    def _arguments(
        self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What an operator is called with: positions for masks, and all made on one device."""
        kwargs = dict(kwargs)
        if self._replay is not None:
            replay = self._replay
            args = with_positions(func, args, lambda _mask: replay.next("mask", self._device))
            has_device = any(argument.name == "device" for argument in func._schema.arguments)
            is_factory = has_device and next(_tensors_in((args, kwargs)), None) is None
            if self._device is not None and is_factory:
                kwargs["device"] = self._device
        return args, kwargs

    def _result(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._replay is not None and reads_values(func):
            return self._replay.next(func._schema.name, self._device)
        return self.kernels(func, args, kwargs)

    @contextmanager
    def counted_as(self, name_of: Callable[[str], str | None]) -> Iterator[None]:
        """Inside the block what an operator costs is counted under this name, or not at all.

        Inside another such block its name stays.
        """
        before = self.counting
        if before is _as_counted or name_of is _not_at_all:
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
                for tensor in _tensors_in(call.arg(place, declared.name)):
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
            self._known[output] = TensorLabels(axes, from_parameters)

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
                constants_of(call),
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
        name=func._schema.name,
        args=args,
        kwargs=kwargs,
        outputs=tuple(_tensors_in(result)),
        tensors=tuple(_tensors_in((args, kwargs))),
    )


def constants_of(call: Call) -> tuple[float, ...]:
    """Numbers among the arguments of a call that become values or scale them, so no sizes."""
    positional = () if call.name in _SIZES else call.args
    if call.name in _SIZE_LISTS:
        positional = tuple(arg for arg in call.args if not isinstance(arg, list | tuple))
    return tuple(_numbers_in((positional, call.kwargs)))


class _CompositeCalls(TorchFunctionMode):
    """Sees the calls that fvcore counts, or leaves out, as a whole.

    They reach the dispatcher as several operators, which would be counted otherwise. Numbers
    that are made into a tensor don't reach it at all.
    """

    def __init__(self, tracer: Tracer) -> None:
        super().__init__()
        self._tracer = tracer

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        self._tracer.calls_now(func, (args, kwargs))
        if func in _FROM_NUMBERS:
            self._tracer.makes_constant(_numbers_in((args, kwargs)))
        if func is F.multi_head_attention_forward:
            self._note_attention(args, kwargs)
        if func in WHOLE and not (func is F.interpolate and not is_area(args, kwargs)):
            with self._tracer.counted_as(_not_at_all):
                result = func(*args, **kwargs)
            with self._tracer.counted_as(lambda _: UNCOUNTED.get(func, COUNTED)):
                WHOLE[func](self._tracer, args, kwargs)
            return result
        if func in UNCOUNTED:
            with self._tracer.counted_as(lambda _: UNCOUNTED[func]):
                return func(*args, **kwargs)
        if func is F.multi_head_attention_forward and not kwargs.get("need_weights", True):
            # it calls scaled_dot_product_attention, out of this mode's sight
            with self._tracer.counted_as(_products_as_attention):
                return func(*args, **kwargs)
        return func(*args, **kwargs)

    def _note_attention(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        embed_dim, in_proj_weight, in_proj_bias = args[3], args[5], args[6]
        weight = kwargs.get("q_proj_weight") if in_proj_weight is None else in_proj_weight
        self._tracer.makes_queries([weight, in_proj_bias], embed_dim)
        if not self._tracer.channels.exact:
            self._share_heads(args, kwargs)

    def _share_heads(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Tie what torch's attention wants equally wide: its input, and the heads' shares of it.

        Position i of every head goes with the channels of the input at these places.
        """
        query, embed_dim, num_heads, in_proj_weight = args[0], args[3], args[4], args[5]
        stream, channels = self._tracer.axes(query)[-1], self._tracer.channels
        if stream is None:
            return
        channels.tie_rows(stream.reshape(num_heads, -1))
        separate = [kwargs.get(f"{name}_proj_weight") for name in "qkv"]
        for weight in separate if in_proj_weight is None else [in_proj_weight]:
            rows = None if weight is None else self._tracer.axes(weight)[0]
            for part in () if rows is None else rows.reshape(-1, embed_dim):
                channels.tie(stream, part)


def _as_counted(_operator: str) -> str | None:
    return COUNTED


def _not_at_all(_operator: str) -> str | None:
    return None


def _products_as_attention(operator: str) -> str | None:
    return ATTENTION if operator == "aten::bmm" else COUNTED


def follow(
    tracer: Tracer,
    model: nn.Module,
    example_input: ExampleInput,
    *,
    device: torch.device | None,
    values: RecordedValues | None,
) -> None:
    """Run `model` under a tracer that may have seen another run of it (in another mode).

    values: what the network is told wherever it reads from its tensors; what they hold if None.
    device: on which the network then makes tensors of its own, whatever it asks for.
    Whatever the network raises is passed on; TraceError if no tensor is found in what it returns.
    """
    positional, keyword = call_arguments(example_input)
    for name, module in model.named_modules():
        if hasattr(module, LOSES_WHOLE_GROUPS):
            tracer.group_choices[f"{name}.weight"] = getattr(module, LOSES_WHOLE_GROUPS)
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(_same_random_numbers())
        stack.enter_context(_module_names(model, tracer))
        stack.enter_context(tracer.call_sites.following(model))
        stack.enter_context(_functions_left_out(tracer))
        stack.enter_context(_CompositeCalls(tracer))
        stack.enter_context(tracer.running(device, values))
        stack.enter_context(tracer)
        for tensor in _tensors_in((positional, keyword)):
            tracer.lives_from_here(tensor)
        output = model(*positional, **keyword)
    outputs = list(_returned_tensors(output, set()))
    if not outputs:
        raise TraceError(
            f"no tensor was found in what {type(model).__name__} returns "
            f"({type(output).__name__}): return tensors, or tuples, mappings or objects of them"
        )
    for tensor in outputs:
        tracer.lives_until_here(tensor)
        tracer.calls.gives(tensor)
    pin_all(tracer, outputs, "the network's output")


@contextmanager
def _same_random_numbers() -> Iterator[None]:
    """Every run draws the same numbers, from Python's generator too; afterwards it is as before."""
    before = random.getstate()
    random.seed(0)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            yield
    finally:
        random.setstate(before)


@contextmanager
def _functions_left_out(tracer: Tracer) -> Iterator[None]:
    """Keeps what custom autograd functions do out of the count: fvcore does not look inside."""
    apply = torch.autograd.Function.__dict__["apply"]

    def noted(cls: type[Any], *args: Any, **kwargs: Any) -> Any:
        with tracer.counted_as(lambda _: cls.__name__):
            return apply.__get__(None, cls)(*args, **kwargs)

    torch.autograd.Function.apply = classmethod(noted)
    try:
        yield
    finally:
        torch.autograd.Function.apply = apply


@contextmanager
def _module_names(model: nn.Module, tracer: Tracer) -> Iterator[None]:
    """Keeps `tracer.module` at the name of the innermost module that runs."""
    stack: list[str] = []

    def entering(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            stack.append(name)
            tracer.module = name
            if isinstance(module, _NormBase) and not list(module.state_dict()):
                tracer.notes_size(f"{name}.num_features", inputs[0])

        return hook

    def leaving(*_: object) -> None:
        stack.pop()
        tracer.module = stack[-1] if stack else ""

    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(entering(name)))
        handles.append(module.register_forward_hook(leaving))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _aliases(schema: Any, result: Any) -> list[bool]:
    """Per tensor that an operator returned, whether it shares memory with an argument."""
    values = (result,) if len(schema.returns) == 1 else result or ()
    return [
        declared.alias_info is not None
        for declared, value in zip(schema.returns, values, strict=True)
        for _ in _tensors_in(value)
    ]


def _numbers_in(value: Any) -> Iterator[float]:
    """Every number in nested tuples, lists and mappings."""
    if isinstance(value, int | float):
        yield float(value)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _numbers_in(item)
    elif isinstance(value, Mapping):
        yield from _numbers_in(tuple(value.values()))


def _tensors_in(value: Any) -> Iterator[Tensor]:
    """Every tensor in nested tuples, lists and mappings."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors_in_all(value.values())
    elif isinstance(value, list | tuple):
        yield from _tensors_in_all(value)


def _returned_tensors(value: Any, seen: set[int]) -> Iterator[Tensor]:
    """Every tensor in what a network returns, objects of any kind included."""
    if isinstance(value, Tensor):
        yield value
    if id(value) in seen or isinstance(value, Tensor | nn.Module | type | str | int | float):
        return
    seen.add(id(value))
    if isinstance(value, Mapping):
        parts: Iterable[Any] = value.values()
    elif isinstance(value, list | tuple):
        parts = value
    else:
        slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
        parts = [getattr(value, name, None) for name in (*getattr(value, "__dict__", ()), *slots)]
    for part in parts:
        yield from _returned_tensors(part, seen)


def _tensors_in_all(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        yield from _tensors_in(value)
