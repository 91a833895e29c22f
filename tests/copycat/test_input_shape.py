"""What a network reads, as a value and in a file."""

from __future__ import annotations

import importlib.resources
import json
from typing import Any

import jsonschema
import pytest
import torch
from torch import Tensor

from copycat import InputForm, TensorForm, input_shape_of
from copycat.input_shape import example_of, from_content, random_of, shape_text, to_content
from pruning.errors import ArchitectureError

TOKENS = torch.tensor([[3, 9, 0]])
EXAMPLES: dict[str, Any] = {
    "image": torch.randn(1, 3, 8, 8),
    "signal": torch.randn(1, 2, 50),
    "row": torch.randn(1, 9),
    "volume": torch.randn(1, 1, 4, 4, 4),
    "several samples": torch.randn(2, 9),
    "tokens": TOKENS,
    "positional": (torch.randn(1, 9), TOKENS, None, True, 0.5),
    "keyword": {"image": torch.randn(1, 3, 8, 8).double(), "mask": torch.tensor([True])},
    "list": [torch.randn(3, 8, 9), torch.randn(3, 7, 8)],
    "nested": ({"a": (torch.randn(1, 2),), "mode": "train"}, [TOKENS.to(torch.uint8)]),
    "scalar": (torch.randn(1, 9), torch.tensor(4.0)),
}


def same_kind(value: Any, other: Any) -> bool:
    if isinstance(value, Tensor):
        return value.shape == other.shape and value.dtype == other.dtype
    if isinstance(value, dict):
        return value.keys() == other.keys() and all(same_kind(value[k], other[k]) for k in value)
    if isinstance(value, tuple | list):
        return type(value) is type(other) and all(map(same_kind, value, other))
    return bool(value == other)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_comes_back_in_its_form(name: str) -> None:
    """Through JSON that meets the schema, with zeros or the highest number for values."""
    example = EXAMPLES[name]
    shape = input_shape_of(example)
    content = json.loads(json.dumps(to_content(shape)))
    text = (importlib.resources.files("copycat") / "architecture.schema.json").read_text()
    whole = json.loads(text)
    jsonschema.validate(content, {"$defs": whole["$defs"], **whole["properties"]["input_shape"]})
    assert from_content(content) == shape
    assert same_kind(example, example_of(shape))
    assert same_kind(example, random_of(shape, torch.float32, 0))


def test_one_tensor_of_fractions_has_the_short_form() -> None:
    """In the dtype of the weights, as every folder had it that was written before."""
    assert input_shape_of(torch.zeros(1, 3, 8, 8)) == (3, 8, 8)
    assert to_content((3, 8, 8)) == [3, 8, 8]
    assert torch.equal(example_of((3, 8, 8), torch.half), torch.zeros(1, 3, 8, 8).half())
    assert isinstance(input_shape_of(torch.zeros(1, 3, dtype=torch.int64)), InputForm)


def test_whole_numbers_stay_within_those_of_the_example() -> None:
    shape = input_shape_of((TOKENS, torch.tensor([[True] * 3])))
    assert shape == InputForm((TensorForm((1, 3), "int64", 9), TensorForm((1, 3), "bool", 1)))
    tokens, mask = example_of(shape)
    assert tokens.tolist() == [[9, 9, 9]]
    assert mask.all()
    drawn = torch.cat([random_of(shape, torch.float32, seed)[0] for seed in range(40)])
    assert set(drawn.flatten().tolist()) == set(range(10))


def test_what_a_probe_is_drawn_from_depends_on_the_seed_alone() -> None:
    shape = input_shape_of(EXAMPLES["positional"])
    first, again = (random_of(shape, torch.float32, 3) for _ in range(2))
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], random_of(shape, torch.float32, 4)[0])


def test_shapes_in_words() -> None:
    assert shape_text((3, 8, 8)) == "3×8×8"
    assert shape_text(input_shape_of(EXAMPLES["keyword"])) == "1×3×8×8 float64 and 1 bool"


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (torch.zeros(1, 3, dtype=torch.complex64), "tensors of float64, .*got torch.complex64"),
        ((torch.zeros(1, 3), object()), "numbers and texts, got object"),
        ({1: torch.zeros(1, 3)}, "have texts for keys, got 1"),
    ],
)
def test_examples_that_no_file_can_describe(example: Any, message: str) -> None:
    with pytest.raises(ArchitectureError, match=message):
        InputForm.of(example)
