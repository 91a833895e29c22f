"""The table of rules itself; what the rules do is tested by the networks that need them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision  # noqa: F401 - registers its operators
from networks import between

from pruning import trace
from pruning.errors import TraceError
from pruning.graph.operators import RULES


@pytest.mark.parametrize("name", sorted(RULES))
def test_every_rule_is_for_an_operator_that_exists(name: str) -> None:
    assert name.partition("::")[0] in ("aten", "torchvision")
    assert torch._C._jit_get_schemas_for_operator(name)


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        (lambda tracing, call: tracing.axes(call.args[0])[1:], "labels of [3] axes for outputs"),
        (lambda tracing, call: [], "labels of [] axes for outputs of [4]"),
        (lambda tracing, call: call.args[9], "IndexError: tuple index out of range"),
    ],
)
def test_a_rule_that_fails_is_named(
    monkeypatch: pytest.MonkeyPatch, rule: Callable[..., Any], reason: str
) -> None:
    monkeypatch.setitem(RULES, "aten::flip", rule)
    with pytest.raises(TraceError, match="the rule of the operator aten::flip fails") as error:
        trace(between(lambda x: x.flip(-1)), torch.zeros(1, 3, 8, 8))
    assert reason in str(error.value)
