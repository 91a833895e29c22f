"""How well a criterion agrees with the oracle: correlation of their scores over units."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pruning.graph.channel_graph import ChannelGraph
from pruning.lazy_imports import lazy_modules

if TYPE_CHECKING:
    from scipy import stats
else:
    (stats,) = lazy_modules("scipy.stats")

MIN_UNITS = 3
"""Two units always correlate by 1 or −1; a layer with fewer than this says nothing."""

COEFFICIENTS = ("pearson", "spearman", "kendall")

UnitScores = Mapping[str, NDArray[np.float64]]
"""Per layer (channel group) one score per unit."""


@dataclass(frozen=True)
class Correlation:
    """Three coefficients in [−1, 1]; None where they are not defined.

    kendall: τ-b, which allows for ties. Spearman's ranks of ties are their mean.
    """

    pearson: float | None = None
    spearman: float | None = None
    kendall: float | None = None

    @property
    def is_defined(self) -> bool:
        """Whether there is a number for each of the three."""
        return None not in (self.pearson, self.spearman, self.kendall)


@dataclass(frozen=True)
class Agreement:
    """How a criterion agrees with the oracle.

    layers: per layer; undefined for layers with fewer than 3 units or with constant scores.
    all_layers: over the units of all layers together, also of those that are too small.
    """

    criterion: str
    layers: Mapping[str, Correlation]
    all_layers: Correlation

    @property
    def per_layer(self) -> Correlation:
        """The mean over the layers where it is defined."""
        defined = [layer for layer in self.layers.values() if layer.is_defined]
        if not defined:
            return Correlation()
        means = np.array([[getattr(c, name) for name in COEFFICIENTS] for c in defined]).mean(0)
        return Correlation(*means.tolist())

    @property
    def num_left_out(self) -> int:
        """Layers that do not count in `per_layer`."""
        return sum(not layer.is_defined for layer in self.layers.values())

    @property
    def metrics(self) -> dict[str, float]:
        """What is defined, by names such as pearson_per_layer and kendall_all."""
        return {
            f"{name}_{suffix}": value
            for suffix, part in (("per_layer", self.per_layer), ("all", self.all_layers))
            for name in COEFFICIENTS
            if (value := getattr(part, name)) is not None
        }


def correlation(
    scores: Sequence[float] | NDArray[Any], oracle: Sequence[float] | NDArray[Any]
) -> Correlation:
    """Of two equally long series; undefined for fewer than 3 values or if either is constant."""
    first, second = (np.asarray(values, dtype=np.float64) for values in (scores, oracle))
    assert first.shape == second.shape, (first.shape, second.shape)
    if len(first) < MIN_UNITS or np.ptp(first) == 0 or np.ptp(second) == 0:
        return Correlation()
    # Pearson's is NaN of infinite scores, and NaN or says little of nearly constant ones
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        warnings.simplefilter("ignore", stats.NearConstantInputWarning)
        coefficients = (
            stats.pearsonr(first, second).statistic,
            stats.spearmanr(first, second).statistic,
            stats.kendalltau(first, second).statistic,
        )
    return Correlation(*(float(value) if np.isfinite(value) else None for value in coefficients))


def agreement(criterion: str, scores: UnitScores, oracle: UnitScores) -> Agreement:
    """Of a criterion with the oracle over the same units.

    Source: Molchanov et al., "Importance Estimation for Neural Network Pruning", §4.2.1 and
        table 2: averaged per layer, and over all layers.
    """
    assert list(scores) == list(oracle), "scores of other layers than the oracle's"
    return Agreement(
        criterion,
        {name: correlation(scores[name], oracle[name]) for name in oracle},
        correlation(np.concatenate(list(scores.values())), np.concatenate(list(oracle.values()))),
    )


def ranked(agreements: Sequence[Agreement]) -> tuple[Agreement, ...]:
    """By falling Spearman correlation over all layers, undefined ones last."""

    def order(agreement: Agreement) -> float:
        value = agreement.all_layers.spearman
        return 2.0 if value is None else -value

    return tuple(sorted(agreements, key=order))


def unit_scores(
    scores: Mapping[str, Tensor], graph: ChannelGraph, layers: Sequence[str]
) -> dict[str, NDArray[np.float64]]:
    """One score per unit instead of one per channel: the channels of a unit share theirs."""
    by_layer = {}
    for name in layers:
        _, first = np.unique(graph.group(name).unit_of_channel, return_index=True)
        by_layer[name] = scores[name].detach().double().cpu().numpy()[first]
    return by_layer
