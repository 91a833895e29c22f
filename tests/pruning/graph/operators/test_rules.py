"""The table of rules itself; what the rules do is tested by the networks that need them."""

from __future__ import annotations

import pytest
import torch
import torchvision  # noqa: F401 - registers its operators

from pruning.graph.operators import RULES


@pytest.mark.parametrize("name", sorted(RULES))
def test_every_rule_is_for_an_operator_that_exists(name: str) -> None:
    assert name.partition("::")[0] in ("aten", "torchvision")
    assert torch._C._jit_get_schemas_for_operator(name)
