"""Operators that work on each element: they tie the labels of their operands."""

from __future__ import annotations

from torch import Tensor

from pruning.graph.channel_labels import AxisLabels, Labels
from pruning.graph.operators.rule import Call, Rule, Tracing, each, pin_all, unlabelled

_ADDITIONS = ("aten::add", "aten::add_", "aten::sub", "aten::sub_")


def elementwise(tracing: Tracing, call: Call) -> list[AxisLabels]:
    """Ties operands along every axis on which they are not broadcast."""
    tensors = [t for t in call.tensors if t.dim() > 0]
    is_addition = call.name in _ADDITIONS
    axes = tuple(
        tie_axis(tracing, tensors, axis, call.output, is_addition=is_addition)
        for axis in range(call.output.dim())
    )
    shape = call.output.shape
    return [axes if out.shape == shape else unlabelled(out) for out in call.outputs]


def tie_axis(
    tracing: Tracing,
    tensors: list[Tensor],
    axis: int,
    output: Tensor,
    *,
    is_addition: bool = False,
) -> Labels | None:
    """Tie what `tensors` have along `axis` of the output; returns its labels, if not pinned."""
    labelled: list[Labels] = []
    constants: list[tuple[Tensor, int]] = []
    num_activations = 0
    for tensor in tensors:
        own_axis = axis - output.dim() + tensor.dim()
        if own_axis < 0:
            continue
        labels = tracing.axes(tensor)[own_axis]
        if tensor.shape[own_axis] != output.shape[axis]:  # broadcast along this axis
            if labels is not None:
                tracing.channels.pin(labels, "one channel broadcast over many")
        elif labels is None:
            constants.append((tensor, own_axis))
        else:
            labelled.append(labels)
            num_activations += not tracing.is_parameter(tensor)
    if not labelled:
        return None
    for labels in labelled[1:]:
        tracing.channels.tie(labelled[0], labels)
    follow = [tracing.follows(tensor, own_axis, labelled[0]) for tensor, own_axis in constants]
    if output.shape[axis] > 1 and not all(follow):
        tracing.channels.pin(labelled[0], "combined with values of a fixed size")
        return None
    if is_addition and num_activations > 1:
        tracing.adds(labelled[0])
    return labelled[0]


def fill(tracing: Tracing, call: Call) -> AxisLabels:
    """aten::fill_, aten::zero_: the tensor keeps its axes."""
    return tracing.axes(call.tensors[0]) if call.tensors else unlabelled(call.output)


def new_tensor(tracing: Tracing, call: Call) -> AxisLabels:
    """aten::new_empty and its like: axes as long as those of the tensor they are called on.

    A size that is equal by chance does not follow the channels when the network runs at other
    widths, which is found out then.
    """
    x, out = call.args[0], call.output
    if x.dim() != out.dim():
        return unlabelled(out)
    axes = zip(tracing.axes(x), x.shape, out.shape, strict=True)
    return tuple(labels if before == after else None for labels, before, after in axes)


def resize(tracing: Tracing, call: Call) -> AxisLabels:
    """aten::resize_: what is new there takes over the channels of what will be written to it."""
    x = call.args[0]
    axes = tracing.axes(x)
    if [None if a is None else len(a) for a in axes] == list(call.output.shape):
        return axes
    pin_all(tracing, [x], "resized")
    return tuple(tracing.channels.new(int(size)) for size in call.output.shape)


def native_dropout(tracing: Tracing, call: Call) -> list[AxisLabels]:
    """Output and mask are labelled as the input."""
    return [tracing.axes(call.tensors[0])] * len(call.outputs)


RULES: dict[str, Rule] = {
    # Operators that are pointwise although not every version of torch tags them so.
    **each(
        "hardswish_ hardswish hardsigmoid_ hardtanh_ relu6 _prelu_kernel where masked_fill "
        "masked_fill_ clone _to_copy detach alias lift_fresh contiguous bernoulli bernoulli_ "
        "rand_like zeros_like ones_like empty_like full_like dropout rsub copy_ abs_ mish_ gelu_ "
        "threshold_ log_sigmoid_forward rrelu_with_noise rrelu_with_noise_ "
        "floor_divide floor_divide_ randn_like randint_like normal_ uniform_ exponential_ complex "
        "polar",
        elementwise,
    ),
    **each("fill_ zero_", fill),
    **each("new_empty new_zeros new_ones new_full", new_tensor),
    **each("resize_", resize),
    **each("native_dropout", native_dropout),
}
