"""Runs of a network under a tracer."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pruning.cost import ExampleInput, call_arguments, exits_as_errors
from pruning.errors import TraceError
from pruning.graph.operators.rule import pin_all
from pruning.networks.nested_tensors import returned_tensors, tensors_in
from pruning.networks.state_outside import state_outside_kept
from pruning.networks.torch_interior import Norm
from pruning.tracer.composite_calls import CompositeCalls, functions_left_out
from pruning.tracer.recorded_values import RecordedValues
from pruning.tracer.trace_records import LOSES_WHOLE_GROUPS
from pruning.tracer.tracer import Tracer


def follow(
    tracer: Tracer,
    model: nn.Module,
    example_input: ExampleInput,
    *,
    device: torch.device | None,
    values: RecordedValues | None,
) -> None:
    """`run` under a tracer that may have seen another run of it (in another mode).

    TraceError if no tensor is found in what the network returns.
    """
    for name, module in model.named_modules():
        if hasattr(module, LOSES_WHOLE_GROUPS):
            tracer.group_choices[f"{name}.weight"] = getattr(module, LOSES_WHOLE_GROUPS)
    for tensor in tensors_in(call_arguments(example_input)):
        if tracer.costs.is_counting:
            tracer.memory.begins(tensor, len(tracer.steps))
    with ExitStack() as stack:
        stack.enter_context(_bare_norms_seen(model, tracer))
        stack.enter_context(tracer.functions.sites.following(model))
        stack.enter_context(functions_left_out(tracer))
        stack.enter_context(CompositeCalls(tracer))
        output = run(tracer, model, example_input, device=device, values=values)
    outputs = list(returned_tensors(output, set()))
    if not outputs:
        raise TraceError(
            f"no tensor was found in what {type(model).__name__} returns "
            f"({type(output).__name__}): return tensors, or tuples, mappings or objects of them"
        )
    for tensor in outputs:
        tracer.memory.is_read(tensor, len(tracer.steps))
        tracer.costs.gives(tensor)
    pin_all(tracer, outputs, "the network's output")
    pin_all(tracer, _left_behind(tracer, model, outputs), _LEFT)


_LEFT = "the network leaves it where nothing in the network reads it: an output like others"


def _left_behind(tracer: Tracer, model: nn.Module, outputs: Sequence[Tensor]) -> list[Tensor]:
    """What the run has left, in places where tensors are not looked for, or on the network itself.

    Such as a set, a closure or an attribute. What it has put in the place of a buffer is its state.
    """
    known = {id(tensor) for tensor in (*outputs, *model.parameters(), *model.buffers())}

    def others() -> list[Tensor]:
        return [tensor for tensor in tracer.unread.alive() if id(tensor) not in known]

    if others():
        gc.collect()  # what only holds itself is nobody's
    return others()


def run(
    tracer: Tracer,
    model: nn.Module,
    example_input: ExampleInput,
    *,
    device: torch.device | None,
    values: RecordedValues | None,
) -> Any:
    """What `model` returns, run under a tracer; whatever it raises is passed on.

    values: what the network is told wherever it reads from its tensors; what they hold if None.
    device: on which the network then makes tensors of its own, whatever it asks for.
    """
    positional, keyword = call_arguments(example_input)
    inputs = tensors_in((positional, keyword))
    tracer.constants.know((*model.parameters(), *model.buffers(), *inputs))
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(_same_random_numbers())
        stack.enter_context(state_outside_kept(model))
        stack.enter_context(tracer.running(device, values))
        stack.enter_context(tracer)
        stack.enter_context(exits_as_errors())
        return model(*positional, **keyword)


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
def _bare_norms_seen(model: nn.Module, tracer: Tracer) -> Iterator[None]:
    """Notes how many channels come to normalisations that have no tensor to follow them."""

    def noting(name: str) -> Callable[..., None]:
        return lambda _, inputs: tracer.labelled.notes_size(f"{name}.num_features", inputs[0])

    handles = [
        module.register_forward_pre_hook(noting(name))
        for name, module in model.named_modules()
        if isinstance(module, Norm) and not (*module.parameters(), *module.buffers())
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
