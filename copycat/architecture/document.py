"""What architecture.json says, as a value and as text; architecture.schema.json describes it.

Two checksums make damage visible: that of the weights, and that of everything else in the
file. They are no signature: who can write the file can write them as well.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from copycat.builder import Builder
from copycat.input_shape import FRACTIONS, InputShape, example_of, from_content, to_content
from copycat.width_profile import WidthProfile
from pruning.cost import Cost, ExampleInput
from pruning.errors import ArchitectureError, EspalierError

FORMAT_VERSION = 2
FLOPS_CONVENTION = "fvcore, eval mode, batch 1; one fused multiply-add is one FLOP"
PROBE_SEED = 0

_REQUIRED = (
    *("format_version", "builder", "widths", "input_shape", "dtype", "classes"),
    *("cost", "provenance", "probe", "weights", "checksum"),
)
_OPTIONAL = ("removed", "inexact", "$schema")

_MAY_LACK = ("weight_bytes", "peak_activation_bytes", "uncounted")
"""Of a cost, what may be missing: whatever takes a trace, of networks that nobody traced."""


@dataclass(frozen=True)
class Architecture:
    """Everything that rebuilds one network, except its weights.

    builder: makes the base network; None for a network of one's own, which whoever loads it brings.
    profile: width per group that differs from it.
    input_shape: what the network reads: C, H, W of images, or anything else as
        `copycat.input_shape_of` gives it.
    classes: names of the classes, in the order of the outputs along their second axis; empty where
        outputs are no classes.
    cost: of the network at `profile`, certified by fvcore when it was saved.
    provenance: where it came from: search, origin, seeds, accuracies …; JSON-able.
    inexact: why, per group that was narrowed though others then take other values (see
        ChannelGraph.narrowed_inexactly).
    probe: outputs on a fixed random input, one after the other, or many of them at equal distances;
        what `load` compares.
    dtype: of the network's first parameter, and of images; a key of FRACTIONS.
    weights_sha256: of weights.safetensors; empty before it is stored.

    The probe, dtype and checksum are filled in by `save`.
    """

    builder: Builder | None
    profile: WidthProfile
    input_shape: InputShape
    classes: tuple[str, ...]
    cost: Cost
    provenance: Mapping[str, Any] = field(default_factory=dict)
    probe: tuple[float, ...] = ()
    dtype: str = "float32"
    weights_sha256: str = ""
    inexact: Mapping[str, str] = field(default_factory=dict)

    @property
    def example_input(self) -> ExampleInput:
        """An input of one sample: zeros, 1×C×H×W, for images; see `copycat.input_shape_of`."""
        return example_of(self.input_shape, FRACTIONS[self.dtype])


def to_json(architecture: Architecture) -> str:
    """The content of the file; ArchitectureError for a provenance that JSON cannot hold."""
    builder = architecture.builder
    content = {
        "format_version": FORMAT_VERSION,
        "builder": None if builder is None else dataclasses.asdict(builder),
        **architecture.profile.to_mapping(),
        **({"inexact": dict(architecture.inexact)} if architecture.inexact else {}),
        "input_shape": to_content(architecture.input_shape),
        "dtype": architecture.dtype,
        "classes": architecture.classes,
        "cost": {
            "flops": architecture.cost.flops,
            "params": architecture.cost.params,
            "convention": FLOPS_CONVENTION,
            **{name: value for name, value in _further(architecture.cost) if value is not None},
        },
        "provenance": dict(architecture.provenance),
        "probe": {"seed": PROBE_SEED, "output": architecture.probe},
        "weights": {"sha256": architecture.weights_sha256},
    }
    try:
        content["checksum"] = checksum(json.loads(json.dumps(content, allow_nan=False)))
    except (TypeError, ValueError, RecursionError) as error:
        raise ArchitectureError(f"not everything here can be written as JSON: {error}") from error
    return json.dumps(content, indent=2) + "\n"


def checksum(content: Mapping[str, Any]) -> str:
    """SHA-256 of the content without its checksum: sorted keys, no spaces, ASCII only."""
    rest = {key: value for key, value in content.items() if key not in ("checksum", "$schema")}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def from_json(text: str) -> Architecture:
    """Reads what `to_json` writes; ArchitectureError, which says what is wrong, for all else."""
    try:
        content = json.loads(text, parse_constant=_refuse_constant)
        return _from_content(_checked(content))
    except ArchitectureError:
        raise
    except (ValueError, RecursionError, OverflowError) as error:
        raise ArchitectureError(f"is not readable as JSON: {error}") from error
    except EspalierError as error:
        raise ArchitectureError(f"is damaged: {error}") from error


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number in JSON")


def _checked(content: object) -> Mapping[str, Any]:
    """The content, if it is of this format version, whole and as it was written."""
    if not isinstance(content, dict):
        raise ArchitectureError("is damaged: it must hold one JSON object")
    version = content.get("format_version")
    if type(version) is not int or version != FORMAT_VERSION:
        raise ArchitectureError(
            f"has format version {version!r}, this Espalier reads {FORMAT_VERSION}: export the "
            "architecture anew, or use the Espalier that wrote it"
        )
    _check_keys(content, _REQUIRED, _OPTIONAL, "the file")
    if content["checksum"] != checksum(content):
        raise ArchitectureError(
            "was damaged or edited: its checksum does not match. To change an architecture, "
            "change what copycat.read returns and copycat.save it"
        )
    return content


def _from_content(content: Mapping[str, Any]) -> Architecture:
    cost, probe = _mapping(content, "cost"), _mapping(content, "probe")
    _check_keys(cost, ("flops", "params", "convention"), _MAY_LACK, "cost")
    _check_keys(probe, ("seed", "output"), (), "probe")
    for name, value, known in (
        ("dtype", content["dtype"], tuple(FRACTIONS)),
        ("probe.seed", probe["seed"], (PROBE_SEED,)),
        ("cost.convention", cost["convention"], (FLOPS_CONVENTION,)),
    ):
        _require(value in known, name, f"one of {known}", value)
    return Architecture(
        builder=_builder(content),
        profile=WidthProfile.from_mapping(content),
        input_shape=from_content(content["input_shape"]),
        classes=_classes(content["classes"]),
        cost=_cost(cost),
        provenance=dict(_mapping(content, "provenance")),
        probe=_numbers(probe["output"], "probe.output"),
        dtype=content["dtype"],
        weights_sha256=_weights_sha256(content),
        inexact=_inexact(content),
    )


def _builder(content: Mapping[str, Any]) -> Builder | None:
    if content["builder"] is None:
        return None
    builder = _mapping(content, "builder")
    _check_keys(builder, ("target", "arguments"), (), "builder")
    return Builder(_target(builder["target"]), dict(_mapping(builder, "arguments")))


def _inexact(content: Mapping[str, Any]) -> dict[str, str]:
    if "inexact" not in content:
        return {}
    reasons = _mapping(content, "inexact")
    for name, reason in reasons.items():
        known = name in content["widths"]
        _require(known, "inexact", "reasons by names of groups that have widths", name)
        _text(reason, f"inexact.{name}")
    return dict(reasons)


def _cost(content: Mapping[str, Any]) -> Cost:
    known = {name: _count(content[name], f"cost.{name}") for name in _MAY_LACK if name in content}
    return Cost(
        _count(content["flops"], "cost.flops"),
        _count(content["params"], "cost.params"),
        weight_bytes=known.get("weight_bytes"),
        peak_activation_bytes=known.get("peak_activation_bytes"),
        uncounted=known.get("uncounted"),
    )


def _further(cost: Cost) -> list[tuple[str, int | None]]:
    return [(name, getattr(cost, name)) for name in _MAY_LACK]


def _require(condition: bool, name: str, expected: str, value: object) -> None:
    if not condition:
        shown = repr(value)
        shown = shown if len(shown) <= 80 else f"{shown[:77]}…"
        raise ArchitectureError(f"is damaged: {name} must be {expected}, got {shown}")


def _check_keys(
    content: Mapping[str, Any],
    required: tuple[str, ...],
    optional: tuple[str, ...],
    name: str,
) -> None:
    if missing := [key for key in required if key not in content]:
        raise ArchitectureError(f"is damaged: {name} lacks {', '.join(missing)}")
    if unknown := [key for key in content if key not in (*required, *optional)]:
        raise ArchitectureError(f"is damaged: {name} must not hold {', '.join(unknown)}")


def _mapping(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    _require(isinstance(content[name], dict), name, "a JSON object", content[name])
    mapping: Mapping[str, Any] = content[name]
    return mapping


def _text(value: object, name: str) -> str:
    _require(isinstance(value, str), name, "a text", value)
    return str(value)


def _target(value: object) -> str:
    """Dotted names only: no paths, nothing relative."""
    module, _, attribute = _text(value, "builder.target").partition(":")
    parts = (*module.split("."), *attribute.split("."))
    is_named = all(part.isidentifier() for part in parts)
    _require(is_named, "builder.target", "module:callable, in dotted names", value)
    return f"{module}:{attribute}"


def _count(value: object, name: str) -> int:
    is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    _require(is_count, name, "a whole number", value)
    assert isinstance(value, int)
    return value


def _classes(value: object) -> tuple[str, ...]:
    _require(isinstance(value, list), "classes", "a list of names", value)
    assert isinstance(value, list)
    return tuple(_text(name, "classes") for name in value)


def _weights_sha256(content: Mapping[str, Any]) -> str:
    weights = _mapping(content, "weights")
    _check_keys(weights, ("sha256",), (), "weights")
    digest = _text(weights["sha256"], "weights.sha256")
    is_digest = re.fullmatch("[0-9a-f]{64}", digest) is not None
    _require(is_digest, "weights.sha256", "64 hexadecimal digits", digest)
    return digest


def _numbers(value: object, name: str) -> tuple[float, ...]:
    _require(isinstance(value, list), name, "a list of numbers", value)
    assert isinstance(value, list)
    for number in value:
        is_number = isinstance(number, int | float) and not isinstance(number, bool)
        _require(is_number and math.isfinite(number), name, "a list of numbers", number)
    return tuple(float(number) for number in value)
