"""RNI against eq. 4 of Suteu and Guo, at points that can be worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from pruning import SigmoidBatchNorm2d
from pruning.errors import ConfigError, CriterionError
from pruning.regularizers import RNI


def model_of(gamma: list[float] | Tensor, dtype: torch.dtype = torch.float64) -> nn.Module:
    values = torch.as_tensor(gamma, dtype=dtype)
    norm = SigmoidBatchNorm2d(len(values)).to(dtype)
    with torch.no_grad():
        norm.weight.copy_(values)
    return nn.Sequential(nn.Conv2d(3, len(values), 1), norm)


def gradient(regularizer: RNI, model: nn.Module) -> Tensor:
    (found,) = torch.autograd.grad(regularizer(model), [model[1].weight])  # type: ignore[index]
    return found


def test_the_value_where_s_is_one_half() -> None:
    """γ + b = 0: s·(1 − log s) = (1 + log 2) / 2."""
    for shift in (0.0, 1.5, -2.0):
        value = RNI(1.0, shift)(model_of([-shift]))
        assert value.item() == pytest.approx((1 + math.log(2)) / 2, rel=1e-14)


def test_values_by_hand() -> None:
    """γ = log 3: s = 3/4.  γ = −log 3: s = 1/4."""
    at = {3 / 4: math.log(3), 1 / 4: -math.log(3)}
    for s, gamma in at.items():
        value = RNI(1.0)(model_of([gamma]))
        assert value.item() == pytest.approx(s * (1 - math.log(s)), rel=1e-14)


def test_the_gradient_is_minus_log_s_times_that_of_the_sigmoid() -> None:
    """∂/∂s = −log s, so ∂/∂γ = −log(s)·s·(1 − s)."""
    for gamma in (-3.0, -0.5, 0.0, 0.5, 3.0):
        for shift in (-1.0, 0.0, 2.0):
            s = 1 / (1 + math.exp(-gamma - shift))
            found = gradient(RNI(1.0, shift), model_of([gamma]))
            assert found.item() == pytest.approx(-math.log(s) * s * (1 - s), rel=1e-12)


def test_the_pull_recedes_from_important_channels() -> None:
    """The force on s, −log s, is always towards 0 and falls as s grows."""
    gamma = torch.linspace(-6, 6, 25, dtype=torch.float64)
    s = gamma.sigmoid()
    force = gradient(RNI(1.0), model_of(gamma)) / (s * (1 - s))
    assert (force > 0).all()
    assert (force[1:] < force[:-1]).all()


def test_it_sums_over_every_channel_of_every_layer() -> None:
    two = nn.ModuleList([model_of([0.0, 1.0]), model_of([-1.0])])
    parts = [RNI(1.0)(model_of([gamma])).item() for gamma in (0.0, 1.0, -1.0)]
    assert RNI(1.0)(two).item() == pytest.approx(sum(parts), rel=1e-14)


def test_a_shift_is_added_to_gamma() -> None:
    assert RNI(1.0, 1.25)(model_of([0.5])).item() == RNI(1.0)(model_of([1.75])).item()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_extreme_gamma_is_stable(dtype: torch.dtype) -> None:
    """s = σ(−60) ≈ e⁻⁶⁰ gives 61·e⁻⁶⁰; σ(60) gives 1; no gradient is NaN or infinite."""
    model = model_of([60.0, -60.0], dtype)
    tail = 61 * math.exp(-60)
    assert RNI(1.0)(model).item() == pytest.approx(1, abs=1e-6)
    assert RNI(1.0)(model_of([-60.0], dtype)).item() == pytest.approx(tail, rel=1e-5)
    found = gradient(RNI(1.0), model)
    assert torch.isfinite(found).all()
    assert found.dtype == dtype
    assert found.double().abs().max() < 1e-20


def test_half_precision_is_summed_in_single() -> None:
    """Ten thousand halves: float16 could not even hold the sum's units."""
    value = RNI(1.0)(model_of(torch.zeros(10_001), torch.float16))
    assert value.item() == pytest.approx(10_001 * (1 + math.log(2)) / 2, rel=1e-6)


def test_a_network_without_sigmoid_batch_norms_is_refused() -> None:
    message = "Conv2d has no sigmoid batch normalisation.*pruning.to_sigmoid_batchnorm"
    with pytest.raises(CriterionError, match=message):
        RNI(1.0)(nn.Conv2d(3, 4, 1))


@pytest.mark.parametrize("shift", [math.inf, -math.inf, math.nan])
def test_shifts_that_are_refused(shift: float) -> None:
    with pytest.raises(ConfigError, match=f"the shift of RNI must be a number, got {shift}"):
        RNI(1.0, shift)
