"""An architecture as a folder that anyone can open: architecture.json and weights.safetensors.

No pickle is written or read, and no code runs but the builder's, from an allow-list.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from copycat.build import shaped, without_removed
from copycat.builder import Builder
from copycat.width_profile import WidthProfile
from pruning.cost import Cost, evaluating, measure_cost
from pruning.errors import ArchitectureError, EspalierError
from pruning.tracing import trace

FORMAT_VERSION = 1
FLOPS_CONVENTION = "fvcore, eval mode, batch 1; one fused multiply-add is one FLOP"
TRUSTED_BUILDERS = ("search.models", "torchvision.models")
"""Modules whose callables may build a network without the caller naming them."""

_JSON, _WEIGHTS = "architecture.json", "weights.safetensors"
_MOST_INPUT_VALUES = 2**28
"""A damaged file must not take all memory: 2²⁸ values are 1 GiB, an image of 9459×9459×3."""

_PROBE_SEED = 0
_PROBE_TOLERANCE = 1e-3
"""Relative: convolution algorithms differ between processors, so a hash would not travel."""


@dataclass(frozen=True)
class Architecture:
    """Everything that rebuilds one network, except its weights.

    builder: makes the base network.
    profile: width per group that differs from it.
    input_shape: C, H, W of the images.
    classes: names of the classes, in the order of the outputs.
    cost: of the network at `profile`, certified by fvcore when it was saved.
    provenance: where it came from: search, origin, seeds, accuracies …
    probe: outputs on a fixed random input, shape (classes,); what `verify` compares.
    """

    builder: Builder
    profile: WidthProfile
    input_shape: tuple[int, int, int]
    classes: tuple[str, ...]
    cost: Cost
    provenance: Mapping[str, Any] = field(default_factory=dict)
    probe: tuple[float, ...] = ()

    @property
    def example_input(self) -> Tensor:
        """Zeros, 1×C×H×W."""
        return torch.zeros(1, *self.input_shape)


def save(path: str | Path, architecture: Architecture, model: nn.Module) -> Architecture:
    """Writes the folder `path`, whole or not at all, and returns what was stored.

    model: the trained network, of stock layers (see pruning.fold). Its fvcore count must equal
    `architecture.cost`: ArchitectureError otherwise. An architecture at `path` is replaced;
    ArchitectureError if something else is there.
    """
    path = Path(path)
    _check_replaceable(path)
    measured = measure_cost(model, architecture.example_input.to(_device_of(model)))
    if (measured.flops, measured.params) != (architecture.cost.flops, architecture.cost.params):
        raise ArchitectureError(
            f"{path.name}: fvcore counts {measured.flops:,} FLOPs and {measured.params:,} "
            f"parameters, the closed form {architecture.cost.flops:,} and "
            f"{architecture.cost.params:,}: nothing was stored"
        )
    stored = dataclasses.replace(architecture, probe=_probe(model, architecture))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        save_model(model, str(temporary / _WEIGHTS))
        (temporary / _JSON).write_text(_to_json(stored))
        temporary.chmod(0o755)
        if path.exists():
            shutil.rmtree(path)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return stored


def read(path: str | Path) -> Architecture:
    """What architecture.json says; ArchitectureError if it is missing or damaged."""
    file = Path(path) / _JSON
    try:
        content = json.loads(file.read_text())
    except FileNotFoundError:
        raise ArchitectureError(f"{path} holds no {_JSON}: give an exported folder") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ArchitectureError(f"{file} is not readable: {error}") from error
    if not isinstance(content, dict) or content.get("format_version") != FORMAT_VERSION:
        found = content.get("format_version") if isinstance(content, dict) else None
        raise ArchitectureError(
            f"{file} has format version {found!r}; this version of Espalier reads {FORMAT_VERSION}"
        )
    try:
        return _from_json(content)
    except (KeyError, TypeError, ValueError, OverflowError, EspalierError) as error:
        raise ArchitectureError(f"{file} is damaged: {type(error).__name__}: {error}") from error


def load(path: str | Path, *, trust: Sequence[str] = ()) -> nn.Module:
    """The trained network, in eval mode on the CPU.

    trust: further modules whose builders may run, beside TRUSTED_BUILDERS.
    Raises ArchitectureError for a builder that is not trusted, and for files that are
    missing, damaged or do not fit each other.
    """
    architecture = read(path)
    _check_trust(path, architecture.builder, trust)
    profile, example_input = architecture.profile, architecture.example_input
    base = without_removed(architecture.builder(), profile, example_input)
    graph = trace(base, example_input)
    num_params = graph.cost(profile.widths).params
    if num_params != architecture.cost.params:  # found out before the memory is taken
        raise ArchitectureError(
            f"{_JSON} in {path} says {architecture.cost.params:,} parameters, "
            f"its widths make {num_params:,}: edited or damaged"
        )
    model = shaped(base, profile, graph)
    try:
        load_model(model, str(Path(path) / _WEIGHTS))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ArchitectureError(
            f"{_WEIGHTS} in {path} does not fit its {_JSON}: {str(error).splitlines()[0]}"
        ) from error
    return model.eval()


def verify(path: str | Path, *, trust: Sequence[str] = ()) -> Architecture:
    """Loads `path` and checks it: fvcore's count equals the stored cost, outputs the probe.

    Returns what was stored; raises ArchitectureError, saying what differs.
    """
    architecture, model = read(path), load(path, trust=trust)
    measured = measure_cost(model, architecture.example_input)
    for quantity in ("flops", "params"):
        stored, found = getattr(architecture.cost, quantity), getattr(measured, quantity)
        if stored != found:
            raise ArchitectureError(f"{path} says {stored:,} {quantity}, fvcore counts {found:,}")
    stored_probe = torch.tensor(architecture.probe)
    found_probe = torch.tensor(_probe(model, architecture))
    if not _agree(stored_probe, found_probe):
        raise ArchitectureError(f"{path} does not reproduce its probe output: damaged weights?")
    return architecture


def _check_trust(path: str | Path, builder: Builder, trust: Sequence[str]) -> None:
    """Where the callable is named, then where it was defined: a trusted module imports others'.

    Of TRUSTED_BUILDERS only what says that it returns a network may run: they hold helpers too.
    """

    def check(module: str) -> None:
        if not _is_within(module, (*TRUSTED_BUILDERS, *trust)):
            raise ArchitectureError(
                f"{path} is built by {builder.target!r} of {module!r}, which is not trusted: "
                f"pass trust=[{module!r}] if it is yours"
            )

    check(builder.module)
    home = str(getattr(builder.function(), "__module__", None))
    check(home)
    if not _is_within(home, trust) and not _returns_network(builder.function()):
        raise ArchitectureError(f"{path} is built by {builder.target!r}, which makes no networks")


def _is_within(module: str, packages: Sequence[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def _returns_network(function: Callable[..., object]) -> bool:
    try:
        returned = get_type_hints(function).get("return")
    except (NameError, TypeError):  # it says something that nobody can read
        return False
    return isinstance(returned, type) and issubclass(returned, nn.Module)


def _check_replaceable(path: Path) -> None:
    """Only an architecture or an empty folder is replaced: a path may be mistyped."""
    if path.exists() and not (path / _JSON).is_file() and not _is_empty_folder(path):
        raise ArchitectureError(f"{path} exists and is no architecture: choose another folder")


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _agree(stored: Tensor, found: Tensor) -> bool:
    if stored.shape != found.shape or not stored.isfinite().all():
        return False
    scale = float(stored.abs().max().clamp(min=1e-6))
    return torch.allclose(stored, found, rtol=0, atol=_PROBE_TOLERANCE * scale)


def _probe(model: nn.Module, architecture: Architecture) -> tuple[float, ...]:
    generator = torch.Generator().manual_seed(_PROBE_SEED)
    images = torch.randn(1, *architecture.input_shape, generator=generator)
    with evaluating(model), torch.no_grad():
        output = model(images.to(_device_of(model)))
    return tuple(output.flatten().float().cpu().tolist())


def _to_json(architecture: Architecture) -> str:
    content = {
        "format_version": FORMAT_VERSION,
        "builder": dataclasses.asdict(architecture.builder),
        **architecture.profile.to_mapping(),
        "input_shape": architecture.input_shape,
        "classes": architecture.classes,
        "cost": {
            "flops": architecture.cost.flops,
            "params": architecture.cost.params,
            "convention": FLOPS_CONVENTION,
        },
        "provenance": dict(architecture.provenance),
        "probe": {"seed": _PROBE_SEED, "output": architecture.probe},
    }
    return json.dumps(content, indent=2) + "\n"


def _from_json(content: Mapping[str, Any]) -> Architecture:
    channels, height, width = (int(size) for size in content["input_shape"])
    if min(channels, height, width) < 1 or channels * height * width > _MOST_INPUT_VALUES:
        raise ValueError(f"input_shape is no image's: {content['input_shape']}")
    return Architecture(
        builder=Builder(str(content["builder"]["target"]), dict(content["builder"]["arguments"])),
        profile=WidthProfile.from_mapping(content),
        input_shape=(channels, height, width),
        classes=tuple(str(name) for name in content["classes"]),
        cost=Cost(int(content["cost"]["flops"]), int(content["cost"]["params"])),
        provenance=dict(content["provenance"]),
        probe=tuple(float(value) for value in content["probe"]["output"]),
    )
