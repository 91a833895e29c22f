"""What a network costs, and how much it may cost.

FLOPs always mean fvcore's count in eval mode at batch 1, where one fused multiply-add is one
FLOP. Other tools count two: never compare figures without naming the convention.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from pruning.errors import BudgetError

if TYPE_CHECKING:
    from torch import Tensor, nn

ExampleInput: TypeAlias = "Tensor | tuple[Any, ...] | Mapping[str, Any]"
"""One tensor, a tuple of positional arguments or a mapping of keyword arguments."""

_COUNTS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9, "t": 1e12}
_BYTES = {
    "": 1.0, "b": 1.0, "k": 1e3, "kb": 1e3, "m": 1e6, "mb": 1e6, "g": 1e9, "gb": 1e9,
    "t": 1e12, "tb": 1e12,
}  # fmt: skip
_UNITS: dict[str, tuple[dict[str, float], str]] = {
    "flops": (_COUNTS, "%, k, M, G or T"),
    "params": (_COUNTS, "%, k, M, G or T"),
    "multiply_adds": (_COUNTS, "%, k, M, G or T"),
    "channels": (_COUNTS, "%, k, M, G or T"),
    "weight_bytes": (_BYTES, "%, kB, MB, GB or TB"),
    "peak_activation_bytes": (_BYTES, "%, kB, MB, GB or TB"),
    "latency_ms": ({"": 1.0, "ms": 1.0}, "% or ms"),
}
"""The units that each quantity may be given in, and the same in words."""

_AMOUNT = r"[0-9.]+\s*[a-z%]{0,2}"
_BOUND = re.compile(rf"(?P<quantity>[a-z_]+)\s*(?:<=|=)\s*(?P<amount>{_AMOUNT})")
_RANGE = re.compile(
    rf"(?P<quantity>[a-z_]+)\s*(?:<=|=)\s*"
    rf"(?P<low>{_AMOUNT})\s*:\s*(?P<high>{_AMOUNT})\s*:\s*(?P<step>{_AMOUNT})"
)
_MOST_RUNGS = 10_000
_ROUNDING = 1e-9
"""What a range such as 0.1 to 0.3 by 0.1 may lack of its last rung, and a share of a count."""

_REMEDIES = {
    "latency_ms": "it has to be measured",
    "channels": "say which groups are pruned, by graph.pruning(names)",
}
"""What to do about a quantity that is not known; elsewhere, trace the network."""


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
    latency_ms: of one run, in milliseconds; None where it was not measured.
    uncounted: multiply-adds that fvcore leaves out (attention …), as far as they have a closed
        form; None where they were not worked out.
    channels: filters of the layers that are pruned: each of their output channels counts. None
        where it is not known which these are.

    Costs are equal when FLOPs and parameters are.
    """

    flops: int
    params: int
    notes: tuple[str, ...] = field(default=(), compare=False)
    weight_bytes: int | None = field(default=None, compare=False)
    peak_activation_bytes: int | None = field(default=None, compare=False)
    latency_ms: float | None = field(default=None, compare=False)
    uncounted: int | None = field(default=None, compare=False)
    channels: int | None = field(default=None, compare=False)

    @property
    def multiply_adds(self) -> int | None:
        """The FLOPs and what they lack."""
        return None if self.uncounted is None else self.flops + self.uncounted

    def of(self, quantity: str) -> float:
        """One quantity by name; BudgetError if it was not worked out or measured."""
        value: float | None = getattr(self, quantity)
        if value is None:
            raise BudgetError(
                f"{quantity} of this network is not known, so it cannot be held against a budget: "
                + _REMEDIES.get(quantity, "trace the network")
            )
        return value


@dataclass(frozen=True)
class Bound:
    """An upper bound on one quantity, absolute or as a share of the base network's (0–1)."""

    quantity: str
    value: float
    is_share: bool = False

    def __str__(self) -> str:
        value = f"{100 * self.value:g}%" if self.is_share else format_count(self.value)
        return f"{self.quantity}={value}"

    def times(self, factor: float) -> Bound:
        """The bound times `factor`; a count is rounded down, channels up."""
        return replace(self, value=self._rounded(self.value * factor))

    def of_base(self, base: Cost) -> Bound:
        """The bound as a number where it is a share of `base`.

        A count is rounded down; of channels as many stay as remain when those that go are.
        """
        if not self.is_share:
            return self
        absolute = Bound(self.quantity, 0)
        return replace(absolute, value=absolute._rounded(self.value * base.of(self.quantity)))

    def _rounded(self, value: float) -> float:
        if self.is_share or self.quantity in Budget.MEASURED:
            return value
        if self.quantity == "channels":
            return math.ceil(value * (1 - _ROUNDING))
        return math.floor(value)


@dataclass(frozen=True)
class Budget:
    """Upper bounds that hold together: an architecture meets all of them or is over budget.

    flops is fvcore's count; multiply_adds are those and what fvcore leaves out, such as attention;
    channels are the filters of the layers that are pruned (see ChannelGraph.pruning).
    QUANTITIES are closed forms in the widths of a network; MEASURED ones need it built and run.
    """

    bounds: tuple[Bound, ...]

    QUANTITIES = (
        *("flops", "params", "weight_bytes", "peak_activation_bytes", "multiply_adds"),
        "channels",
    )
    MEASURED = ("latency_ms",)

    def __post_init__(self) -> None:
        if not self.bounds:
            raise BudgetError("a budget needs at least one bound, such as flops=25% or params=300k")
        names = self.quantities
        if len(set(names)) < len(names):
            raise BudgetError(f"a budget bounds each quantity once, got {', '.join(names)}")

    @classmethod
    def parse(cls, *texts: str) -> Budget:
        """Budget from texts such as "flops=25%", "flops=30M", "params<=300k", "channels=50%".

        Suffixes k, M, G and T mean 10³, 10⁶, 10⁹ and 10¹²; % is a share of the base network.
        Bytes may end in B ("weight_bytes=2MB"), latency_ms in ms ("latency_ms=3.5ms").
        Raises BudgetError for anything else.
        """
        return cls(tuple(_parse_bound(text) for text in texts))

    @classmethod
    def parse_ladder(cls, *texts: str) -> tuple[Budget, ...]:
        """A ladder of budgets, the smallest first, from texts of which one may be a range.

        "params=200k:2M:100k" goes from 200k to 2M, both included, in steps of 100k (the ladder
        of Crowley et al., "Pruning neural networks: is it time to nip it in the bud?", fig. 1).
        Bounds without a range hold on every rung. Without any range there is one rung.
        Raises BudgetError for more than one range, and for one that is malformed, falls, or has
        more than 10,000 rungs.
        """
        ranges = [text for text in texts if ":" in text]
        if len(ranges) > 1:
            raise BudgetError(f"a ladder has one range, got {', '.join(map(repr, ranges))}")
        rungs = _parse_range(ranges[0]) if ranges else [None]
        fixed = {text: _parse_bound(text) for text in texts if text not in ranges}
        return tuple(
            cls(tuple(bound for text in texts if (bound := fixed.get(text, rung)) is not None))
            for rung in rungs
        )

    @property
    def quantities(self) -> tuple[str, ...]:
        """What is bounded, in the order of the bounds."""
        return tuple(bound.quantity for bound in self.bounds)

    def absolute(self, base: Cost) -> Budget:
        """The same budget with every share turned into a count of `base` (see Bound.of_base)."""
        return Budget(tuple(bound.of_base(base) for bound in self.bounds))

    def scaled(self, factor: float) -> Budget:
        """Every bound times `factor`; absolute counts are rounded down, channels up."""
        return Budget(tuple(bound.times(factor) for bound in self.bounds))

    def without_measured(self) -> Budget | None:
        """The bounds on closed forms alone; None if there are none."""
        bounds = tuple(b for b in self.bounds if b.quantity not in self.MEASURED)
        return Budget(bounds) if bounds else None

    def counting_attention(self) -> Budget:
        """The same bounds, those on FLOPs being on everything that is multiplied and added."""
        return Budget(
            tuple(
                replace(bound, quantity="multiply_adds") if bound.quantity == "flops" else bound
                for bound in self.bounds
            )
        )

    def limit(self, quantity: str) -> float | None:
        """The bound on `quantity`, or None where it is not bounded."""
        return next((b.value for b in self.bounds if b.quantity == quantity), None)

    def allows(self, cost: Cost) -> bool:
        """Whether `cost` meets every bound; the budget must be absolute."""
        return all(cost.of(b.quantity) <= self._absolute_value(b) for b in self.bounds)

    def excess(self, cost: Cost) -> dict[str, float]:
        """Cost minus bound per quantity: at most 0 where the bound is met."""
        return {b.quantity: cost.of(b.quantity) - self._absolute_value(b) for b in self.bounds}

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
    return _bound(text, match["quantity"], match["amount"])


def _parse_range(text: str) -> list[Bound]:
    """The rungs of a range; each is checked as a bound of its own."""
    match = _RANGE.fullmatch(text.strip().lower())
    if match is None:
        raise BudgetError(
            f"budget {text!r} is not understood: write quantity=from:to:step, such as "
            "params=200k:2M:100k or flops=10%:100%:10%"
        )
    low, high, step = (_bound(text, match["quantity"], match[k]) for k in ("low", "high", "step"))
    if len({bound.is_share for bound in (low, high, step)}) > 1:
        raise BudgetError(f"budget {text!r} mixes shares and numbers: write % three times or never")
    if high.value < low.value:
        raise BudgetError(f"budget {text!r} falls: write the smaller end first")
    num_rungs = math.floor((high.value - low.value) / step.value + _ROUNDING) + 1
    if num_rungs > _MOST_RUNGS:
        raise BudgetError(f"budget {text!r} has {num_rungs:,} rungs: at most {_MOST_RUNGS:,}")
    values = [min(low.value + rung * step.value, high.value) for rung in range(num_rungs)]
    return [replace(low, value=round(value, 12)) for value in values]


def _bound(text: str, quantity: str, amount: str) -> Bound:
    if quantity not in _UNITS:
        raise BudgetError(
            f"budget {text!r} bounds an unknown quantity {quantity!r}: "
            f"choose from {', '.join(_UNITS)}"
        )
    digits = amount.rstrip("abcdefghijklmnopqrstuvwxyz% ")
    unit = amount.removeprefix(digits).strip()
    try:
        number = float(digits)
    except ValueError:
        raise BudgetError(f"budget {text!r} has no readable number: {digits!r}") from None
    factors, in_words = _UNITS[quantity]
    if unit != "%" and unit not in factors:
        raise BudgetError(f"budget {text!r} ends in an unknown unit {unit!r}: use {in_words}")
    if number <= 0:
        raise BudgetError(f"budget {text!r} must be above 0")
    if unit == "%":
        if number > 100:
            raise BudgetError(f"budget {text!r} must be at most 100%: it would bound nothing")
        return Bound(quantity, number / 100, is_share=True)
    value = number * factors[unit]
    if quantity in Budget.MEASURED:
        if not 0 < value < math.inf:
            raise BudgetError(f"budget {text!r} must be finite and above 0")
        return Bound(quantity, value)
    if not 1 <= value < math.inf:
        raise BudgetError(f"budget {text!r} must be a finite count of at least 1")
    return Bound(quantity, math.floor(value))


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


def called(model: nn.Module, inputs: ExampleInput) -> Any:
    """What `model` returns for inputs: one tensor, a tuple of arguments or a mapping of them."""
    positional, keyword = call_arguments(inputs)
    return model(*positional, **keyword)


@contextmanager
def exits_as_errors() -> Iterator[None]:
    """A network that asks in here for the end of its process (`sys.exit`) raises RuntimeError."""
    try:
        yield
    except SystemExit as end:
        raise RuntimeError(f"it ends the process: SystemExit: {end}") from end


def call_arguments(example_input: ExampleInput) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """`example_input` as positional and keyword arguments of the network."""
    if isinstance(example_input, Mapping):
        return (), dict(example_input)
    if isinstance(example_input, tuple):
        return example_input, {}
    return (example_input,), {}
