"""What a network costs, and how much it may cost.

FLOPs always mean fvcore's count in eval mode at batch 1, where one fused multiply-add is one
FLOP. Other tools count two: never compare figures without naming the convention.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from pruning.errors import BudgetError

ExampleInput = Tensor | tuple[Any, ...] | Mapping[str, Any]
"""One tensor, a tuple of positional arguments or a mapping of keyword arguments."""

_SUFFIXES = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9, "t": 1e12}
_BOUND = re.compile(r"(?P<quantity>[a-z_]+)\s*(?:<=|=)\s*(?P<number>[0-9.]+)\s*(?P<unit>[a-z%]?)")

# fvcore leaves these out by intention; only operators that multiply matrices are worth a note.
_COSTLY_OPERATORS = ("attention", "matmul", "mm", "conv", "lstm", "gru")


@dataclass(frozen=True)
class Cost:
    """What one network costs.

    flops: fvcore's count in eval mode, batch 1; one fused multiply-add is one FLOP.
    params: number of parameters; a tied parameter counts once, buffers do not count.
    notes: operators that fvcore cannot count, one sentence each.
    weight_bytes: of all parameters and buffers.
    peak_activation_bytes: the most bytes of activations alive at once at batch 1, each from
        the operator that makes it to the last one that reads it (views and in-place results
        cost nothing); None where it was not worked out.

    Costs are equal when FLOPs and parameters are.
    """

    flops: int
    params: int
    notes: tuple[str, ...] = field(default=(), compare=False)
    weight_bytes: int | None = field(default=None, compare=False)
    peak_activation_bytes: int | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Bound:
    """An upper bound on one quantity, absolute or as a share of the base network's (0–1)."""

    quantity: str
    value: float
    is_share: bool = False

    def __str__(self) -> str:
        value = f"{100 * self.value:g}%" if self.is_share else format_count(self.value)
        return f"{self.quantity}={value}"


@dataclass(frozen=True)
class Budget:
    """Upper bounds that hold together: an architecture meets all of them or is over budget."""

    bounds: tuple[Bound, ...]

    QUANTITIES = ("flops", "params")

    def __post_init__(self) -> None:
        if not self.bounds:
            raise BudgetError("a budget needs at least one bound, such as flops=25% or params=300k")
        names = [bound.quantity for bound in self.bounds]
        if len(set(names)) < len(names):
            raise BudgetError(f"a budget bounds each quantity once, got {', '.join(names)}")

    @classmethod
    def parse(cls, *texts: str) -> Budget:
        """Budget from texts such as "flops=25%", "flops=30M", "params<=300k".

        Suffixes k, M, G and T mean 10³, 10⁶, 10⁹ and 10¹²; % is a share of the base network.
        Raises BudgetError for anything else.
        """
        return cls(tuple(_parse_bound(text) for text in texts))

    def absolute(self, base: Cost) -> Budget:
        """The same budget with every share turned into a count of `base`, rounded down."""
        return Budget(
            tuple(
                Bound(b.quantity, math.floor(b.value * getattr(base, b.quantity)))
                if b.is_share
                else b
                for b in self.bounds
            )
        )

    def scaled(self, factor: float) -> Budget:
        """Every bound times `factor`; absolute bounds are rounded down."""
        return Budget(
            tuple(
                replace(b, value=b.value * factor if b.is_share else math.floor(b.value * factor))
                for b in self.bounds
            )
        )

    def limit(self, quantity: str) -> float | None:
        """The bound on `quantity`, or None where it is not bounded."""
        return next((b.value for b in self.bounds if b.quantity == quantity), None)

    def allows(self, cost: Cost) -> bool:
        """Whether `cost` meets every bound; the budget must be absolute."""
        return all(getattr(cost, b.quantity) <= self._absolute_value(b) for b in self.bounds)

    def excess(self, cost: Cost) -> dict[str, float]:
        """Cost minus bound per quantity: at most 0 where the bound is met."""
        return {
            b.quantity: getattr(cost, b.quantity) - self._absolute_value(b) for b in self.bounds
        }

    def __str__(self) -> str:
        return " ".join(str(bound) for bound in self.bounds)

    @staticmethod
    def _absolute_value(bound: Bound) -> float:
        assert not bound.is_share, "a share means nothing without a base: call absolute() first"
        return bound.value


def _parse_bound(text: str) -> Bound:
    match = _BOUND.fullmatch(text.strip().lower())
    if match is None:
        raise BudgetError(
            f"budget {text!r} is not understood: write quantity=number, such as flops=25%, "
            "flops=30M or params=300k"
        )
    quantity, unit = match["quantity"], match["unit"]
    if quantity not in Budget.QUANTITIES:
        raise BudgetError(
            f"budget {text!r} bounds an unknown quantity {quantity!r}: "
            f"choose from {', '.join(Budget.QUANTITIES)}"
        )
    try:
        number = float(match["number"])
    except ValueError:
        raise BudgetError(f"budget {text!r} has no readable number: {match['number']!r}") from None
    if unit != "%" and unit not in _SUFFIXES:
        raise BudgetError(f"budget {text!r} ends in an unknown unit {unit!r}: use %, k, M, G or T")
    if number <= 0:
        raise BudgetError(f"budget {text!r} must be above 0")
    if unit == "%":
        if number > 100:
            raise BudgetError(f"budget {text!r} must be at most 100%: it would bound nothing")
        return Bound(quantity, number / 100, is_share=True)
    count = number * _SUFFIXES[unit]
    if not 1 <= count < math.inf:
        raise BudgetError(f"budget {text!r} must be a finite count of at least 1")
    return Bound(quantity, math.floor(count))


def format_count(value: float) -> str:
    """`value` with three significant digits and a suffix: 1234567 → "1.23M"."""
    rounded = float(f"{value:.3g}")  # first: it may reach the next suffix
    for factor, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(rounded) >= factor:
            return f"{rounded / factor:g}{suffix}"
    return f"{rounded:g}"


@contextmanager
def in_mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """`model` in this mode inside the block; every module's own mode is restored after it."""
    modes = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, before in modes:
            module.training = before


def evaluating(model: nn.Module) -> AbstractContextManager[None]:
    """`model` in eval mode inside the block."""
    return in_mode(model, training=False)


def call_arguments(example_input: ExampleInput) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """`example_input` as positional and keyword arguments of the network."""
    if isinstance(example_input, Mapping):
        return (), dict(example_input)
    if isinstance(example_input, tuple):
        return example_input, {}
    return (example_input,), {}


def _count_padded_by_name(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
    """fvcore's rule for convolutions, for those with padding="same", which it leaves out."""
    from fvcore.nn.jit_handles import conv_flop_count, get_shape  # noqa: PLC0415 - as above

    shapes = [get_shape(value) for value in (inputs[0], inputs[1], outputs[0])]
    return int(conv_flop_count(*shapes))


def measure_cost(model: nn.Module, example_input: ExampleInput) -> Cost:
    """Cost of `model` as fvcore counts it, in eval mode; `model` is left as it was.

    example_input: N×… tensors with N = 1, or a tuple of positional arguments.
    """
    positional, keyword = call_arguments(example_input)
    assert not keyword, "fvcore takes positional inputs only"
    with evaluating(model), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fvcore and torch.jit warn of their own age
        from fvcore.nn import FlopCountAnalysis  # noqa: PLC0415 - only certification needs it

        analysis = FlopCountAnalysis(model, positional)
        analysis.set_op_handle("aten::_convolution_mode", _count_padded_by_name)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        analysis.tracer_warnings("none")
        flops = int(analysis.total())
        uncounted = analysis.unsupported_ops()
    notes = tuple(
        f"fvcore does not count {name} ({times} calls)"
        for name, times in sorted(uncounted.items())
        if any(part in name for part in _COSTLY_OPERATORS)
    )
    num_params = sum(parameter.numel() for parameter in model.parameters())
    tensors = (*model.parameters(), *model.buffers())
    weight_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    return Cost(flops, num_params, notes, weight_bytes)
