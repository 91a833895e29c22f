"""Expressions of layers, sources of classes, and their layout."""

from __future__ import annotations

import ast
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from copycat.python_source.class_source import UnwritableError, seen_by_fx, written
from copycat.python_source.expression import Bracketed, render
from copycat.python_source.layer_source import is_stock, layer_expression
from pruning.errors import ArchitectureError

LAYERS = [
    "nn.Conv2d(3, 12, 3, padding=1, bias=False)",
    "nn.Conv2d(4, 8, (1, 7), stride=2, padding=(0, 3), groups=4, padding_mode='circular')",
    "nn.Conv2d(4, 8, 3, padding='same')",
    "nn.ConvTranspose2d(4, 8, 3, output_padding=1, stride=2)",
    "nn.Conv1d(4, 8, 3, dilation=2)",
    "nn.BatchNorm2d(12)",
    "nn.BatchNorm2d(12, eps=0.001, momentum=None, affine=False)",
    "nn.BatchNorm2d(12, track_running_stats=False)",
    "nn.Linear(5, 4, bias=False)",
    "nn.ReLU(inplace=True)",
    "nn.MaxPool2d(2)",
    "nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True)",
    "nn.AvgPool2d((2, 2), count_include_pad=False)",
    "nn.AdaptiveAvgPool2d((1, 1))",
    "nn.Dropout(p=0.2)",
    "nn.GroupNorm(2, 4, affine=False)",
    "nn.LayerNorm((4,), bias=False)",
    "nn.PReLU(num_parameters=4)",
    "nn.LeakyReLU(negative_slope=0.1)",
    "nn.Flatten(start_dim=2)",
    "nn.Upsample(scale_factor=2.0, mode='bilinear')",
    "nn.Identity()",
    "nn.GELU(approximate='tanh')",
]


@pytest.mark.parametrize("expression", LAYERS)
def test_a_layer_is_written_as_it_was_made(expression: str) -> None:
    layer = eval(expression)
    assert is_stock(layer)
    found = eval(layer_expression(layer))
    assert repr(found) == repr(layer)
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (found, layer)]
    assert shapes[0] == shapes[1]
    arguments = [
        sorted(ast.unparse(a) for a in call_arguments(e))
        for e in (expression, layer_expression(layer))
    ]
    assert arguments[0] == arguments[1]


def call_arguments(expression: str) -> list[ast.AST]:
    call = ast.parse(expression, mode="eval").body
    assert isinstance(call, ast.Call)
    return [*call.args, *call.keywords]


def test_only_torchs_own_layers_are_stock() -> None:
    class Conv2d(nn.Conv2d):
        pass

    assert not is_stock(Conv2d(1, 1, 1))
    assert not is_stock(nn.Sequential(nn.ReLU()))
    assert not is_stock(nn.MultiheadAttention(4, 2))


def test_a_layer_that_its_arguments_do_not_make_is_refused() -> None:
    layer = nn.Linear(4, 4)
    layer.weight = nn.Parameter(torch.zeros(3, 4))
    with pytest.raises(ArchitectureError, match="cannot be written as Python"):
        layer_expression(layer)
    with pytest.raises(ArchitectureError, match="cannot be written as Python"):
        layer_expression(nn.Linear(4, 4).double())


FACTOR = 2.0


def twice(x: Tensor) -> Tensor:
    return FACTOR * x if x.dim() else twice(x[None])


class Leaning(nn.Module):
    """Leans on a module, a function and a constant, a method, an attribute and a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.power = nn.Linear(4, 4), 3
        self.unused = object()

    def forward(self, x: Tensor) -> Tensor:
        assert self.training or math.pi > 3
        return self.raised(twice(F.relu(self.layer(x))))

    @torch.jit.export
    def raised(self, x: Tensor) -> Tensor:
        """To its power."""
        power: int = self.power
        return x**power

    def reset_parameters(self) -> None:
        """Not needed by forward."""


def test_a_class_brings_all_that_its_forward_needs() -> None:
    source = written(Leaning())
    assert list(source.functions) == ["forward", "raised"]
    assert source.functions["forward"].startswith("def forward(self, x):\n    assert")
    assert set(source.attributes) == {"layer", "power"}
    assert source.imports == {"import math", "from torch.nn import functional as F"}
    assert list(source.definitions) == ["FACTOR", "twice"]
    assert source.definitions["FACTOR"] == "FACTOR = 2.0"
    assert not source.in_evaluation


STATE = [0.0]


class LeaningOnState(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + STATE[0]


def test_a_class_that_leans_on_changing_things_is_seen_by_fx() -> None:
    with pytest.raises(UnwritableError, match="'STATE' stands for a list"):
        written(LeaningOnState())
    source = seen_by_fx(LeaningOnState())
    assert "x + 0.0" in source.functions["forward"]
    assert source.in_evaluation


def test_long_expressions_are_broken_at_their_brackets() -> None:
    inner = Bracketed("f(", (("a=", "1"), ("", "2")), ")")
    assert render(inner, 0, 0) == "f(a=1, 2)"
    outer = Bracketed("g(", (("x=", inner), ("", "y" * 80)), ")")
    assert render(outer, 4, 0) == f"g(\n        x=f(a=1, 2),\n        {'y' * 80},\n    )"
