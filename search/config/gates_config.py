"""How the learnable gates of structures and filters are made, and what becomes of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Literal

from pruning.errors import ConfigError
from pruning.lazy_imports import lazy_modules
from search.config.settings import listed, option, require, require_defaults, settings

if TYPE_CHECKING:
    from pruning.scaling_factors import gating
    from pruning.scaling_factors.gating import Gating
else:
    (gating,) = lazy_modules("pruning.scaling_factors.gating")

FREEZABLE = ("batchnorm", "last")

_OF_GATES = ("gate_form", "gate_penalty", "gate_thresholds", "gate", "settle_epochs")
_OF_FILTERS = ("gates_at",)
"""Settings that learnable gates have; of filters alone."""


@settings
class GatesConfig:
    """Learnable gates: of channels by the method scaling-factors, of layers, branches and blocks.

    The defaults are those of Espalier; the paper's (Haider and Taj, "Comprehensive Online Network
    Pruning via Learnable Scaling Factors") are gates_at convolution, gate_form clipped (its
    factors lie in (0, 1); it does not say what keeps them there), gate_penalty mean, thresholds and
    settle_epochs 10.
    """

    gates_at: Literal["consumer", "convolution"] = option(
        "consumer",
        "where filter gates act: consumer (where layers read a channel, behind batch "
        "normalisation) or convolution (on its own output, before)",
    )
    gate_form: Literal["sigmoid", "clipped"] = option(
        "sigmoid",
        "factors of gates: sigmoid, above 0 and below 1, or clipped to 0 … 1, which L1 closes "
        "altogether",
    )
    gate_penalty: Literal["each", "mean"] = option(
        "each",
        "what the strength of L1 is that of: each gate, or the mean of a layer's gates (of all "
        "layers, branches or blocks)",
    )
    gate_thresholds: tuple[str, ...] = option(
        (),
        "0.5, or GRANULARITY=0.5 such as filter=0.4: gates below it go, whatever the target, and "
        "what is then over budget is infeasible; repeatable; by default the budget decides",
    )
    gate: tuple[str, ...] = option(
        (),
        "GRANULARITY=PATTERN such as layer=*.conv1: of these only what has such a name is gated; "
        "repeatable",
    )
    settle_epochs: int = option(
        0,
        "epochs with gates at 0 or 1 and added shortcuts still there, before both are removed and "
        "fine-tuning begins",
        ge=0,
    )
    freeze_but: tuple[str, ...] = option(
        (),
        "what learns on after sparse training, the rest being frozen: batchnorm, last (the last "
        "layer with weights), joined by commas; all does in iterative pruning, and by default",
    )

    def __post_init__(self) -> None:
        _ = self.only, self.thresholds  # they say what does not fit
        for name in self.unfrozen:
            require(name in FREEZABLE, "freeze_but", f"some of {', '.join(FREEZABLE)}", name)

    @property
    def only(self) -> dict[str, tuple[str, ...]]:
        """Patterns of what is gated, per granularity that has some."""
        patterns: dict[str, tuple[str, ...]] = {}
        for text in self.gate:
            granularity, is_given, pattern = map(str.strip, text.partition("="))
            if granularity not in gating.GRANULARITIES or not is_given or not pattern:
                raise ConfigError(
                    "gate must be GRANULARITY=PATTERN with one of "
                    f"{', '.join(gating.GRANULARITIES)}, such as layer=*.conv1, got {text!r}",
                    field="gate",
                )
            patterns[granularity] = (*patterns.get(granularity, ()), pattern)
        return patterns

    @property
    def thresholds(self) -> dict[str, float]:
        """Thresholds per granularity; one without a granularity is that of all."""
        limits: dict[str, float] = {}
        for text in self.gate_thresholds:
            granularity, is_given, number = map(str.strip, text.rpartition("="))
            names = (granularity,) if is_given else gating.GRANULARITIES
            try:
                limit = float(number)
            except ValueError:
                limit = -1.0
            if not 0 <= limit <= 1 or not set(names) <= set(gating.GRANULARITIES):
                raise ConfigError(
                    "gate_thresholds must be numbers from 0 to 1, such as 0.5 or filter=0.5, with "
                    f"{', '.join(gating.GRANULARITIES)}, got {text!r}",
                    field="gate_thresholds",
                )
            limits |= dict.fromkeys(names, limit)
        return limits

    @property
    def unfrozen(self) -> tuple[str, ...]:
        """What learns on; none for everything."""
        return listed(self.freeze_but)

    @property
    def as_gating(self) -> Gating:
        """How gates are made."""
        return gating.Gating(self.gate_form, self.gates_at, self.only)

    def params(self, gated: Collection[str]) -> dict[str, Any]:
        """Those of these settings that mean something, as a record has them.

        gated: what has learnable gates in the search.
        """
        names = ["freeze_but"] if self.unfrozen else []
        names += [*_OF_GATES] if gated else []
        names += [*_OF_FILTERS] if "filter" in gated else []
        values = {name: getattr(self, name) for name in names}
        texts = {n: ", ".join(v) if isinstance(v, tuple) else v for n, v in values.items()}
        return {name: value for name, value in texts.items() if value != ""}

    def require_gated(self, gated: Mapping[str, Collection[str]]) -> None:
        """ConfigError for settings that have no effect with these gates.

        gated: per mixture of granularities of a search, what has learnable gates.
        """
        every = {part for parts in gated.values() for part in parts}
        if not every:
            why = "without gates: only scaling-factors, or a granularity besides filter, has some"
            require_defaults(self, _OF_GATES, why)
        if "filter" not in every:
            require_defaults(self, _OF_FILTERS, "without --criterion scaling-factors on filters")
        for name, texts in (("gate", self.gate), ("gate_thresholds", self.gate_thresholds)):
            named = [text.partition("=")[0].strip() for text in texts if "=" in text]
            if unknown := [granularity for granularity in named if granularity not in every]:
                raise ConfigError(
                    f"{name} names {unknown[0]}, which has no learnable gates in this search: "
                    f"those are of {', '.join(sorted(every))}",
                    field=name,
                )
        for mixture, parts in gated.items():
            missing = [part for part in parts if part not in self.thresholds]
            if self.gate_thresholds and missing:
                raise ConfigError(
                    f"gate_thresholds lacks one for {missing[0]}, whose gates {mixture} learns: "
                    f"add {missing[0]}=0.5, say",
                    field="gate_thresholds",
                )
