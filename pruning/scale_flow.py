"""Where the outputs of batch normalisations go in a network, and what is exact to do to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pruning.cost import ExampleInput, call_arguments, evaluating
from pruning.networks.copies import copied, moved
from pruning.networks.nested_tensors import returned_tensors
from pruning.networks.torch_interior import BatchNorm, TorchDispatchMode, schema_of, tree_leaves
from pruning.networks.wrappers import uncompiled

_SUMS = frozenset(
    {"add", "clone", "detach", "alias", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d"}
)
"""Operators that take constant channels to constant channels, the sum of those that come in."""

_VIEWS = frozenset({"view", "_unsafe_view", "reshape"})

_HOMOGENEOUS = frozenset(
    {
        *_SUMS,
        *_VIEWS,
        *("relu", "leaky_relu", "_prelu_kernel", "native_dropout", "cat", "mean", "sum", "amax"),
        *("max_pool2d_with_indices", "max_pool3d_with_indices", "max_pool2d", "_to_copy"),
        *("avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_max_pool2d", "adaptive_max_pool3d"),
        *("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_bilinear2d"),
        *("permute", "transpose", "unsqueeze", "squeeze", "expand", "slice", "select"),
        *("split", "split_with_sizes", "chunk"),
    }
)
"""Operators with f(c·x, c·y) = c·f(x, y) for every c > 0."""


@dataclass(frozen=True)
class Carried:
    """What an activation is made of: normalisations whose factor it has, and added offsets."""

    norms: frozenset[str]
    offsets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Product:
    """A call of a convolution or linear layer; its parameters by name.

    is_alone: whether its parameters are read nowhere else.
    is_even: whether every output adds up whole channels, as it does not at a padded border.
    norm: the batch normalisation that alone reads the output, and nothing else; empty if there is
        none.
    """

    weight: str
    bias: str
    source: Carried
    is_alone: bool
    is_even: bool
    is_transposed: bool
    norm: str

    @property
    def takes_offsets(self) -> bool:
        """Whether what comes of constant channels can be taken by what is there."""
        return self.is_alone and self.is_even and bool(self.bias or self.norm)


@dataclass(frozen=True)
class _Call:
    """A product as it was called."""

    weight: Tensor
    bias: Tensor | None
    source: Carried
    output: Tensor
    is_even: bool = True
    is_transposed: bool = False


_NOTHING = Carried(frozenset())


class Flow(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows what batch normalisations put out through one run of a network.

    ties: normalisations that have to share a factor.
    fixed: those whose factor meets something that is not homogeneous in it.
    kept: those whose offset meets something that cannot take it.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ties: set[frozenset[str]] = set()
        self.fixed: set[str] = set()
        self.kept: set[str] = set()
        self._num_calls: Counter[str] = Counter()
        self._names = {id(p): name for name, p in model.named_parameters()}
        self._norms = _norms_of_their_own(model)
        self._calls: list[_Call] = []
        self._normalised: dict[int, str] = {}
        self._reads: Counter[int] = Counter()
        self._carried: dict[int, Carried] = {}
        self._transposed: dict[int, Tensor] = {}
        self._alive: dict[int, Tensor] = {}  # an id is a tensor's own only while it lives

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = schema_of(func).name.partition("::")[2]
        inputs = _tensors((args, kwargs))
        self._reads.update(map(id, inputs))
        outputs = result if isinstance(result, list) else _tensors(result)[:1]
        if name.endswith("_") and any(self._is_seen_elsewhere(t) for t in outputs):
            self._ends(self._alive.values())  # who else sees the change is not followed
        carried = self._carried_on(name.rstrip("_"), args, kwargs or {}, inputs, outputs)
        if carried is None:
            self._ends(inputs)
        for tensor in outputs:
            self._carried[id(tensor)] = carried or _NOTHING
        self.ties.add((carried or _NOTHING).norms)
        self._alive |= {id(tensor): tensor for tensor in (*inputs, *_tensors(result))}
        return result

    def end(self, output: Any) -> list[Product]:
        """The run is over and returned `output`: all its products."""
        self._ends(returned_tensors(output, set()))
        self._ends(t for number, t in self._alive.items() if not self._reads[number])
        products = list(map(self._product, self._calls))
        for product in products:
            if not product.is_alone:
                self.fixed |= product.source.norms
            if not product.takes_offsets:
                self.kept.update(product.source.offsets)
        return products

    def _carried_on(
        self,
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
    ) -> Carried | None:
        """What the outputs of an operator carry; None where all that came in ends."""
        if "batch_norm" in name:
            norm = self._norms.get(id(args[1]))
            self._ends(inputs)
            if norm is None:
                return None
            self._num_calls[norm] += 1
            self._normalised[id(args[0])] = norm
            return Carried(frozenset({norm}), (norm,) if args[2] is not None else ())
        if name == "t" and id(args[0]) in self._names:
            self._transposed[id(outputs[0])] = args[0]
            return _NOTHING
        if (call := self._call(name, args, kwargs, outputs)) is not None:
            self._calls.append(call)
            return _NOTHING
        return self._homogeneous(name, args, kwargs, inputs, outputs)

    def _call(
        self, name: str, args: tuple[Any, ...], kwargs: Any, outputs: Sequence[Tensor]
    ) -> _Call | None:
        """The product that this operator is, if it is one by parameters."""
        if name == "convolution":
            source, weight, bias, _, padding, _, is_transposed, *_ = args
            is_even = not is_transposed and not any(padding)
        elif name in ("mm", "addmm") and not kwargs:
            *biases, source, matrix = args
            weight = self._transposed.get(id(matrix))
            bias, is_even, is_transposed = next(iter(biases), None), True, False
        else:
            return None
        if id(weight) not in self._names or (bias is not None and id(bias) not in self._names):
            return None
        carried = self._carried.get(id(source), _NOTHING)
        return _Call(weight, bias, carried, outputs[0], is_even, is_transposed)

    def _homogeneous(
        self,
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
    ) -> Carried | None:
        """What an operator passes on of factors and offsets that all of its inputs have."""
        is_padding = name == "constant_pad_nd" and not any(args[2:])
        activations = inputs[:1] if name == "_prelu_kernel" else inputs  # its slopes are its own
        carried = [self._carried.get(id(t), _NOTHING) for t in activations]
        is_sum_with_number = name == "add" and len(inputs) < 2
        if not (name in _HOMOGENEOUS or is_padding) or is_sum_with_number:
            return None
        if not carried or not all(each.norms for each in carried):
            return None
        norms = frozenset().union(*(each.norms for each in carried))
        offsets = tuple(norm for each in carried for norm in each.offsets)
        if kwargs or not _keeps_constants(name, args, activations, outputs[0]):
            self.kept.update(offsets)
            offsets = ()
        return Carried(norms, offsets)

    def _product(self, call: _Call) -> Product:
        matrices = [n for n, weight in self._transposed.items() if weight is call.weight]
        biases = [] if call.bias is None else [id(call.bias)]
        read_once = (id(call.weight), *matrices, *biases)
        norm = self._normalised.get(id(call.output), "")
        is_pair = self._reads[id(call.output)] == 1 and self._num_calls[norm] == 1
        return Product(
            self._names[id(call.weight)],
            "" if call.bias is None else self._names[id(call.bias)],
            call.source,
            is_alone=all(self._reads[number] == 1 for number in read_once),
            is_even=call.is_even,
            is_transposed=call.is_transposed,
            norm=norm if is_pair else "",
        )

    def _ends(self, tensors: Iterable[Tensor]) -> None:
        """Factors and offsets of these activations have to stay as they are."""
        for tensor in tensors:
            carried = self._carried.get(id(tensor), _NOTHING)
            self.fixed |= carried.norms
            self.kept.update(carried.offsets)

    def _is_seen_elsewhere(self, tensor: Tensor) -> bool:
        """Whether another activation, a view of it or what it is a view of, shares its memory."""
        place = tensor.untyped_storage().data_ptr()
        return any(
            other is not tensor and other.untyped_storage().data_ptr() == place
            for other in self._alive.values()
        )


def followed(model: nn.Module, example_input: ExampleInput) -> tuple[Flow, list[Product]]:
    """What is found in one run of a copy of `model` in evaluation mode."""
    model, inputs = copied(model), moved(example_input, None)
    positional, keyword = call_arguments(inputs)
    flow = Flow(model)
    with evaluating(model), uncompiled(model), torch.no_grad():
        with flow:
            output = model(*positional, **keyword)
        return flow, flow.end(output)


def runs_stock_code(layer: BatchNorm) -> bool:
    """Whether a batch normalisation, of a subclass or not, runs torch's own forward pass."""
    return type(layer).forward is BatchNorm.forward and "forward" not in vars(layer)


def _norms_of_their_own(model: nn.Module) -> Mapping[int, str]:
    """Names of batch normalisations that run torch's code, by the id of their scale.

    Without those that share a parameter with another layer.
    """
    parameters = {id(parameter) for parameter in model.parameters()}
    owners = Counter(id(p) for m in model.modules() for p in m.parameters(recurse=False))
    return {
        id(layer.weight): name
        for name, layer in model.named_modules()
        if isinstance(layer, BatchNorm)
        and runs_stock_code(layer)
        and id(layer.weight) in parameters
        and all(owners[id(p)] == 1 for p in layer.parameters(recurse=False))
    }


def _keeps_constants(
    name: str, args: Sequence[Any], activations: Sequence[Tensor], output: Tensor
) -> bool:
    """Whether constant channels stay such, and in their places, but for being added."""
    if any(t.dim() < 2 or t.shape[:2] != output.shape[:2] for t in activations):
        return False
    if name == "mean" and len(args) > 1:
        return not {axis % activations[0].dim() for axis in args[1]} & {0, 1}
    return name in _SUMS or (name in _VIEWS and output.dim() == 2)


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
