"""The experiments of RNI at the smoke scale, and the numbers that need no training."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from search.experiments.drawings import penalty_gradient


def test_smoke(smoke: Callable[[str], str], of_paper: str):
    smoke(of_paper)


def test_flops_of_ucs_and_sizes_of_mobilenets_come_out_exactly(smoke: Callable[[str], str]):
    page = smoke("rni/counts")
    assert "| yes | yes | all 10 numbers, to the last digit that the paper prints |" in page
    assert "| yes | yes | all 7 numbers, to the last digit that the paper prints |" in page


@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_the_gradient_of_the_penalty_is_its_closed_form(shift: float):
    """∂R/∂γ = −log s · s · (1 − s) with s = σ(γ + b)."""
    for importance, gradient, _ in penalty_gradient(shift):
        s = (torch.tensor(importance, dtype=torch.float64).logit() + shift).sigmoid()
        assert gradient == pytest.approx(float(-s.log() * s * (1 - s)))


def test_a_larger_shift_moves_the_peak_to_lower_importances():
    peaks = [max(penalty_gradient(b), key=lambda point: point[1])[0] for b in (0, 1, 2, 3)]
    assert peaks == sorted(peaks, reverse=True)
    assert len(set(peaks)) == 4
