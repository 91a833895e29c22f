"""The experiments of Haider and Taj at the smoke scale."""

from __future__ import annotations

from collections.abc import Callable

import pytest


@pytest.mark.parametrize("number", range(1, 8))
def test_smoke(smoke: Callable[[str], str], number: int):
    smoke(f"scaling_factors/table{number}")
