"""An architecture as a folder that anyone can open: architecture.json and weights.safetensors.

No pickle is written or read, and no code runs but the builder's, from an allow-list.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, load_model, save_model
from torch import Tensor, nn

from copycat.architecture.document import PROBE_SEED, Architecture, from_json, to_json
from copycat.architecture.trust import check_no_download, check_trust
from copycat.architecture.whole_folder import folder_written_whole, opened_folder, repair
from copycat.build import graph_for, shaped, without_removed
from copycat.input_shape import FRACTIONS, input_shape_of, random_of, shape_text
from copycat.width_profile import WidthProfile
from pruning.cost import Cost, ExampleInput, call_arguments, evaluating
from pruning.errors import ArchitectureError, EspalierError, first_line
from pruning.fvcore_count import measure_cost
from pruning.graph.channel_graph import ChannelGraph
from pruning.networks.copies import copied, moved
from pruning.networks.nested_tensors import returned_tensors
from pruning.networks.wrappers import unwrapped
from pruning.selection import KeepPlan
from pruning.tracing import traced_cost

_JSON, _WEIGHTS = "architecture.json", "weights.safetensors"
_MOST_JSON_BYTES = 2**26

_PROBE_TOLERANCE = 1e-3
"""Relative: convolution algorithms differ between processors, so a hash would not travel.
In coarser types it is eight units of the last place."""

_MOST_OUTPUTS = 2**15
"""The outputs of more classes than anyone has are all in the probe …"""

_SOME_OUTPUTS = 2**10
"""… and of maps and images this many, at equal distances."""


def save(
    path: str | Path,
    architecture: Architecture | WidthProfile | KeepPlan,
    model: nn.Module,
    *,
    example_input: ExampleInput | None = None,
) -> Architecture:
    """Writes the folder `path`, whole or not at all, and returns what was stored.

    architecture: of a network of one's own, which no builder makes, its profile, or the plan by
        which it was pruned, is enough; `load` then asks for the network before it was pruned.
    model: the trained network, of stock layers (see pruning.fold), in any of FRACTIONS. Its fvcore
        count must equal `architecture.cost`, its outputs must be finite, and as many as the classes
        if it has any: ArchitectureError otherwise. Bytes, of activations if they are known, are
        counted again.
    example_input: as for `pruning.trace`; needed beside a profile or plan, unused otherwise. By it
        the network is counted and probed now, and traced, counted and compared when it is loaded,
        where nobody has to know any more what it reads.

    An architecture at `path` is replaced; ArchitectureError if something else is there or the
    disk refuses. Whoever is killed meanwhile leaves the old one or the new one: what is left
    beside it goes when `path` is next saved or read.
    """
    path, model = Path(path).resolve(), unwrapped(model)
    repair(path)
    _check_replaceable(path)
    if not isinstance(architecture, Architecture):
        architecture = _of_own(architecture, model, example_input)
    if architecture.builder is not None:
        check_no_download(path.name, architecture.builder)
    architecture = dataclasses.replace(architecture, dtype=_dtype_name(model))
    measured = measure_cost(model, moved(architecture.example_input, _device_of(model)))
    if measured != architecture.cost:
        raise ArchitectureError(
            f"{path.name}: fvcore counts {measured.flops:,} FLOPs and {measured.params:,} "
            f"parameters, the closed form {architecture.cost.flops:,} and "
            f"{architecture.cost.params:,}: nothing was stored"
        )
    cost = _with_bytes(architecture.cost, measured, model, architecture.example_input)
    probed = copied(model)
    outputs = _outputs(probed, architecture)
    _check_classes(path, architecture, outputs)
    architecture = dataclasses.replace(architecture, cost=cost, probe=_probe(outputs))
    _check_probe_is_storable(path, architecture, probed)
    try:
        return _write(path, architecture, model)
    except OSError as error:
        raise ArchitectureError(f"cannot write {path}: {error}") from error


def read(path: str | Path) -> Architecture:
    """What architecture.json says; ArchitectureError if it is missing or damaged."""
    file = _plain_file(opened_folder(path), _JSON)
    try:
        if file.stat().st_size > _MOST_JSON_BYTES:
            raise ArchitectureError(f"{file} is damaged: it is over {_MOST_JSON_BYTES:,} bytes")
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ArchitectureError(f"{file} is not readable: {error}") from error
    try:
        return from_json(text)
    except ArchitectureError as error:
        raise ArchitectureError(f"{file} {error}") from error


def load(
    path: str | Path,
    *,
    model: nn.Module | None = None,
    trust: Sequence[str] = (),
    graph: ChannelGraph | None = None,
) -> nn.Module:
    """The trained network, in eval mode on the CPU, in the dtypes in which it was saved.

    Its cost and its probe output are compared with what the file says.
    model: the network before it was pruned, with any weights, in the place of what the builder
        makes; needed for a network of one's own, which has no builder. It is left as it is.
    trust: further modules whose builders may run, beside TRUSTED_BUILDERS.
    graph: of the network before it was pruned, where that is known: it saves a trace, unless
        structures are removed.
    Raises ArchitectureError for a builder that is not trusted, gone or fails, and for files
    that are missing, damaged or do not fit each other.
    """
    architecture, folder = read(path), opened_folder(path)
    try:
        if model is None:
            base = check_trust(path, architecture.builder, trust)()
        else:
            base = copied(unwrapped(model), torch.device("cpu"))
        model = _rebuilt(path, architecture, base, graph)
        _fill(model, folder, architecture)
    except ArchitectureError:
        raise
    except EspalierError as error:
        raise ArchitectureError(f"{path} cannot be rebuilt: {error}") from error
    model.eval()
    if not _gives_probe(copied(model), architecture):
        raise ArchitectureError(
            f"{path} does not reproduce its probe output: its weights are damaged, or the network "
            "keeps what it has learned in more than parameters and buffers, which alone are stored"
        )
    return model


def verify(
    path: str | Path,
    *,
    model: nn.Module | None = None,
    trust: Sequence[str] = (),
    graph: ChannelGraph | None = None,
) -> Architecture:
    """Loads `path`, which compares cost and probe, and has fvcore count the cost once more.

    model, trust, graph: as for `load`.
    Returns what was stored; raises ArchitectureError, saying what differs.
    """
    architecture, model = read(path), load(path, model=model, trust=trust, graph=graph)
    measured = measure_cost(model, architecture.example_input)
    _check_cost(path, architecture.cost, measured)
    counted = _with_bytes(architecture.cost, measured, model, architecture.example_input)
    _check_bytes(path, architecture.cost, counted)
    return architecture


def _of_own(
    shape: WidthProfile | KeepPlan, model: nn.Module, example_input: ExampleInput | None
) -> Architecture:
    """The architecture of a network that no builder makes."""
    if example_input is None:
        raise ArchitectureError(
            "a plan or profile is saved with example_input=…, by which the network is traced when "
            "it is loaded"
        )
    profile = WidthProfile(shape.widths) if isinstance(shape, KeepPlan) else shape
    cost = measure_cost(model, example_input)
    return Architecture(None, profile, input_shape_of(example_input), (), cost)


def _write(path: Path, architecture: Architecture, model: nn.Module) -> Architecture:
    with folder_written_whole(path) as folder:
        weights = folder / _WEIGHTS
        save_model(model, str(weights))
        stored = dataclasses.replace(architecture, weights_sha256=_sha256(weights))
        (folder / _JSON).write_text(to_json(stored), encoding="utf-8")
        weights.chmod(0o644)
    return stored


def _plain_file(folder: Path, name: str) -> Path:
    """No link, which may lead out of the folder, and no pipe, which may never end."""
    file = folder / name
    if file.is_symlink() or (file.exists() and not file.is_file()):
        raise ArchitectureError(f"{file} must be a plain file, no link: copy the file itself")
    if not file.exists():
        raise ArchitectureError(f"{folder} holds no {name}: give an exported folder")
    return file


def _rebuilt(
    path: str | Path, architecture: Architecture, base: nn.Module, graph: ChannelGraph | None
) -> nn.Module:
    """`base` with weights of the right shapes, at the cost that the file says."""
    profile, example_input = architecture.profile, architecture.example_input
    if _dtype_of(base) != FRACTIONS[architecture.dtype]:
        base = base.to(FRACTIONS[architecture.dtype])
    if profile.removed or graph is None or not profile.fits(graph):
        base = without_removed(base, profile, example_input)
        graph = graph_for(base, profile, example_input)
    priced = graph.cost(profile.widths)
    if priced.params != architecture.cost.params:  # found out before the memory is taken
        _check_cost(path, architecture.cost, priced)
    model = shaped(base, profile, graph)
    if priced.flops != architecture.cost.flops:  # fvcore is right where the two differ
        _check_cost(path, architecture.cost, measure_cost(model, example_input))
    return model


def _check_cost(path: str | Path, stored: Cost, actual: Cost) -> None:
    if stored != actual:
        raise ArchitectureError(
            f"{_JSON} in {path} says {stored.flops:,} FLOPs and {stored.params:,} parameters, its "
            f"widths make {actual.flops:,} and {actual.params:,}: edited or damaged"
        )


def _with_bytes(cost: Cost, measured: Cost, model: nn.Module, example_input: ExampleInput) -> Cost:
    """The cost with what else `model` takes: bytes, and what a trace tells, if that was known."""
    cost = dataclasses.replace(cost, weight_bytes=measured.weight_bytes)
    if cost.peak_activation_bytes is None and cost.uncounted is None:
        return cost
    traced = traced_cost(model, moved(example_input, _device_of(model)))
    known = {name: getattr(cost, name) for name in ("peak_activation_bytes", "uncounted")}
    return dataclasses.replace(
        cost, **{n: getattr(traced, n) for n, value in known.items() if value is not None}
    )


def _check_bytes(path: str | Path, stored: Cost, actual: Cost) -> None:
    for name in ("weight_bytes", "peak_activation_bytes", "uncounted"):
        says, value = getattr(stored, name), getattr(actual, name)
        if says not in (None, value):
            raise ArchitectureError(
                f"{_JSON} in {path} says {name} = {says:,}, it is {value:,}: edited or damaged"
            )


def _fill(model: nn.Module, folder: Path, architecture: Architecture) -> None:
    """Copies the weights into `model`, whose tensors take on the file's dtypes."""
    file = _plain_file(folder, _WEIGHTS)
    try:
        if architecture.weights_sha256 != _sha256(file):
            raise ArchitectureError(
                f"{_WEIGHTS} in {folder} was damaged or exchanged: its checksum is not the one "
                f"in {_JSON}"
            )
        _match_dtypes(model, load_file(file))
        load_model(model, str(file))
    except (OSError, RuntimeError, SafetensorError, ValueError) as error:
        raise ArchitectureError(
            f"{_WEIGHTS} in {folder} does not fit its {_JSON}: {' '.join(str(error).split())}"
        ) from error


def _match_dtypes(model: nn.Module, stored: dict[str, Tensor]) -> None:
    """ValueError for a tensor that has another shape in the file, or is no longer a fraction."""
    tensors: dict[str, Tensor] = dict(model.named_buffers(remove_duplicate=False))
    tensors.update(model.named_parameters(remove_duplicate=False))
    for name, tensor in stored.items():
        if name not in tensors:  # load_model lists them
            continue
        expected = tensors[name]
        if tensor.shape != expected.shape:
            shapes = ("×".join(map(str, t.shape)) or "a scalar" for t in (tensor, expected))
            raise ValueError("{} is {}, expected {}".format(name, *shapes))
        if tensor.dtype != expected.dtype:
            if not (tensor.is_floating_point() and expected.is_floating_point()):
                raise ValueError(f"{name} is {tensor.dtype}, expected {expected.dtype}")
            expected.data = expected.data.to(tensor.dtype)


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _check_replaceable(path: Path) -> None:
    """Only an architecture or an empty folder is replaced: a path may be mistyped."""
    if path.exists() and not (path / _JSON).is_file() and not _is_empty_folder(path):
        raise ArchitectureError(f"{path} exists and is no architecture: choose another folder")


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _check_classes(path: Path, architecture: Architecture, outputs: Sequence[Tensor]) -> None:
    """Where a network returns one tensor, its second axis is that of the classes."""
    if not architecture.classes or len(outputs) > 1:
        return
    num_outputs = outputs[0].shape[1] if outputs[0].dim() > 1 else outputs[0].numel()
    if num_outputs != len(architecture.classes):
        raise ArchitectureError(
            f"{path.name}: the network has {num_outputs} outputs and "
            f"{len(architecture.classes)} names of classes"
        )


def _check_probe_is_storable(path: Path, architecture: Architecture, model: nn.Module) -> None:
    """What is random, or leaves something behind that the next run reads, cannot be verified."""
    if not torch.tensor(architecture.probe).isfinite().all():
        raise ArchitectureError(f"{path.name}: the network's outputs are not finite numbers")
    if not _gives_probe(model, architecture):
        raise ArchitectureError(
            f"{path.name}: in eval mode the network's outputs differ from run to run, so that no "
            "copy could be told from a damaged one: make its forward deterministic"
        )


def _dtype_name(model: nn.Module) -> str:
    dtype = _dtype_of(model)
    for name, known in FRACTIONS.items():
        if known == dtype:
            return name
    raise ArchitectureError(f"weights must be of {', '.join(FRACTIONS)}, got {dtype}")


def _dtype_of(model: nn.Module) -> torch.dtype:
    """Of the first parameter that is a fraction: images have to be of it."""
    dtypes = (p.dtype for p in model.parameters() if p.is_floating_point())
    return next(dtypes, torch.float32)


def _device_of(model: nn.Module) -> torch.device:
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def _gives_probe(model: nn.Module, architecture: Architecture) -> bool:
    """Whether `model` puts out what the architecture says."""
    stored, output = architecture.probe, _probe(_outputs(model, architecture))
    if len(stored) != len(output):
        return False
    expected, actual = (torch.tensor(values, dtype=torch.float64) for values in (stored, output))
    tolerance = max(_PROBE_TOLERANCE, 8 * torch.finfo(FRACTIONS[architecture.dtype]).eps)
    scale = float(expected.abs().max().clamp(min=1e-6)) if stored else 0
    return torch.allclose(expected, actual, rtol=0, atol=tolerance * scale)


def _probe(outputs: Sequence[Tensor]) -> tuple[float, ...]:
    """All outputs, one after the other, or some of many."""
    values = torch.cat([output.flatten().double().cpu() for output in outputs])
    if len(values) > _MOST_OUTPUTS:
        places = torch.linspace(0, len(values) - 1, _SOME_OUTPUTS, dtype=torch.float64)
        values = values[places.long()]
    return tuple(values.tolist())


def _outputs(model: nn.Module, architecture: Architecture) -> list[Tensor]:
    """What `model` puts out for the input of the probe."""
    shape, dtype = architecture.input_shape, FRACTIONS[architecture.dtype]
    example = moved(random_of(shape, dtype, PROBE_SEED), _device_of(model))
    positional, keyword = call_arguments(example)
    try:
        with evaluating(model), torch.no_grad():
            return list(returned_tensors(model(*positional, **keyword), set()))
    except Exception as error:  # a user's network may raise anything
        name = type(model).__name__ if architecture.builder is None else architecture.builder.target
        raise ArchitectureError(
            f"{name} cannot run on an input of {shape_text(shape)}: {first_line(error)}"
        ) from error
