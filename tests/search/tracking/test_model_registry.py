"""Which networks MLflow's registry takes."""

from __future__ import annotations

import pytest
import torch

from copycat import input_shape_of
from pruning.errors import ConfigError
from search.tracking.model_registry import require_registrable


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 50), (9,)])
def test_networks_of_one_tensor_are_taken(shape: tuple[int, ...]) -> None:
    require_registrable(input_shape_of(torch.zeros(1, *shape)))


@pytest.mark.parametrize(
    ("example", "words"),
    [
        ((torch.zeros(1, 3), torch.zeros(1, 4)), "1×3 float32 and 1×4 float32"),
        (torch.zeros(1, 3, dtype=torch.int64), "1×3 int64"),
    ],
)
def test_others_are_refused_before_anything_is_trained(example: object, words: str) -> None:
    with pytest.raises(ConfigError, match=f"can serve, not {words}: leave it") as caught:
        require_registrable(input_shape_of(example))  # type: ignore[arg-type]
    assert caught.value.field == "register"
