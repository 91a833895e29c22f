"""Structures of a network that can go as a whole: layers, residual branches, blocks.

What a layer or a block leaves behind is a shortcut, added where it has none of its own; what
a branch leaves behind is the shortcut that its block has.

Source: Haider and Taj, "Comprehensive Online Network Pruning via Learnable Scaling Factors",
§3.2 (layers), §3.3 (branches), §3.4 (blocks).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from pruning.cost import ExampleInput, call_arguments, evaluating
from pruning.errors import PlanError, TraceError, first_line
from pruning.networks.copies import deep_copy
from pruning.networks.torch_interior import BatchNorm, Convolution, tree_leaves, tree_map_only
from pruning.networks.wrappers import unwrapped
from pruning.restrictions import Restrictions
from pruning.structure_removal.residual_blocks import joins_paths, residual_blocks, without_branch
from pruning.structure_removal.shortcuts import Shortcut, around_block, around_layer

Kind = Literal["layer", "full-layer", "branch", "block"]
KINDS: tuple[Kind, ...] = ("layer", "full-layer", "branch", "block")

_ACTIVATIONS = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish),
    *(nn.Hardswish, nn.Hardtanh, nn.Hardsigmoid, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Softsign),
)
"""Layers without parameters that change each value by itself."""


@dataclass(frozen=True)
class Structure:
    """A part of a network that can be removed.

    kind: "layer" for a convolution, "full-layer" for a convolution with the batch normalisation and
        the activation behind it, "branch" for the residual branch of the module of that name,
        "block" for a module in which several paths meet.
    name: of the module.
    """

    kind: Kind
    name: str


Removable = Mapping[Structure, Shortcut | None]
"""Structures and the shortcuts that they need; None for branches, which have one."""


def structures(
    model: nn.Module,
    example_input: ExampleInput,
    kinds: Iterable[Kind] = KINDS,
    restrictions: Restrictions | None = None,
) -> tuple[Structure, ...]:
    """Everything of these kinds that can be removed from `model`, each kind in order.

    layer: a convolution called once, but for those that see the network's input and those
        that are no larger than the 1×1 convolution that would take their place.
    full-layer: such a convolution with the modules that run right behind it, on nothing but what
        comes before: batch normalisation, an activation, or both. It is a layer as well.
    branch: of a block without obstacle (see `residual_blocks`).
    block: an outermost module whose own forward adds or concatenates paths from its input,
        a tensor N×C×…, to an output of this form.
    restrictions: what they fit may not go, nor what holds it.

    The network runs on the example input; TraceError if it cannot. What its code needs, by
    reading the attributes of a layer for instance, is not among the structures.
    """
    return tuple(find(model, example_input, kinds, restrictions))


def find(
    model: nn.Module,
    example_input: ExampleInput,
    kinds: Iterable[Kind] = KINDS,
    restrictions: Restrictions | None = None,
) -> dict[Structure, Shortcut | None]:
    """`structures` with the shortcuts that they need."""
    wanted = set(kinds)
    model = deep_copy(unwrapped(model)).eval()
    inputs = _placed(example_input, model)
    names = [name for name, module in _single_modules(model) if _is_candidate(module, wanted)]
    runs = _watch(model, inputs, names)
    removable: dict[Structure, Shortcut | None] = {}
    if "layer" in wanted:
        removable |= _working(model, inputs, _layers(model, runs, "layer"))
    if "full-layer" in wanted:
        ends = _layer_chains(model, inputs)
        full = _layers(model, runs, "full-layer")
        removable |= _working(model, inputs, {s: v for s, v in full.items() if s.name in ends})
    if "branch" in wanted:
        removable |= {
            Structure("branch", block.name): None
            for block in residual_blocks(model)
            if block.obstacle is None
            and not isinstance(model.get_submodule(block.name), fx.GraphModule)
        }
    if "block" in wanted:
        removable |= _working(model, inputs, _blocks(model, runs))
    if restrictions is None:
        return removable
    modules = [name for name, _ in model.named_modules()]
    return {s: v for s, v in removable.items() if not restrictions.spares(s.name, modules)}


def remove_structures(
    model: nn.Module, example_input: ExampleInput, removed: Sequence[Structure], *, seed: int = 0
) -> nn.Module:
    """A new model with shortcuts in place of these structures; `model` is untouched.

    What stays keeps its parameter names; a 1×1 convolution takes the name of the layer or
    block in whose place it is, followed by ".project". A structure inside another one goes
    with it. Raises PlanError for what cannot be removed.

    seed: of the weights of the 1×1 convolutions.
    """
    model = unwrapped(model)
    removable = find(model, example_input, {structure.kind for structure in removed})
    for structure in removed:
        if structure not in removable:
            raise _not_removable(model, structure)
    gone = {s: shortcut for s, shortcut in removable.items() if s in set(removed)}
    return replaced(model, example_input, fresh_shortcuts(model, gone, seed))


def _not_removable(model: nn.Module, structure: Structure) -> PlanError:
    obstacles = {block.name: block.obstacle for block in residual_blocks(model)}
    obstacle = obstacles.get(structure.name) if structure.kind == "branch" else None
    return PlanError(
        f"this network has no {structure.kind} {structure.name!r} that can be removed: "
        + (obstacle or "pruning.structures lists those that can")
    )


def replaced(
    model: nn.Module, example_input: ExampleInput, gone: Mapping[Structure, nn.Module | None]
) -> nn.Module:
    """A new model in which each of these structures has become its shortcut."""
    inputs = _placed(example_input, unwrapped(model))
    return _with_identities_kept_apart(_without(model, inputs, gone), inputs)


def ends_of_layers(
    model: nn.Module, example_input: ExampleInput, removed: Iterable[Structure]
) -> dict[str, str]:
    """Of the full layers among these structures the last module, by the convolution's name."""
    names = {structure.name for structure in removed if structure.kind == "full-layer"}
    if not names:
        return {}
    chains = _layer_chains(unwrapped(model), _placed(example_input, unwrapped(model)))
    return {name: chain[-1] for name, chain in chains.items() if name in names}


def fresh_shortcuts(
    model: nn.Module, removable: Removable, seed: int
) -> dict[Structure, nn.Module | None]:
    """Fresh shortcuts, drawn in the order of `removable`."""
    generator = torch.Generator().manual_seed(seed)
    made: dict[Structure, nn.Module | None] = dict.fromkeys(removable)
    for structure, shortcut in removable.items():
        if shortcut is not None:
            like = next(model.get_submodule(structure.name).parameters())
            made[structure] = shortcut.make(like, generator)
    return made


def _without(
    model: nn.Module, inputs: ExampleInput, gone: Mapping[Structure, nn.Module | None]
) -> nn.Module:
    """Branches go first, while the sides of their additions are as they were."""
    result = deep_copy(unwrapped(model))
    has_full = any(structure.kind == "full-layer" for structure in gone)
    chains = _layer_chains(result, inputs) if has_full else {}
    for structure in sorted(gone, key=_order):
        if not _has(result, structure.name):  # it went with what it is inside of
            continue
        shortcut = gone[structure]
        if shortcut is None:
            shortcut = without_branch(result.get_submodule(structure.name))
        _exchange(result, structure.name, shortcut)
        if structure.kind == "full-layer":
            for name in chains[structure.name]:
                _exchange(result, name, nn.Identity())
    return result


def _order(structure: Structure) -> tuple[bool, int]:
    return structure.kind != "branch", KINDS.index(structure.kind)


def _exchange(model: nn.Module, name: str, new: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, new.train(model.get_submodule(name).training))


def _has(model: nn.Module, name: str) -> bool:
    try:
        model.get_submodule(name)
    except AttributeError:
        return False
    return True


def _with_identities_kept_apart(model: nn.Module, inputs: ExampleInput) -> nn.Module:
    """`model` itself, with copies where what follows an identity writes into its output.

    Otherwise it would write into what the identity read, which others may read as well. That is
    seen by the version of a tensor alone, which torch counts and has no public name for.
    """
    outputs: dict[str, tuple[Tensor, int]] = {}

    def noting(name: str) -> Any:
        return lambda _module, _inputs, output: outputs.update({name: (output, output._version)})

    names = [name for name, module in model.named_modules() if type(module) is nn.Identity]
    handles = [model.get_submodule(n).register_forward_hook(noting(n)) for n in names]
    try:
        _run(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    for name, (output, version) in outputs.items():
        if output._version != version:
            _exchange(model, name, _copying())
    return model


def _copying() -> nn.Module:
    graph = fx.Graph()
    graph.output(graph.call_method("clone", (graph.placeholder("x"),)))
    return fx.GraphModule(nn.Module(), graph, class_name="Copy")


@dataclass
class _ModuleRun:
    """What one run showed of a module.

    calls: how often it ran.
    shapes: of its input and output if it has one of each, both tensors; else None.
    reads_input: whether no layer with parameters came before it.
    writes_input: whether it changes its input in place.
    """

    calls: int = 0
    shapes: tuple[torch.Size, torch.Size] | None = None
    reads_input: bool = False
    writes_input: bool = False


def _watch(model: nn.Module, inputs: ExampleInput, names: Sequence[str]) -> dict[str, _ModuleRun]:
    """Runs `model`, which keeps the hooks, and tells what the modules of these names did."""
    runs = {name: _ModuleRun() for name in names}
    input_ids = {id(tensor) for tensor in tree_leaves(inputs)}
    num_weighted = 0
    entered: dict[str, tuple[Tensor, int] | None] = {}

    def before(name: str) -> Any:
        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x = args[0] if len(args) == 1 and not kwargs else None
            entered[name] = (x, x._version) if isinstance(x, Tensor) else None
            runs[name].calls += 1
            runs[name].reads_input = num_weighted == 0 or id(x) in input_ids

        return hook

    def after(name: str) -> Any:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            if (entry := entered[name]) is not None and isinstance(output, Tensor):
                x, version = entry
                runs[name].shapes = (x.shape, output.shape)
                runs[name].writes_input = x._version != version

        return hook

    def count(*_: Any) -> None:
        nonlocal num_weighted
        num_weighted += 1

    handles = []
    for module in model.modules():
        if list(module.parameters(recurse=False)):
            handles.append(module.register_forward_hook(count))
    for name in names:
        module = model.get_submodule(name)
        handles.append(module.register_forward_pre_hook(before(name), with_kwargs=True))
        handles.append(module.register_forward_hook(after(name)))
    try:
        _run(model, inputs)
    except Exception as error:
        raise TraceError(
            f"{type(model).__name__} cannot run on this example input: {first_line(error)}"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return runs


def _is_candidate(module: nn.Module, kinds: set[Kind]) -> bool:
    if isinstance(module, Convolution):
        return bool(kinds & {"layer", "full-layer"})
    return "block" in kinds and not isinstance(module, fx.GraphModule) and joins_paths(module)


def _single_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module but the network itself, and those that have several names."""
    named = list(model.named_modules(remove_duplicate=False))
    counts = Counter(id(module) for _, module in named)
    return ((name, module) for name, module in named if name and counts[id(module)] == 1)


def _layer_chains(model: nn.Module, inputs: ExampleInput) -> dict[str, tuple[str, ...]]:
    """Per convolution the modules of its full layer, which run right behind it, one by one.

    model: on the device of the inputs. Modules that run in between, or code of the network that
    makes another tensor, end a chain.
    """
    calls: list[tuple[str, Tensor, Tensor]] = []

    def note(name: str) -> Any:
        def hook(_module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if len(args) == 1 and isinstance(args[0], Tensor) and isinstance(output, Tensor):
                calls.append((name, args[0], output))

        return hook

    singles = dict(_single_modules(model))
    leaves = {name: module for name, module in singles.items() if not list(module.children())}
    handles = [module.register_forward_hook(note(name)) for name, module in leaves.items()]
    try:
        _run(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    counts = Counter(name for name, _, _ in calls)
    chains: dict[str, tuple[str, ...]] = {}
    for number, (first, _, output) in enumerate(calls):
        current, chain = output, list[str]()
        kinds: list[tuple[type[nn.Module], ...]] = [(BatchNorm,), _ACTIVATIONS]
        for name, x, result in calls[number + 1 : number + 3]:
            while kinds and not isinstance(singles[name], kinds[0]):
                kinds.pop(0)
            if not kinds or x is not current or counts[name] > 1:
                break
            chain.append(name)
            kinds.pop(0)
            current = result
        if chain and isinstance(singles[first], Convolution) and counts[first] == 1:
            chains[first] = tuple(chain)
    return chains


def _layers(model: nn.Module, runs: Mapping[str, _ModuleRun], kind: Kind) -> Removable:
    removable: dict[Structure, Shortcut | None] = {}
    for name, run in runs.items():
        layer = model.get_submodule(name)
        if isinstance(layer, Convolution) and _fits(run) and not run.reads_input:
            shortcut = around_layer(layer)
            if shortcut is not None and shortcut.num_params < layer.weight.numel():
                removable[Structure(kind, name)] = shortcut
    return removable


def _blocks(model: nn.Module, runs: Mapping[str, _ModuleRun]) -> Removable:
    removable: dict[Structure, Shortcut | None] = {}
    outer: tuple[str, ...] = ()
    for name, run in runs.items():
        module = model.get_submodule(name)
        if isinstance(module, Convolution) or name.startswith(outer):
            continue
        if _fits(run) and not run.writes_input and run.shapes is not None:
            shortcut = around_block(*run.shapes)
            num_params = sum(p.numel() for p in module.parameters())
            if shortcut is not None and shortcut.num_params < num_params:
                removable[Structure("block", name)] = shortcut
                outer += (f"{name}.",)
    return removable


def _fits(run: _ModuleRun) -> bool:
    return run.calls == 1 and run.shapes is not None


def _working(model: nn.Module, inputs: ExampleInput, removable: Removable) -> Removable:
    """Those without which the network still runs; all together are tried first."""
    if _runs_without(model, inputs, removable):
        return removable
    return {s: removable[s] for s in removable if _runs_without(model, inputs, {s: removable[s]})}


def _runs_without(model: nn.Module, inputs: ExampleInput, removable: Removable) -> bool:
    shorter = _without(model, inputs, fresh_shortcuts(model, removable, seed=0))
    try:
        _run(shorter, inputs)
    except Exception:  # the user's code may raise anything
        return False
    return True


def _run(model: nn.Module, inputs: ExampleInput) -> None:
    positional, keyword = call_arguments(inputs)
    with torch.no_grad(), evaluating(model):
        model(*positional, **keyword)


def _placed(inputs: ExampleInput, model: nn.Module) -> ExampleInput:
    """The example input where the model is."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    moved: ExampleInput = tree_map_only(Tensor, lambda t: t.to(device), inputs)
    return moved
