"""What fvcore counts of a network, with rules for what it leaves out or rounds.

FLOPs in eval mode at batch 1, where one fused multiply-add is one FLOP.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from pruning.cost import Cost, ExampleInput, call_arguments
from pruning.einsum_products import einsum_products
from pruning.errors import TraceError, first_line
from pruning.lazy_imports import lazy_modules
from pruning.networks.copies import copied, moved
from pruning.networks.state_outside import state_outside_kept
from pruning.networks.tensor_calls import OfTensors
from pruning.networks.wrappers import unwrapped

fvcore, jit_handles = lazy_modules("fvcore.nn", "fvcore.nn.jit_handles")

# fvcore leaves these out by intention; only operators that multiply matrices are worth a note.
_COSTLY_OPERATORS = ("attention", "matmul", "mm", "conv", "lstm", "gru")


def _count_padded_by_name(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
    """fvcore's rule for convolutions, for those with padding="same", which it leaves out."""
    shapes = [jit_handles.get_shape(value) for value in (inputs[0], inputs[1], outputs[0])]
    return int(jit_handles.conv_flop_count(*shapes))


def _count_matmul(inputs: Sequence[Any], _outputs: Sequence[Any]) -> int:
    """fvcore's rule for matrix products, for those with a vector too, at which it fails."""
    first, second = map(jit_handles.get_shape, inputs)
    return int(math.prod(first)) * int(second[-1] if len(second) > 1 else 1)


def _count_einsum(inputs: Sequence[Any], _outputs: Sequence[Any]) -> int:
    """fvcore's count of two operands, which it rounds to four digits; more from left to right."""
    shapes = [jit_handles.get_shape(value) for value in inputs[1].node().inputs()]
    names, products = einsum_products(inputs[0].toIValue(), list(map(len, shapes)))
    sizes: dict[str, int] = {}
    for axes, shape in zip(names, shapes, strict=True):
        for name, size in zip(axes, shape, strict=True):
            sizes[name] = max(size, sizes.get(name, 1))
    return sum(math.prod(sizes[name] for name in product) for product in products)


def _counted(model: nn.Module, example_input: ExampleInput) -> tuple[int, Counter[str]]:
    """FLOPs of a copy, and how often each operator occurs that fvcore cannot count."""
    twin = copied(model).eval()
    network = OfTensors(twin, *call_arguments(moved(example_input, None)))
    analysis = fvcore.FlopCountAnalysis(network, network.tensors)
    analysis.set_op_handle("aten::_convolution_mode", _count_padded_by_name)
    analysis.set_op_handle("aten::matmul", _count_matmul, "aten::einsum", _count_einsum)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    analysis.tracer_warnings("none")
    # Where nothing needs gradients, a transformer takes one fused operator, which nobody counts.
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.enable_grad(), state_outside_kept(twin):
            return int(analysis.total()), analysis.unsupported_ops()
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def measure_cost(model: nn.Module, example_input: ExampleInput) -> Cost:
    """Cost of `model` as fvcore counts it, in eval mode, run as a copy; `model` is left as it was.

    example_input: N×… tensors with N = 1, or a tuple of positional arguments, or a mapping of
        keyword arguments.
    Its notes name what fvcore leaves out; how much that is, where it can be worked out, is in those
    of `trace(…).cost()`.
    Raises TraceError for a network that fvcore cannot count.
    """
    model = unwrapped(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fvcore and torch.jit warn of their own age
        try:
            with torch.inference_mode(False):  # inside of it, torch's tracer sees nothing at all
                flops, uncounted = _counted(model, example_input)
        except Exception as error:  # of torch's tracer, or of the network under it
            raise TraceError(
                f"fvcore cannot count {type(model).__name__}: {first_line(error)} (it reads what "
                "torch.jit.trace records; graph.cost() counts without it)"
            ) from error
    notes = tuple(
        f"fvcore does not count {name} ({times} calls; the cost of a trace says how much)"
        for name, times in sorted(uncounted.items())
        if any(part in name for part in _COSTLY_OPERATORS)
    )
    num_params = sum(parameter.numel() for parameter in model.parameters())
    stored = (*model.parameters(), *model.buffers())
    weight_bytes = sum(tensor.numel() * tensor.element_size() for tensor in stored)
    return Cost(flops, num_params, notes, weight_bytes)
