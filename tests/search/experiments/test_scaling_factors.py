"""The experiments of Haider and Taj at the smoke scale."""

from __future__ import annotations

from collections.abc import Callable


def test_smoke(smoke: Callable[[str], str], of_paper: str):
    smoke(of_paper)
