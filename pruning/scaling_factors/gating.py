"""What a learnable gate learns, the factor φ that it makes of it, and what has gates.

Source: Haider and Taj, "Comprehensive Online Network Pruning via Learnable Scaling Factors", §5.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from pruning.errors import ConfigError
from pruning.gates.placement import At, Placement
from pruning.restrictions import fits, prefixes

Granularity = Literal["filter", "layer", "full-layer", "branch", "block"]
GRANULARITIES: tuple[Granularity, ...] = get_args(Granularity)

Form = Literal["sigmoid", "clipped"]
FORMS: tuple[Form, ...] = get_args(Form)

_LEAST = 0.05
"""Factors that are sigmoids begin between this and one less it: further out they hardly learn."""


@dataclass(frozen=True)
class Gating:
    """How gates are made, and which of what could have one does.

    form: of a factor φ. "sigmoid" learns its logit, φ in (0, 1); "clipped" learns φ itself in
        [0, 1], which a penalty such as L1 makes 0 exactly: call `ScalingFactors.clip` after every
        step. The paper says of its factors that their range is (0, 1), and not what keeps them
        there.
    at: where filter gates act: "consumer", where weights read a channel, or "convolution", on the
        output of the layer that makes it, before batch normalisation, as in the paper (§3.1).
        Convolutions whose outputs are added share their gates, since their channels only go
        together. See pruning.gates.placement.
    only: per granularity patterns of the names of what is gated, such as "*.conv1"; everything of
        a granularity that is left out.
    Raises ConfigError for other words.
    """

    form: Form = "sigmoid"
    at: At = "consumer"
    only: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ConfigError(f"form must be one of {', '.join(FORMS)}, got {self.form!r}")
        Placement(self.at)  # it says what does not fit
        if unknown := self.only.keys() - set(GRANULARITIES):
            raise ConfigError(
                f"patterns are for some of {', '.join(GRANULARITIES)}, got {min(unknown)!r}"
            )

    def allows(self, granularity: str, names: Iterable[str]) -> bool:
        """Whether a structure, or a group that layers of these names produce, has a gate."""
        if granularity not in self.only:
            return True
        parts = [part for name in names for part in prefixes(name)]
        return any(fits(pattern, parts) for pattern in self.only[granularity])

    def factor(self, learned: Tensor) -> Tensor:
        """φ of what is learned, of the same shape.

        The gradient of a clipped one reaches what is learned at 0 and 1, too, so that it can leave.
        """
        if self.form == "sigmoid":
            return learned.sigmoid()
        return learned + (learned.clamp(0, 1) - learned).detach()

    def first(self, number: int, like: Tensor, generator: torch.Generator) -> Tensor:
        """What gates begin with that are uniform in (0, 1) (§5.1); sigmoids in [0.05, 0.95].

        Shape (number,); the device follows `like`, the dtype too but is at least float32.
        """
        values = torch.rand(number, generator=generator)
        if self.form == "sigmoid":
            values = values.clamp(_LEAST, 1 - _LEAST).logit()
        return values.to(like.device, torch.promote_types(like.dtype, torch.float32))
