"""trace(model, example_input): from a network to its ChannelGraph."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from pruning.cost import Cost, ExampleInput
from pruning.errors import ModelError, TraceError, first_line
from pruning.graph.channel_graph import ChannelGraph
from pruning.networks.copies import copied, copied_checked, doubled, moved, shapes
from pruning.networks.garbage_collection import collection_paused
from pruning.networks.wrappers import unwrapped
from pruning.rehearsal.kept_sizes import kept_sizes
from pruning.rehearsal.replay import TracedRun
from pruning.rehearsal.time_limit import TIME_LIMIT, Clock, OutOfTimeError, Progress, to_terminal
from pruning.rehearsal.verification import (
    Failure,
    Rehearsals,
    Rehearse,
    failing_groups,
    some_units,
    verified,
)
from pruning.rules import Offered
from pruning.tracer.graph_builder import Atoms, build_graph
from pruning.tracer.network_runs import follow
from pruning.tracer.recorded_values import RecordedValues, record
from pruning.tracer.trace_records import Course, Courses, ReshapeKey, Slot
from pruning.tracer.tracer import Tracer

T = TypeVar("T")

_MOST_TRACES = 8
"""How often a network is followed, to learn along which axes its reshapes take the channels on."""


def trace(
    model: nn.Module,
    example_input: ExampleInput,
    *,
    exact: bool = True,
    whole_heads: bool = False,
    time_limit: float = TIME_LIMIT,
    progress: Progress = to_terminal,
) -> ChannelGraph:
    """The channel graph of `model`, which is left untouched and may be of any width and mode.

    example_input: a tensor N×C×H×W with N = 1 (or a tuple of arguments, or a mapping of
        keyword arguments); costs are counted at this batch size and extent.
    exact: whether channels are only offered for removal if the others then keep their values.
        If not, those are offered too whose removal changes what a normalisation, a softmax, a mean
        or a convolution over channels makes of the others, as long as all shapes stay consistent:
        for networks that are trained afterwards. Such a group has `inexact`, the reason.
    whole_heads: whether attention loses whole heads, where its code gets by with fewer, and not
        equal places of all heads. The queries, keys and values of a head are then one unit of a
        group called such as "block.attention.qkv.heads". Where channels of a residual stream would
        have to go along by heads, or the code asks for their number, equal places go after all.
    time_limit: in seconds, after which the network is run at no other width. What is not known to
        be removable by then is pinned. Searches, `copycat.build` and others have no limit, whose
        results are not to depend on the machine; math.inf is none here.
    progress: told what is being done, after 2 s and from then on; an empty line at the end. By
        default it is shown on standard error if that is a terminal.

    The network runs in eval mode on meta tensors, so no arithmetic is done and no memory
    used. It then runs at other widths, in eval and in training mode: a group whose removal breaks
    the code (a size written into a reshape, say) is pinned with the reason; one that must not get
    too narrow for the code has `min_units`. A network that goes on with what it finds in its
    tensors, such as a detector, runs on real ones first, and further runs find the same.
    Every run begins with the network as it was given. Raises TraceError if it cannot run at all.
    """
    offered = Offered(exact, whole_heads)
    with _traces(model, example_input, offered, Clock(time_limit, progress)) as traces:
        try:
            return traces.on_meta_or_real(traces.graph_on)
        except ModelError as error:
            raise TraceError(str(error)) from error


def whole_trace(
    model: nn.Module, example_input: ExampleInput, offered: Offered | None = None
) -> ChannelGraph:
    """`trace` without a limit in time, for what must come out alike on a slow or busy machine.

    Used by searches and families, `copycat.build` and `load`, and `IterativePruner`. Progress is
    shown as by `trace`. offered: what a graph offers that this one is to be like; by default as
    `trace` has it.
    """
    return trace(model, example_input, **asdict(offered or Offered()), time_limit=math.inf)


def traced_cost(model: nn.Module, example_input: ExampleInput) -> Cost:
    """What one run of `model` costs in eval mode: `trace(…).cost()`, without its further runs."""
    with _traces(model, example_input, Offered(), Clock(math.inf, to_terminal)) as traces:
        return traces.on_meta_or_real(traces.cost_on)


@contextmanager
def _traces(
    model: nn.Module, example_input: ExampleInput, offered: Offered, clock: Clock
) -> Iterator[_Traces]:
    """Ways to trace a network, whose clock is closed at the end of the block."""
    with torch.inference_mode(False), closing(clock):  # inside of it, operators stay whole
        yield _Traces(unwrapped(model), example_input, offered, clock)


@dataclass(frozen=True)
class _Values:
    """What a network reads from its tensors; None for a mode in which it does not run."""

    evaluating: RecordedValues
    training: RecordedValues | None


@dataclass(frozen=True)
class _Prediction:
    """What a run in each mode tells.

    tracer: that has followed both.  atoms: where its labels went in the graph.
    rehearse, in_training: what the graph can be held against; None if it does not run in training.
    uneven: names of groups that are divided into parts of several sizes.
    """

    tracer: Tracer
    graph: ChannelGraph
    atoms: Atoms
    rehearse: Rehearsals
    in_training: Rehearsals | None
    uneven: list[str]


@dataclass(frozen=True)
class _Traces:
    """Ways to trace a network."""

    model: nn.Module
    example_input: ExampleInput
    offered: Offered
    clock: Clock

    def on_meta_or_real(self, run_on: Callable[[torch.device | None, _Values | None], T]) -> T:
        """What comes of runs on meta tensors if the network can make them, or else on its own."""
        meta = torch.device("meta")
        try:
            return run_on(meta, None)
        except TraceError:
            values = self.values()
        try:
            return run_on(meta, values)
        except TraceError:
            return run_on(None, values)

    def cost_on(self, device: torch.device | None, values: _Values | None) -> Cost:
        """The cost, from a run in eval mode on a device, or on that of the network's tensors."""
        skeleton = copied(self.model, device).eval()
        tracer, _ = self._evaluated(skeleton, device, values, {})
        graph, _ = build_graph(tracer)
        return graph.cost()

    def graph_on(self, device: torch.device | None, values: _Values | None) -> ChannelGraph:
        """The graph, from runs on a device, or on that of the network's tensors."""
        prediction = self._best_prediction(device, values)
        graph = verified(
            prediction.graph, prediction.rehearse, prediction.in_training, prediction.uneven
        )
        if not self.offered.exact:
            graph = _with_inexact_marked(graph, prediction.rehearse.comparing_numbers())
        return graph

    def _best_prediction(self, device: torch.device | None, values: _Values | None) -> _Prediction:
        """With channels going on in reshapes as the code wants it, as far as it tells."""
        skeleton = copied(self.model, device).eval()

        def predicted(courses: Courses) -> _Prediction:
            return self._predicted(skeleton, device, values, courses)

        prediction = self._improved(skeleton, {}, predicted)
        if self.offered.whole_heads:
            with suppress(OutOfTimeError):
                prediction = self._with_whole_heads(skeleton, prediction, predicted)
        return prediction

    def _improved(
        self,
        skeleton: nn.Module,
        courses: Courses,
        predicted: Callable[[Courses], _Prediction],
    ) -> _Prediction:
        """A prediction with these courses, and with others where the code wants them."""
        tried: set[tuple[ReshapeKey, Course]] = set()
        prediction = predicted(courses)
        with suppress(OutOfTimeError):  # `verified` finds out as well
            for _ in range(_MOST_TRACES):
                better = _courses_of_misled(prediction.tracer, tried) or _better_courses(
                    prediction.graph, prediction.rehearse, tried, exact=self.offered.exact
                )
                if not better:
                    break
                courses = {**courses, **better}
                prediction = predicted(courses)
            prediction = _with_kept_sizes(skeleton, prediction)
        return prediction

    def _with_whole_heads(
        self,
        skeleton: nn.Module,
        prediction: _Prediction,
        predicted: Callable[[Courses], _Prediction],
    ) -> _Prediction:
        """A prediction with channels going on along heads, in the modules that allow it."""
        tracer, usual = prediction.tracer, prediction.tracer.reshapes.courses
        heads = tracer.reshapes.into_heads(c.labels for c in tracer.functions.contracted)
        streams = {layer for g in prediction.graph.groups if g.residual for layer in g.producers}
        while heads:
            courses = {**usual, **heads}
            other = self._improved(skeleton, courses, predicted)
            refusing = _refusing_heads(other, streams)
            if not refusing:
                return other
            heads = {key: c for key, c in heads.items() if key[0] not in refusing}
        return prediction

    def _evaluated(
        self,
        skeleton: nn.Module,
        device: torch.device | None,
        values: _Values | None,
        courses: Courses,
    ) -> tuple[Tracer, TracedRun]:
        """A run in eval mode, and what has followed it."""
        network, inputs = copied_checked(skeleton), moved(self.example_input, device)
        tracer = Tracer(
            _tensors(network), courses=courses, offered=self.offered, tick=self.clock.tick
        )
        read = values.evaluating if values else None
        with _as_trace_error(network, inputs):
            follow(tracer, network, inputs, device=device, values=read)
        return tracer, TracedRun(inputs, tracer.steps, read)

    @collection_paused()
    def _predicted(
        self,
        skeleton: nn.Module,
        device: torch.device | None,
        values: _Values | None,
        courses: Courses,
    ) -> _Prediction:
        tracer, run = self._evaluated(skeleton, device, values, courses)
        runs, inputs = [run], run.inputs
        if values is None or values.training is not None:
            read = values.training if values else None
            runs += _followed_training(
                tracer, copied_checked(skeleton), doubled(inputs), device, read
            )
        graph, atoms = build_graph(tracer)
        rehearse, *in_training = (
            Rehearsals(
                skeleton,
                graph,
                atoms,
                run,
                device=device,
                clock=self.clock,
                exact=self.offered.exact,
            )
            for run in runs
        )
        uneven = atoms.names(graph, tracer.uneven)
        return _Prediction(tracer, graph, atoms, rehearse, next(iter(in_training), None), uneven)

    def values(self) -> _Values:
        """What the network reads in a real run; TraceError if it cannot run."""
        with _as_trace_error(self.model, self.example_input):
            network = copied(self.model).eval()
            evaluating = record(network, moved(self.example_input, None), self.clock.tick)
        try:
            network, inputs = copied(self.model).train(), doubled(self.example_input)
            training = record(network, inputs, self.clock.tick)
        except Exception:  # it needs targets, say: then eval mode has to do
            training = None
        return _Values(evaluating, training)


def _with_kept_sizes(skeleton: nn.Module, prediction: _Prediction) -> _Prediction:
    """A prediction whose graph knows the attributes that hold numbers of channels."""

    def with_sizes(sizes: Sequence[Slot]) -> _Prediction:
        graph, atoms = build_graph(prediction.tracer, sizes)
        training = prediction.in_training
        return replace(
            prediction,
            graph=graph,
            atoms=atoms,
            rehearse=prediction.rehearse.of(graph, atoms),
            in_training=training.of(graph, atoms) if training else None,
            uneven=atoms.names(graph, prediction.tracer.uneven),
        )

    def failures(sizes: Sequence[Slot]) -> tuple[Failure, ...]:
        held = with_sizes(sizes) if sizes else prediction
        return held.rehearse(some_units(held.graph))

    sizes = kept_sizes(skeleton, failures)
    return with_sizes(sizes) if sizes else prediction


def _with_inexact_marked(graph: ChannelGraph, rehearse: Rehearse) -> ChannelGraph:
    """`graph` with the groups marked whose widths enter into numbers that become values."""
    units = {
        name: max(number, graph.group(name).min_units)
        for name, number in some_units(graph).items()
        if not graph.group(name).inexact
    }
    try:
        reasons = failing_groups(units, rehearse)
    except OutOfTimeError:
        reasons = dict.fromkeys(units, "not known to be exact when tracing was stopped")
    return graph.with_groups(
        {name: replace(graph.group(name), inexact=reason) for name, reason in reasons.items()}
    )


def _refusing_heads(prediction: _Prediction, streams: AbstractSet[str]) -> set[str]:
    """Modules of which heads cannot go, or only with channels of a residual stream.

    streams: the layers that produce those of the streams.
    """
    graph = prediction.graph
    failing = failing_groups(some_units(graph), prediction.rehearse)

    def refuses(name: str) -> bool:
        group = graph.group(name)
        is_stuck = group.pinned is not None or group.num_units == 1 or name in failing
        return is_stuck or bool(streams & set(group.producers))

    return {
        module
        for module, labels in prediction.tracer.reshapes.heads
        if any(map(refuses, prediction.atoms.names(graph, [labels])))
    }


def _courses_of_misled(
    tracer: Tracer, tried: set[tuple[ReshapeKey, Course]]
) -> dict[ReshapeKey, Course]:
    """How channels go on in reshapes that gave them to an axis which is then taken apart.

    Such an axis is one of parts, such as queries, keys and values. tried: is added to.
    """
    better: dict[ReshapeKey, Course] = {}
    for reshape in tracer.reshapes.misled:
        tried.add((reshape.key, reshape.course))
        others = (Course(axis) for axis in reversed(reshape.axes))
        course = next((c for c in others if (reshape.key, c) not in tried), None)
        if course is not None:
            better.setdefault(reshape.key, course)
    return better


def _better_courses(
    graph: ChannelGraph,
    rehearse: Rehearse,
    tried: set[tuple[ReshapeKey, Course]],
    *,
    exact: bool,
) -> dict[ReshapeKey, Course]:
    """How channels go on in reshapes for which it was taken otherwise.

    The code tells: at other widths it asks for another size of the axis that follows them. If it
    does so where the reshaped channels are whole, it takes their number from those of others, as
    attention may do that is as wide as what it reads; if removal need not be exact, both are tied.
    tried: courses that were taken before, which is added to.
    """
    units = some_units(graph)
    better: dict[ReshapeKey, Course] = {}

    def take(failure: Failure, width_of: tuple[str, int] | None) -> None:
        reshape = failure.at.reshape if failure.at else None
        if reshape is None or len(failure.asked) != len(reshape.sizes):
            return
        tried.add((reshape.key, reshape.course))
        for axis in reshape.axes:
            course = Course(axis, width_of)
            follows = failure.asked[axis] != reshape.sizes[axis]
            if follows and (reshape.key, course) not in tried:
                better.setdefault(reshape.key, course)

    for failure in rehearse(units):
        take(failure, None)
    if exact or better:
        return better
    streams = {g.name: units[g.name] for g in graph.prunable if g.residual and g.name in units}
    if not any(failure.asked for failure in rehearse(streams)):
        return better
    for name, number in streams.items():
        for failure in rehearse({name: number}):
            take(failure, graph.axis_along(graph.group(name)))
    return better


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = dict(model.named_parameters())
    tensors.update(model.named_buffers())
    return tensors


@contextmanager
def _as_trace_error(model: nn.Module, inputs: ExampleInput) -> Iterator[None]:
    """What the network raises in here, as a TraceError that names the shapes of its inputs."""
    try:
        yield
    except TraceError:
        raise
    except Exception as error:
        sizes = ", ".join(shapes(inputs)) or "no tensor"
        raise TraceError(
            f"{type(model).__name__} cannot run on an example input of {sizes}: {first_line(error)}"
        ) from error


def _followed_training(
    tracer: Tracer,
    network: nn.Module,
    inputs: ExampleInput,
    device: torch.device | None,
    values: RecordedValues | None,
) -> list[TracedRun]:
    """A run in training mode; it ties what only that uses, such as GoogLeNet's auxiliary heads.

    network: a copy of the one that has run in eval mode.  inputs: a batch of two, which batch norm
        needs. Nothing for a network that cannot run so: what was found in eval mode holds.
    """
    tensors = _tensors(network)
    tracer.labelled.label_again(tensors)
    is_unused = any(t.dim() > 1 and name not in tracer.labelled.used for name, t in tensors.items())
    try:
        with tracer.only_ties() as steps:
            follow(tracer, network.train(), inputs, device=device, values=values)
        return [TracedRun(inputs, steps, values, training=True)]
    except Exception as error:
        if is_unused:
            warnings.warn(
                f"{type(network).__name__} has parameters that eval mode does not use, and does "
                f"not run in training mode: {first_line(error)}",
                stacklevel=2,
            )
        return []
