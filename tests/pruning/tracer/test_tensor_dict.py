"""What is known of a tensor, which goes with it."""

from __future__ import annotations

import gc
import weakref

import torch
from torch import Tensor

from pruning.networks.garbage_collection import collection_paused
from pruning.tracer.tensor_dict import TensorDict


def test_tensors_are_told_apart_by_identity() -> None:
    first, second = torch.zeros(2), torch.zeros(2)
    values: TensorDict[str] = TensorDict()
    values[first] = "first"
    assert first in values
    assert second not in values
    assert first.view(2) not in values
    assert (values.get(first), values.get(second), values.get(second, "")) == ("first", None, "")
    values[first], values[second] = "again", "second"
    assert values[first] == "again"
    assert [(tensor is first, value) for tensor, value in values.items()] == [
        (True, "again"),
        (False, "second"),
    ]


def test_a_value_can_be_forgotten_and_given_again() -> None:
    tensor = torch.zeros(2)
    values: TensorDict[int] = TensorDict()
    values[tensor] = 1
    values.discard(tensor)
    values.discard(torch.zeros(2))
    assert tensor not in values
    assert list(values.items()) == []
    values[tensor] = 2
    assert values[tensor] == 2


def test_values_go_with_their_tensors() -> None:
    """Another tensor, which may be made in the same place, has none."""
    values: TensorDict[int] = TensorDict()
    kept = torch.zeros(2)
    values[kept] = -1
    for number in range(1000):
        tensor = torch.zeros(2)
        assert tensor not in values
        values[tensor] = number
        if number % 3 == 0:  # it goes when cycles are looked for
            cycle = [tensor]
            cycle.append(cycle)  # type: ignore[arg-type]
            del cycle
        del tensor
    gc.collect()
    assert [(tensor is kept, value) for tensor, value in values.items()] == [(True, -1)]


def test_a_tensor_that_torch_alone_holds_keeps_its_value() -> None:
    holder = torch.nn.Parameter(torch.zeros(2))
    holder.grad = torch.ones(2)
    values: TensorDict[str] = TensorDict()
    values[holder.grad] = "gradient"
    gc.collect()
    assert values[holder.grad] == "gradient"


def test_nothing_has_to_be_collected_afterwards() -> None:
    tensor = torch.zeros(2)
    values: TensorDict[Tensor] = TensorDict()
    values[tensor] = value = torch.zeros(2)
    kept = weakref.ref(value)
    with collection_paused():
        del values, value
        assert kept() is None
