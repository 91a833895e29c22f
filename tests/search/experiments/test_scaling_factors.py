"""The experiments of Haider and Taj at the smoke scale."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from samples import with_slow


@pytest.mark.parametrize("number", with_slow((1,), slow=range(2, 8)))
def test_smoke(smoke: Callable[[str], str], number: int):
    smoke(f"scaling_factors/table{number}")
