"""The experiments of Crowley et al. at the smoke scale, and the sizes of their families."""

from __future__ import annotations

from collections.abc import Callable


def test_smoke(smoke: Callable[[str], str], of_paper: str):
    smoke(of_paper)


def test_both_families_have_a_member_of_every_size(smoke: Callable[[str], str]):
    page = smoke("copycat/counts")
    assert "| yes | yes | all 40 numbers, to the last digit that the paper prints |" in page
