"""Families: the members of one kind of shape that fill each of several budgets.

A kind makes of a base network a series of shapes in rising order of one parameter; one solver
finds the largest shape within each budget (see copycat.families.series.largest).
Source: Crowley et al., "Pruning neural networks: is it time to nip it in the bud?", fig. 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import final

from torch import nn

from copycat.families.base_network import BaseNetwork
from copycat.families.kinds import FamilyKind
from copycat.families.series import Series, Shape, largest
from copycat.width_profile import WidthProfile
from pruning.cost import Budget, Cost
from pruning.errors import BudgetError, UnreachableBudgetError

Measure = Callable[[nn.Module], float]
"""Milliseconds that one run of a network takes."""


@dataclass(frozen=True)
class Member:
    """The largest network of its family within one budget.

    kind: name of the family.  parameter: α, k, z, depth … of the kind.
    limits: the budget in absolute numbers.
    shape: its widths, and its builder where that is not the base network's.
    cost: closed form; with latency_ms if the budget bounds it.
    num_measured: how many candidates were built and measured for it, beyond those measured for
        the budgets before it.
    """

    kind: str
    parameter: float
    limits: Budget
    shape: Shape
    cost: Cost
    num_measured: int = 0

    @property
    def profile(self) -> WidthProfile:
        """Widths, as they differ from those of the builder."""
        return self.shape.profile


@final
class Family:
    """The members of one kind that a base network has, found one by one.

    divisor, measure: as for `members`. Raises ProfileError or ModelError for a kind that the base
    network has no members of.
    """

    def __init__(
        self,
        base: BaseNetwork,
        kind: FamilyKind,
        *,
        divisor: int = 1,
        measure: Measure | None = None,
    ) -> None:
        self._kind = kind
        self._gauge = _Gauge(base, kind.series(base, divisor=divisor), measure)

    def member(self, budget: Budget) -> Member:
        """The largest member within a budget; what was priced for others is not priced again.

        Raises as `members` does.
        """
        return _member(self._kind, self._gauge, self._gauge.absolute(budget))


def members(
    base: BaseNetwork,
    kind: FamilyKind,
    budgets: Iterable[Budget],
    *,
    divisor: int = 1,
    measure: Measure | None = None,
) -> list[Member]:
    """The largest member of the family within each budget, in the order of the budgets.

    budgets: shares refer to the base network. With a bound on latency_ms candidates are built
        and measured where they meet the other bounds, and rounded to the nearest widths only:
        latency is no closed form, and need not grow with the widths.
    divisor: of the widths of groups; see copycat.families.width_series.WidthSeries.
    measure: needed for bounds on latency_ms.

    Raises UnreachableBudgetError for a budget below the smallest member, and BudgetError for
    one above the largest; each names that member. ProfileError or ModelError for a kind that
    the base network has no members of.
    """
    family = Family(base, kind, divisor=divisor, measure=measure)
    return [family.member(budget) for budget in budgets]


class _Gauge:
    """What shapes cost; each is measured at most once."""

    def __init__(self, base: BaseNetwork, series: Series, measure: Measure | None) -> None:
        self.series = series
        self._base, self._measure = base, measure
        self._measured: dict[tuple[str, int], float] = {}

    @property
    def num_measured(self) -> int:
        return len(self._measured)

    def absolute(self, budget: Budget) -> Budget:
        cost = self._base.graph.cost()
        if any(b.is_share and b.quantity in Budget.MEASURED for b in budget.bounds):
            cost = replace(cost, latency_ms=self._latency_ms(Shape(WidthProfile({}))))
        return budget.absolute(cost)

    def cost(self, shape: Shape, limits: Budget) -> Cost:
        """In closed form, and measured if the limits ask for it."""
        cost = self.series.cost(shape)
        return replace(cost, latency_ms=self._latency_ms(shape)) if is_measured(limits) else cost

    def fits(self, shape: Shape, limits: Budget) -> bool:
        counted = limits.without_measured()
        if counted is not None and not counted.allows(self.series.cost(shape)):
            return False
        return counted == limits or limits.allows(self.cost(shape, limits))

    def _latency_ms(self, shape: Shape) -> float:
        if self._measure is None:
            raise BudgetError("a bound on latency_ms needs a way to measure: pass measure=")
        key = shape.profile.digest, id(shape.builder)
        if key not in self._measured:
            self._measured[key] = self._measure(self._base.build(shape))
        return self._measured[key]


def is_measured(limits: Budget) -> bool:
    """Whether a bound is on a quantity that has no closed form."""
    return any(bound.quantity in Budget.MEASURED for bound in limits.bounds)


def _member(kind: FamilyKind, gauge: _Gauge, limits: Budget) -> Member:
    _require_channels(kind, gauge, limits)
    before = gauge.num_measured
    largest_fitting = largest(
        gauge.series,
        lambda shape: gauge.fits(shape, limits),
        may_round_up=not is_measured(limits),
    )
    if largest_fitting is None:
        raise _below(kind, gauge, limits)
    parameter, shape = largest_fitting
    cost = gauge.cost(shape, limits)
    if kind.has_ladder and parameter >= gauge.series.most and _is_loose(limits, cost):
        raise BudgetError(
            f"the budget {limits} is above the largest {kind.name}, {kind.symbol} = "
            f"{parameter:g} ({_in_words(limits, cost)}): lower it"
        )
    return Member(kind.name, parameter, limits, shape, cost, gauge.num_measured - before)


def _require_channels(kind: FamilyKind, gauge: _Gauge, limits: Budget) -> None:
    """BudgetError for a bound on channels where members have other layers than the base network."""
    if limits.limit("channels") is None:
        return
    smallest = gauge.series.shape(gauge.series.least)
    if gauge.series.cost(smallest).channels is None:
        raise BudgetError(
            f"channels are those of the base network's layers, and a {kind.name} network has "
            "others: give flops or params"
        )


def _below(kind: FamilyKind, gauge: _Gauge, limits: Budget) -> UnreachableBudgetError:
    least = gauge.series.least
    cost = gauge.cost(gauge.series.shape(least), limits)
    parts = [
        f"{bound.quantity} of at most {_number(bound.quantity, bound.value)} (nearest reachable: "
        f"{_number(bound.quantity, cost.of(bound.quantity))})"
        for bound in limits.bounds
        if cost.of(bound.quantity) > bound.value
    ]
    return UnreachableBudgetError(
        f"the budget cannot be reached: {'; '.join(parts)} by the smallest {kind.name}, "
        f"{kind.symbol} = {least:g}"
    )


def _is_loose(limits: Budget, cost: Cost) -> bool:
    return all(cost.of(bound.quantity) < bound.value for bound in limits.bounds)


def _in_words(limits: Budget, cost: Cost) -> str:
    names = (bound.quantity for bound in limits.bounds)
    return ", ".join(f"{name} {_number(name, cost.of(name))}" for name in names)


def _number(quantity: str, value: float) -> str:
    return f"{value:.3g}" if quantity in Budget.MEASURED else f"{value:,.0f}"
