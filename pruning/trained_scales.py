"""What a trained batch normalisation says that σBN cannot, said by the layers around it.

σBN multiplies by a number between 0 and 1 and adds nothing. A trained scale may be negative or
above 1 and have an offset. Three identities move that elsewhere and change no output, in training
as in evaluation:

- sign: −x normalised is minus x normalised, so that the layer in front takes the sign;
- factor: what follows may be positively homogeneous, f(c·x) = c·f(x) for c > 0 (ReLU, pooling,
  sums of terms that share the factor), up to convolutions or linear layers, whose weights take it;
- offset: a convolution without padding, or a linear layer, makes a constant of it, which its bias
  takes, or the batch normalisation behind it, which subtracts means.

Where none holds (an activation such as SiLU behind a scale above 1, any activation behind an
offset) the network is left as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from pruning.cost import ExampleInput
from pruning.networks.copies import deep_copy
from pruning.networks.torch_interior import BatchNorm
from pruning.networks.wrappers import unwrapped
from pruning.scale_flow import Flow, Product, followed


def bounded_scales(model: nn.Module, example_input: ExampleInput, largest: float) -> nn.Module:
    """A copy of `model` that computes the same, with what σBN cannot say moved to other layers.

    Where the identities above hold, scales of batch normalisations are positive and at most
    `largest`, in (0, 1), and their offsets zeros. Everything else is kept. Dropout between an
    offset and the layer that takes it (stochastic depth) makes a difference, in training alone.
    example_input: as for `pruning.trace`; a copy of the network runs on it once.
    """
    model = unwrapped(model)
    flow, products = followed(model, example_input)
    result = deep_copy(model)
    with torch.no_grad():
        _move_offsets(result, flow, products)
        _move_signs(result, products)
        _move_factors(result, flow, products, largest)
    return result


def _move_offsets(model: nn.Module, flow: Flow, products: Sequence[Product]) -> None:
    parameters = dict(model.named_parameters())
    taken: set[str] = set()
    for product in products:
        offsets = [norm for norm in product.source.offsets if norm not in flow.kept]
        if not offsets:
            continue
        constants = torch.stack([_norm(model, norm).bias.double() for norm in offsets]).sum(0)
        made = _of_constants(parameters[product.weight].double(), constants)
        if product.bias:
            parameters[product.bias].add_(made)
        elif (mean := _norm(model, product.norm).running_mean) is not None:
            mean.sub_(made)
        taken.update(offsets)
    for norm in taken:
        _norm(model, norm).bias.zero_()


def _of_constants(weight: Tensor, channels: Tensor) -> Tensor:
    """What a product of this weight, O×C/groups×…, makes of C constant channels: O constants."""
    summed = weight.flatten(2).sum(2) if weight.dim() > 2 else weight
    groups = len(channels) // summed.shape[1]
    by_group = summed.reshape(groups, -1, summed.shape[1])
    return (by_group @ channels.reshape(groups, -1, 1)).flatten()


def _move_signs(model: nn.Module, products: Sequence[Product]) -> None:
    parameters = dict(model.named_parameters())
    for product in products:
        if not product.norm or not product.is_alone or product.is_transposed:
            continue
        norm = _norm(model, product.norm)
        signs = torch.where(norm.weight < 0, -1, 1).to(norm.weight.dtype)
        turned: list[Tensor] = [parameters[name] for name in (product.weight, product.bias) if name]
        turned += [t for t in (norm.running_mean, norm.weight) if t is not None]
        for tensor in turned:
            tensor.mul_(signs.reshape(-1, *[1] * (tensor.dim() - 1)))


def _move_factors(
    model: nn.Module, flow: Flow, products: Sequence[Product], largest: float
) -> None:
    parameters = dict(model.named_parameters())
    factors: dict[str, float] = {}
    for norms in _classes(flow.ties):
        scale = max(float(_norm(model, norm).weight.abs().max()) for norm in norms)
        is_free = scale > largest and not norms & flow.fixed
        factors |= dict.fromkeys(norms, scale / largest if is_free else 1.0)
    for name, factor in factors.items():
        norm = _norm(model, name)
        for tensor in (norm.weight, norm.bias):
            if tensor is not None:
                tensor.div_(factor)
    for product in products:
        for name in sorted(product.source.norms)[:1]:  # they share it
            parameters[product.weight].mul_(factors[name])


def _classes(ties: Iterable[frozenset[str]]) -> list[frozenset[str]]:
    """Sets that overlap, united."""
    classes: list[frozenset[str]] = []
    for tie in ties:
        apart = [known for known in classes if not known & tie]
        classes = [*apart, tie.union(*(known for known in classes if known & tie))]
    return [members for members in classes if members]


def _norm(model: nn.Module, name: str) -> BatchNorm:
    layer = model.get_submodule(name)
    assert isinstance(layer, BatchNorm), name
    return layer
