"""The numbers that layers keep of their own sizes, made to agree with their parameters.

Of stock layers it is known which attributes these are; those of other people's modules are found
by running the network (pruning.rehearsal.kept_sizes) and have a name: block.width, or block.sizes.1
for the second number of a list or tuple.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, cast

from torch import nn

from pruning.networks.torch_interior import Convolution, Norm
from pruning.tracer.trace_records import LOSES_WHOLE_GROUPS


def update_sizes(module: nn.Module, *, is_group_split: bool = False) -> None:
    """Set every size attribute of a stock layer to what its parameters' shapes say.

    Layers of other people, and sizes that no parameter shows, stay as they are.
    is_group_split: a grouped convolution that loses whole groups with its channels.
    """
    if isinstance(module, Convolution):
        _update_convolution(module, is_group_split=is_group_split)
        return
    for kind, update in _UPDATES:
        if isinstance(module, kind):
            update(module)


def own_sizes(module: nn.Module, name: str) -> Iterator[tuple[str, int]]:
    """Every number, by its name, that may be a size and that `update_sizes` does not set.

    Of a layer derived from a stock one, what that does not declare.
    name: of the module in its network; the network itself has none.
    """
    declared: Collection[str] = ()
    if isinstance(module, _STOCK):
        if type(module).__module__.startswith("torch."):
            return
        declared = {*cast(list[str], module.__constants__), "_reversed_padding_repeated_twice"}
    prefix = f"{name}." if name else ""
    for attribute, value in vars(module).items():
        if attribute in declared:
            continue
        if type(value) is int:
            yield prefix + attribute, value
        elif type(value) in (tuple, list):
            for place, number in enumerate(value):
                if type(number) is int:
                    yield f"{prefix}{attribute}.{place}", number


def has_size(model: nn.Module, name: str) -> bool:
    """Whether a module of `model` has the attribute with this number."""
    try:
        module, attribute, place = _located(model, name)
    except AttributeError:
        return False
    value = vars(module).get(attribute)
    if place is None:
        return isinstance(value, int)
    return isinstance(value, tuple | list) and place < len(value)


def set_size(model: nn.Module, name: str, size: int) -> None:
    """Set the number of this name in place; in a list or tuple the others stay."""
    module, attribute, place = _located(model, name)
    value: Any = size
    if place is not None:
        numbers = vars(module)[attribute]
        value = type(numbers)([*numbers[:place], size, *numbers[place + 1 :]])
    setattr(module, attribute, value)


def _located(model: nn.Module, name: str) -> tuple[nn.Module, str, int | None]:
    """The module, its attribute and the place in there; AttributeError if there is no module."""
    owner, _, attribute = name.rpartition(".")
    place = None
    if attribute.isdigit():
        place = int(attribute)
        owner, _, attribute = owner.rpartition(".")
    return model.get_submodule(owner), attribute, place


def _update_convolution(module: Convolution, *, is_group_split: bool) -> None:
    if module.groups > 1:
        setattr(module, LOSES_WHOLE_GROUPS, is_group_split)
    first, second = (int(size) for size in module.weight.shape[:2])
    if module.transposed:
        if is_group_split:
            module.groups = module.groups * first // module.in_channels
        module.in_channels, module.out_channels = first, second * module.groups
    else:
        if is_group_split:
            module.groups = module.groups * first // module.out_channels
        module.in_channels, module.out_channels = second * module.groups, first


def _linear(module: Any) -> None:
    module.out_features, module.in_features = module.weight.shape


def _bilinear(module: Any) -> None:
    module.out_features, module.in1_features, module.in2_features = module.weight.shape


def _embedding(module: Any) -> None:
    module.num_embeddings, module.embedding_dim = module.weight.shape


def _batch_or_instance_norm(module: Any) -> None:
    known = module.weight if module.weight is not None else module.running_mean
    if known is not None:
        module.num_features = int(known.shape[0])


def _group_norm(module: Any) -> None:
    if module.weight is not None:
        per_group = module.num_channels // module.num_groups
        module.num_channels = int(module.weight.shape[0])
        if module.num_groups > 1:
            module.num_groups = module.num_channels // per_group


def _layer_norm(module: Any) -> None:
    if module.weight is not None:
        module.normalized_shape = tuple(module.weight.shape)


def _prelu(module: Any) -> None:
    module.num_parameters = int(module.weight.shape[0])


def _recurrent(module: Any) -> None:
    module.input_size = int(module.weight_ih_l0.shape[1])
    read = int(module.weight_hh_l0.shape[1])  # with a projection, less than the hidden size
    if module.proj_size:
        module.proj_size, read = read, int(module.weight_hr_l0.shape[1])
    module.hidden_size = read


def _recurrent_cell(module: Any) -> None:
    module.input_size, module.hidden_size = module.weight_ih.shape[1], module.weight_hh.shape[1]


def _attention(module: Any) -> None:
    weights = [module.q_proj_weight, module.k_proj_weight, module.v_proj_weight]
    if module.in_proj_weight is not None:
        weights = [module.in_proj_weight] * 3
    module.embed_dim, module.kdim, module.vdim = (int(weight.shape[1]) for weight in weights)
    module.head_dim = module.embed_dim // module.num_heads


def _transformer(module: Any) -> None:
    for part in (module.encoder, module.decoder):
        if isinstance(part, nn.TransformerEncoder | nn.TransformerDecoder):
            module.d_model = int(part.layers[0].linear1.weight.shape[1])


_UPDATES = (
    (nn.Linear, _linear),
    (nn.Bilinear, _bilinear),
    ((nn.Embedding, nn.EmbeddingBag), _embedding),
    (Norm, _batch_or_instance_norm),
    (nn.GroupNorm, _group_norm),
    ((nn.LayerNorm, nn.RMSNorm), _layer_norm),
    (nn.PReLU, _prelu),
    (nn.RNNBase, _recurrent),
    (nn.RNNCellBase, _recurrent_cell),
    (nn.MultiheadAttention, _attention),
    (nn.Transformer, _transformer),
)
"""Kinds of layers and what puts their sizes right."""

_STOCK = (Convolution, *(kind for kind, _ in _UPDATES))
