"""Pruning methods as a search offers them: how to train sparsely, and how to judge channels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pruning.errors import ConfigError
from pruning.lazy_imports import lazy_modules

if TYPE_CHECKING:
    import torch
    from torch import nn

    from pruning import criteria, regularizers, sigmoid_batchnorm
    from pruning.cost import ExampleInput
    from pruning.criteria import Criterion
    from pruning.graph.channel_graph import ChannelGraph
    from pruning.networks import torch_interior
    from pruning.regularizers import Regularizer
    from pruning.rules import Scope
    from pruning.scaling_factors import gating
    from pruning.scaling_factors.gating import Granularity
else:
    torch, criteria, regularizers, sigmoid_batchnorm, torch_interior, gating = lazy_modules(
        *("torch", "pruning.criteria", "pruning.regularizers", "pruning.sigmoid_batchnorm"),
        *("pruning.networks.torch_interior", "pruning.scaling_factors.gating"),
    )

Settings = Mapping[str, float]


@dataclass(frozen=True)
class Range:
    """The range of one setting of a method.

    is_log: whether values are drawn log-uniformly.
    is_push: whether the setting is the strength of a penalty and the range that of its total
        push on a σBN scale or gate, strength · Σ learning rate / (1 − momentum).
    """

    low: float
    high: float
    is_log: bool = False
    is_push: bool = False


@dataclass(frozen=True)
class Method:
    """One way to find unimportant channels.

    criterion: judges channels; None if learnable gates do.
    regularizer: takes the graph that says what is pruned, or None to penalise all.
    settings: ranges by name; criterion and regularizer take a value for each.
    after_step: what the method asks for after each update of the weights.
    reads_batchnorm: whether only channels with batch normalisation can be judged.
    uses_sigmoid: whether σBN takes its place.
    prunes_untrained: whether channels are judged before any training.
    tries_every_unit: whether judging takes a run of the network per channel.
    scope: which channels go, whatever the search says of that; None for what it says.
    """

    name: str
    criterion: Callable[[Settings], Criterion] | None
    regularizer: Callable[[Settings, ChannelGraph | None], Regularizer] | None = None
    after_step: Callable[[nn.Module], None] | None = None
    settings: Mapping[str, Range] = field(default_factory=dict)
    reads_batchnorm: bool = False
    uses_sigmoid: bool = False
    prunes_untrained: bool = False
    tries_every_unit: bool = False
    scope: Scope | None = None

    def prepared(
        self, model: nn.Module, seed: int, trained_on: ExampleInput | None = None
    ) -> nn.Module:
        """What is trained: `model`, or a copy with σBN whose scales are drawn from `seed`.

        trained_on: example input of a trained network, whose own scales σBN then starts from.
        """
        if not self.uses_sigmoid:
            return model
        return sigmoid_batchnorm.to_sigmoid_batchnorm(model, seed=seed, example_input=trained_on)


PUSH = Range(10.0, 1000.0, is_log=True, is_push=True)
"""The RNI authors' settings push 660 (VGG-16) and 66 (ResNet-56); below 10 nothing recedes,
and above 1,000 everything does."""

SHIFT = Range(0.0, 3.0)
"""Range of b; the RNI paper's experiments use 0 and 3."""

GATE_STRENGTHS: Mapping[str, Range] = {
    "sigmoid": PUSH,
    "clipped": Range(1.0, 100.0, is_log=True, is_push=True),
}
"""λ of learnable gates, per gate, by the form of their factors. Sigmoids learn like σBN scales do.
Clipped factors learn ten times slower, so that the push of each is a tenth, 0.1 to 10: from end to
end of their range it takes 1 where the loss does not hold against it."""

_SCALE_STRENGTH = Range(1e-5, 1e-2, is_log=True)
"""λ of penalties on γ. Network Slimming tries 1e-5 to 1e-3; the upper end is for short training.
Their pull does not fade for important channels as RNI's does, so that λ has to stay small beside
the gradient of the loss, whatever the schedule."""

_HOYER_STRENGTH = _SCALE_STRENGTH
"""λ of Hoyer-Square: its value, a number of channels per layer, is the same for γ and filters."""

_POLARIZATION_T = Range(1.0, 1.6)
"""Around the t of 1.2 in Zhuang et al.'s experiments on CIFAR."""


def _clamp_scales(model: nn.Module) -> None:
    """γ to [0, 1], without which polarization has no least value (Zhuang et al.)."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch_interior.BatchNorm) and module.affine:
                module.weight.clamp_(0, 1)


METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (
        Method(
            "rni",
            lambda _: criteria.SigmoidScale(),
            lambda s, graph: regularizers.RNI(s["strength"], s["shift"], graph=graph),
            settings={"strength": PUSH, "shift": SHIFT},
            reads_batchnorm=True,
            uses_sigmoid=True,
        ),
        Method(
            "slimming",
            lambda _: criteria.BatchNormScale(),
            lambda s, graph: regularizers.Slimming(s["strength"], graph=graph),
            settings={"strength": _SCALE_STRENGTH},
            reads_batchnorm=True,
        ),
        Method(
            "polarization",
            lambda _: criteria.BatchNormScale(),
            lambda s, graph: regularizers.Polarization(s["strength"], s["t"], graph=graph),
            settings={"strength": _SCALE_STRENGTH, "t": _POLARIZATION_T},
            after_step=_clamp_scales,
            reads_batchnorm=True,
        ),
        Method(
            "deep-hoyer-scale",
            lambda _: criteria.BatchNormScale(),
            lambda s, graph: regularizers.DeepHoyer(s["strength"], graph=graph),
            settings={"strength": _HOYER_STRENGTH},
            reads_batchnorm=True,
        ),
        Method("batchnorm-scale", lambda _: criteria.BatchNormScale(), reads_batchnorm=True),
        Method("magnitude-l1", lambda _: criteria.WeightMagnitude(1)),
        Method("ucs", lambda _: criteria.WeightMagnitude(1), scope="uniform"),
        Method("magnitude-l2", lambda _: criteria.WeightMagnitude(2)),
        Method(
            "deep-hoyer",
            lambda _: criteria.WeightMagnitude(2),
            lambda s, graph: regularizers.GroupDeepHoyer(s["strength"], graph=graph),
            settings={"strength": _HOYER_STRENGTH},
        ),
        Method("taylor", lambda _: criteria.Taylor()),
        Method("taylor-fixed", lambda _: criteria.Taylor().fixed()),
        Method(
            "taylor-before-batchnorm",
            lambda _: criteria.Taylor().placed(at="convolution"),
            reads_batchnorm=True,
        ),
        Method("taylor-per-convolution", lambda _: criteria.Taylor().placed(per="convolution")),
        Method("taylor-output", lambda _: criteria.TaylorOutput()),
        Method("taylor-weights", lambda _: criteria.TaylorWeights()),
        Method(
            "taylor-batchnorm-scale",
            lambda _: criteria.TaylorBatchNormScale(),
            reads_batchnorm=True,
        ),
        Method("taylor-full-gradient", lambda _: criteria.TaylorFullGradient()),
        Method(
            "taylor-full-gradient-before-batchnorm",
            lambda _: criteria.TaylorFullGradient().placed(at="convolution"),
            reads_batchnorm=True,
        ),
        Method("taylor-second-order", lambda _: criteria.TaylorSecondOrder(probes=16)),
        Method(
            "taylor-second-order-before-batchnorm",
            lambda _: criteria.TaylorSecondOrder(probes=16).placed(at="convolution"),
            reads_batchnorm=True,
        ),
        Method("obd", lambda _: criteria.Obd(probes=16)),
        Method(
            "obd-before-batchnorm",
            lambda _: criteria.Obd(probes=16).placed(at="convolution"),
            reads_batchnorm=True,
        ),
        Method("fisher", lambda _: criteria.Fisher()),
        Method("snip", lambda _: criteria.Snip(), prunes_untrained=True),
        Method("oracle", lambda _: criteria.Oracle(), tries_every_unit=True),
        Method("oracle-fixed", lambda _: criteria.Oracle().fixed(), tries_every_unit=True),
        Method("scaling-factors", None, settings={"strength": GATE_STRENGTHS["sigmoid"]}),
        Method("random", lambda _: criteria.Random()),
    )
}
"""By the name that the command line uses."""


def method(name: str) -> Method:
    """The method called `name`; ConfigError names all of them if there is none."""
    if name not in METHODS:
        raise ConfigError(f"criterion must be one of {', '.join(METHODS)}, got {name!r}")
    return METHODS[name]


def setting_ranges(
    criterion: str, granularity: str, gate_form: str = "sigmoid"
) -> dict[str, Range]:
    """The settings that a method and the gates of a granularity have, as rni.strength."""
    chosen, of_gates = method(criterion), GATE_STRENGTHS[gate_form]
    own = {
        f"{criterion}.{name}": of_gates if chosen.criterion is None else values
        for name, values in chosen.settings.items()
    }
    gated = [part for part in parts_of(granularity) if part != "filter"]
    return own | {f"{part}.strength": of_gates for part in gated}


def ranks_channels(criterion: str, granularity: str) -> bool:
    """Whether channels go by scores that a method gives them: no gates of theirs decide."""
    return method(criterion).criterion is not None and "filter" in parts_of(granularity)


def granularity(text: str) -> str:
    """`text` in its canonical form, such as filter+branch; ConfigError if it names no mixture."""
    known, parts = gating.GRANULARITIES, text.split("+")
    if not text or len(set(parts)) != len(parts) or not set(parts) <= set(known):
        raise ConfigError(
            f"granularity must be one or several of {', '.join(known)} joined by +, got {text!r}"
        )
    if {"layer", "full-layer"} <= set(parts):
        raise ConfigError(
            f"granularity must have one of layer and full-layer, of the same convolutions: {text!r}"
        )
    return "+".join(part for part in known if part in parts)


def parts_of(granularity: str) -> tuple[Granularity, ...]:
    """The parts of a mixture, in canonical order."""
    return tuple(part for part in gating.GRANULARITIES if part in granularity.split("+"))


def gated_parts(name: str, granularity: str) -> tuple[Granularity, ...]:
    """What of a mixture has learnable gates with a method; channels only where no criterion judges.

    Raises ConfigError for an unknown method.
    """
    is_judged = method(name).criterion is not None
    return tuple(part for part in parts_of(granularity) if part != "filter" or not is_judged)
