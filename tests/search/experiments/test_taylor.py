"""The experiments of Molchanov et al. at the smoke scale."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from samples import with_slow


@pytest.mark.parametrize(
    "name", with_slow(("figure2",), slow=("figure3", "figure4", "table1", "table2", "table3"))
)
def test_smoke(smoke: Callable[[str], str], name: str):
    smoke(f"taylor/{name}")
