"""Trained weights to start from: found, read without running code, and fitted to a network.

Four spellings are understood:
    model.safetensors, model.pt   a file: safetensors, or a state dict that torch.save wrote
    torchvision:IMAGENET1K_V2     torchvision's own, for one of its networks
    timm:a1_in1k                  timm's own, by their tag, for one of its networks
    builder                       those of the network that its builder returns
"""

from __future__ import annotations

import hashlib
import importlib
import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from copycat.builder import Builder
from pruning.errors import WeightsError, first_line
from pruning.lazy_imports import lazy_modules
from search.config.search_config import BUILDER, TIMM, TORCHVISION

if TYPE_CHECKING:
    import timm
    from torchvision import models as torchvision_models
else:
    torchvision_models, timm = lazy_modules("torchvision.models", "timm")

_KEYS = ("state_dict", "model_state_dict", "model")
"""Under which training scripts store a state dict, beside others such as the optimizer's."""

_PREFIXES = ("module.", "_orig_mod.")
"""Of DataParallel and torch.compile."""

_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
"""Heads of torchvision's networks that only train with them; the networks here have none."""

_PICKLES = (b"PK", b"\x80")
"""How files of torch.save begin: since torch 1.6, and before."""

_NAMED = re.compile(r"GLOBAL (\S+)")
"""What torch says of classes and functions that a file names."""

_DAMAGE = (EOFError, ValueError, KeyError, IndexError, AttributeError)
"""What torch raises on some damaged files, beside its own errors."""

_OF_HUB = ("model.safetensors", "pytorch_model.bin")
"""What timm looks for in a repository of Hugging Face's hub that names no file."""

_MOST_NAMES = 3


@dataclass(frozen=True)
class TrainedWeights:
    """All parameters and buffers of a network, by name, on the CPU.

    digest: SHA-256 of what was read, whatever file it was in.
    new_head: names of parameters that were drawn afresh, for another number of classes.
    """

    state: Mapping[str, Tensor]
    digest: str
    new_head: tuple[str, ...] = ()

    @property
    def num_bytes(self) -> int:
        """What they take in memory, or in a message to another process."""
        return sum(tensor.nbytes for tensor in self.state.values())

    def fill(self, model: nn.Module) -> nn.Module:
        """`model`, which is the network that they were fitted to, with these weights."""
        model.load_state_dict(self.state)
        return model


def read(
    source: str, builder: Builder, num_outputs: int, *, seed: int = 0, download: bool = False
) -> TrainedWeights:
    """The weights called `source`, fitted to the network of `builder`.

    num_outputs: of the network's last layer; where that of the weights has another number, it is
        drawn from `seed`.
    download: whether torchvision and timm may fetch what is in no cache of this machine.
    Raises WeightsError for what is not there, holds anything but tensors or does not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = builder()
    state = model.state_dict() if source == BUILDER else _stored(source, builder, download=download)
    for name, tensor in state.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise WeightsError(
                f"the weights {source} are no numbers: {name} has NaN or infinity in it"
            )
    return _fitted(source, model, state, num_outputs)


def _stored(source: str, builder: Builder, *, download: bool) -> dict[str, Tensor]:
    if source.startswith(TORCHVISION):
        return _of_torchvision(source, builder, download=download)
    if source.startswith(TIMM):
        return _of_timm(source, builder, download=download)
    return _plain(_of_file(source), source)


def _of_file(source: str) -> Any:
    """What a file holds; nothing in it is run."""
    path = Path(source)
    try:
        with path.open("rb") as file:
            is_pickle = file.read(2).startswith(_PICKLES)
        if not is_pickle:
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise WeightsError(f"the weights {source} cannot be read: {error.strerror}") from error
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, *_DAMAGE) as error:
        if (named := _NAMED.search(str(error))) is not None:
            raise WeightsError(
                f"the weights {source} hold more than tensors ({named[1]}), and code from a file "
                "is not run: store the state dict alone, torch.save(model.state_dict(), FILE)"
            ) from error
        is_unpickled = not isinstance(error, pickle.UnpicklingError)
        reason = first_line(error) if is_unpickled else "it is damaged"
        raise WeightsError(
            f"{source} is no file of weights (safetensors, or a state dict of torch.save): {reason}"
        ) from error


def _plain(content: Any, source: str) -> dict[str, Tensor]:
    """The state dict in a file: itself, or under a key that says what it is."""
    for key in _KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items()
    ):
        held = (
            sorted(map(str, content)) if isinstance(content, Mapping) else [type(content).__name__]
        )
        raise WeightsError(
            f"the weights {source} must be a state dict, or one under {', '.join(_KEYS)}, got "
            f"{_first(held)}"
        )
    return dict(content)


def _of_torchvision(source: str, builder: Builder, *, download: bool) -> dict[str, Tensor]:
    module, _, network = builder.target.partition(":")
    if module != "torchvision.models":
        raise WeightsError(
            f"weights {source} are for networks torchvision:NAME, got {builder.target}"
        )
    known = torchvision_models.get_model_weights(network)
    name = source.removeprefix(TORCHVISION)
    if name not in known.__members__:
        raise WeightsError(
            f"torchvision has no weights {name} of {network}: there are "
            f"{', '.join(known.__members__) or 'none'}"
        )
    url = known[name].url
    file = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    if not file.exists() and not download:
        raise WeightsError(
            f"the weights {source} are not in torch's cache ({file}): --download fetches {url}"
        )
    try:
        state = known[name].get_state_dict(
            progress=False, check_hash=True, map_location="cpu", weights_only=True
        )
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise WeightsError(f"the weights {url} cannot be read: {first_line(error)}") from error
    return {key: value for key, value in state.items() if not key.startswith(_AUXILIARY)}


def _of_timm(source: str, builder: Builder, *, download: bool) -> dict[str, Tensor]:
    """By timm itself, which also fits them to another number of input channels."""
    module, _, network = builder.target.partition(":")
    if module != "timm.models":
        raise WeightsError(f"weights {source} are for networks timm:NAME, got {builder.target}")
    known = {
        name.partition(".")[2]: config
        for name, config in timm.models.get_arch_pretrained_cfgs(network).items()
        if config.has_weights
    }
    tag = source.removeprefix(TIMM).removeprefix(f"{network}.")
    if tag not in known:
        raise WeightsError(
            f"timm has no weights {tag} of {network}: there are {', '.join(known) or 'none'}"
        )
    origin = known[tag].hf_hub_id or known[tag].url
    if not (download or _has_timm_cached(known[tag])):
        raise WeightsError(
            f"the weights {source} are in no cache of this machine: --download fetches {origin}"
        )
    unfitted = ("num_classes", "pretrained")
    arguments = {name: v for name, v in builder.arguments.items() if name not in unfitted}
    try:
        with torch.random.fork_rng(devices=[]):
            model = timm.create_model(
                network, pretrained=True, pretrained_cfg=known[tag], **arguments
            )
    except Exception as error:  # of timm, its hub and the network there are many
        raise WeightsError(f"the weights {origin} cannot be read: {first_line(error)}") from error
    return dict(model.state_dict())


def _has_timm_cached(config: Any) -> bool:
    """Whether timm finds these weights without a network: in a file, or in one of its caches."""
    if config.file:
        return True
    if not config.hf_hub_id:
        file = config.url.rpartition("/")[2]
        return Path(torch.hub.get_dir(), "checkpoints", file).exists()
    try:
        cached = importlib.import_module("huggingface_hub").try_to_load_from_cache
    except ImportError:
        return False
    repository, _, revision = config.hf_hub_id.partition("@")
    names = (config.hf_hub_filename,) if config.hf_hub_filename else _OF_HUB
    return any(
        isinstance(cached(repository, name, revision=revision or None), str) for name in names
    )


def _fitted(
    source: str, model: nn.Module, state: Mapping[str, Tensor], num_outputs: int
) -> TrainedWeights:
    expected = model.state_dict(keep_vars=True)
    digest = _digest(state)
    state = {_without_prefixes(name, expected): tensor for name, tensor in state.items()}
    there = {id(expected[name]) for name in state if name in expected}
    missing = [
        name
        for name, tensor in expected.items()
        if name not in state
        and id(tensor) not in there
        and not name.endswith("num_batches_tracked")
    ]
    unexpected = [name for name in state if name not in expected]
    other = [
        name for name in state if name in expected and state[name].shape != expected[name].shape
    ]
    head = [name for name in other if _is_of_head(state[name], expected[name], num_outputs)]
    if missing or unexpected or head != other:
        shapes = [f"{n} ({_size(state[n])} for {_size(expected[n])})" for n in other]
        raise WeightsError(
            f"the weights {source} are of another network: "
            + "; ".join(
                f"{len(names)} {what}: {_first(names)}"
                for what, names in (
                    ("missing", missing),
                    ("unexpected", unexpected),
                    ("of another shape", shapes),
                )
                if names
            )
        )
    with torch.no_grad():
        for name, tensor in state.items():
            if name not in head:
                expected[name].copy_(tensor)
    whole = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    return TrainedWeights(whole, digest, tuple(head))


def _without_prefixes(name: str, expected: Mapping[str, object]) -> str:
    """The name in the network itself of a tensor of a wrapped one."""
    while name not in expected and name.startswith(_PREFIXES):
        name = name.partition(".")[2]
    return name if name in expected else name.replace(".module.", ".").replace("._orig_mod.", ".")


def _is_of_head(stored: Tensor, expected: Tensor, num_outputs: int) -> bool:
    """Whether the two differ in the number of outputs alone, which is the wanted one here."""
    return (
        stored.dim() == expected.dim() > 0
        and len(expected) == num_outputs
        and stored.shape[1:] == expected.shape[1:]
    )


def _digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and values."""
    result = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        result.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        result.update(tensor.flatten().view(torch.uint8).numpy().data)
    return result.hexdigest()


def _first(names: Sequence[str]) -> str:
    """The first few of these names."""
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more


def _size(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "a number"
