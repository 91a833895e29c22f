"""Sees the calls of torch's functions that a running network makes, which hide operators."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from pruning.networks.nested_tensors import numbers_in
from pruning.tracer.calls import COUNTED, not_at_all
from pruning.tracer.composite_costs import ATTENTION, UNCOUNTED, WHOLE, is_area
from pruning.tracer.trace_records import Step
from pruning.tracer.tracer import Tracer

_FROM_NUMBERS = frozenset({torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor})


class CompositeCalls(TorchFunctionMode):
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
        self._tracer.functions.begin(func, (args, kwargs))
        note_constant(self._tracer, func, args, kwargs)
        if func is F.multi_head_attention_forward:
            self._note_attention(args, kwargs)
        if func in WHOLE and not (func is F.interpolate and not is_area(args, kwargs)):
            with self._tracer.costs.counted_as(not_at_all):
                result = func(*args, **kwargs)
            with self._tracer.costs.counted_as(lambda _: UNCOUNTED.get(func, COUNTED)):
                WHOLE[func](self._tracer, args, kwargs)
            return result
        if func in UNCOUNTED:
            with self._tracer.costs.counted_as(lambda _: UNCOUNTED[func]):
                return func(*args, **kwargs)
        if func is F.multi_head_attention_forward and not kwargs.get("need_weights", True):
            # it calls scaled_dot_product_attention, out of this mode's sight
            with self._tracer.costs.counted_as(_products_as_attention):
                return func(*args, **kwargs)
        return func(*args, **kwargs)

    def _note_attention(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        embed_dim, in_proj_weight, in_proj_bias = args[3], args[5], args[6]
        weight = kwargs.get("q_proj_weight") if in_proj_weight is None else in_proj_weight
        self._tracer.functions.makes_queries([weight, in_proj_bias], embed_dim)
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


def note_constant(tracer: Tracer, func: Any, args: Sequence[Any], kwargs: Any) -> None:
    """Note a tensor made of numbers, the one way for them to pass the dispatcher by."""
    if func in _FROM_NUMBERS:
        numbers = tuple(numbers_in((args, kwargs)))
        tracer.note(Step("torch.tensor", tracer.functions.sites.module, numbers, (), ()))


def _products_as_attention(operator: str) -> str | None:
    return ATTENTION if operator == "aten::bmm" else COUNTED


@contextmanager
def functions_left_out(tracer: Tracer) -> Iterator[None]:
    """Keeps what custom autograd functions do out of the count: fvcore does not look inside.

    It is their forward that is noted, since a network may have kept their `apply`.
    """

    def noted(function: type[Any], forward: Callable[..., Any]) -> Callable[..., Any]:
        def noted_forward(*args: Any, **kwargs: Any) -> Any:
            with tracer.costs.counted_as(lambda _: function.__name__):
                return forward(*args, **kwargs)

        return noted_forward

    forwards = {f: vars(f)["forward"] for f in _descendants(torch.autograd.Function)}
    try:
        for function, forward in forwards.items():
            function.forward = staticmethod(noted(function, forward.__get__(None, function)))
        yield
    finally:
        for function, forward in forwards.items():
            function.forward = forward


def _descendants(function: type[Any]) -> Iterator[type[Any]]:
    """All classes below this one that have a forward of their own."""
    for descendant in function.__subclasses__():
        if "forward" in vars(descendant):
            yield descendant
        yield from _descendants(descendant)
