"""A small pruned network with its architecture, and ways to tamper with what was stored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from gating import random_plan
from networks import randomised, small
from safetensors.torch import save_file
from torch import Tensor, nn

from copycat import Architecture, Builder, WidthProfile, save
from pruning import remove_channels, trace

__all__ = ["BUILDER", "JSON", "TRUST", "WEIGHTS", "edit", "exchange_weights", "pruned_network"]
__all__ += ["save", "seal", "state_hash"]

TRUST = ("networks",)
JSON, WEIGHTS = "architecture.json", "weights.safetensors"
BUILDER = Builder("networks:small", {"width": 7, "classes": 5})


def pruned_network(dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Architecture]:
    """A network that was 'trained' and pruned, and what is to be stored of it."""
    base = randomised(small(width=7, classes=5), seed=1)
    graph = trace(base, torch.zeros(1, 3, 8, 8))
    plan = random_plan(graph, seed=1)
    architecture = Architecture(
        builder=BUILDER,
        profile=WidthProfile(plan.widths),
        input_shape=(3, 8, 8),
        classes=("ant", "bee", "cat", "dog", "élan"),
        cost=graph.cost(plan.widths),
        provenance={"origin": "fine-tuned", "seeds": [1, 2], "accuracy": {"validation": 0.5}},
    )
    return remove_channels(base, graph, plan).to(dtype), architecture


def state_hash(model: nn.Module) -> str:
    """Over every bit, and the dtypes, of the weights and buffers."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(f"{name} {value.dtype}".encode())
        digest.update(value.flatten().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def seal(content: dict[str, Any]) -> None:
    """Makes the checksum right again: as the schema says, on its own."""
    rest = {key: value for key, value in content.items() if key not in ("checksum", "$schema")}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    content["checksum"] = hashlib.sha256(text.encode()).hexdigest()


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes architecture.json as one would who knows about its checksum."""
    content = json.loads((path / JSON).read_text())
    change(content)
    seal(content)
    (path / JSON).write_text(json.dumps(content))


def exchange_weights(path: Path, tensors: dict[str, Tensor]) -> None:
    """Other weights, under their right checksum."""
    save_file(tensors, path / WEIGHTS)
    sha256 = hashlib.sha256((path / WEIGHTS).read_bytes()).hexdigest()
    edit(path, lambda content: content.update(weights={"sha256": sha256}))
