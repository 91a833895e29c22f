"""The penalties as functions of scales: by hand, by finite differences, and at their edges."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pruning.regularizers.penalties import (
    Penalty,
    hoyer_square,
    l1,
    polarization,
    receding,
    receding_from_log,
)

PENALTIES: dict[str, Penalty] = {
    "l1": l1,
    "polarization": partial(polarization, t=1.2),
    "hoyer_square": hoyer_square,
    "receding": receding,
    "receding_from_log": lambda x: receding_from_log(-x),
}
every_penalty = pytest.mark.parametrize("penalty", PENALTIES.values(), ids=PENALTIES)


def scales(*values: float, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(values, dtype=dtype, requires_grad=True)


def gradient(penalty: Penalty, x: Tensor) -> list[float]:
    (found,) = torch.autograd.grad(penalty(x), [x])
    assert found.dtype == x.dtype
    return found.tolist()


def test_l1_by_hand() -> None:
    x = scales(1, -2, 0)
    assert l1(x).item() == 3
    assert gradient(l1, x) == [1, -1, 0]


def test_polarization_by_hand() -> None:
    """mean = 2; Σ|x| = 6; Σ|x − 2| = 1 + 2 + 3 = 6, with signs −, −, + of mean −1/3."""
    x = scales(1, 0, 5)
    assert polarization(x, 1.5).item() == pytest.approx(1.5 * 6 - 6)
    third = 1 / 3
    assert gradient(partial(polarization, t=1.5), x) == pytest.approx(
        [1.5 + 1 - third, 0 + 1 - third, 1.5 - 1 - third]
    )


def test_polarization_takes_the_mean_of_signed_scales() -> None:
    """mean = 0, so that both distances are 3."""
    assert polarization(scales(3, -3), 1).item() == 0
    assert polarization(scales(3, 3), 1).item() == 6


def test_polarization_of_scales_in_an_interval_is_least_at_its_ends() -> None:
    at_ends, halfway, all_low = scales(0, 0, 1, 1), scales(0.5, 0.5, 0.5, 0.5), scales(0, 0, 0, 0)
    values = [polarization(x, 0.5).item() for x in (at_ends, halfway, all_low)]
    assert values == [1 - 2, 1, 0]


@given(st.lists(st.floats(-3, 3), min_size=2, max_size=8).filter(lambda x: max(map(abs, x)) > 1e-3))
def test_hoyer_square_is_the_quotient_of_its_definition(values: list[float]) -> None:
    expected = sum(map(abs, values)) ** 2 / sum(v * v for v in values)
    found = hoyer_square(scales(*values)).item()
    assert found == pytest.approx(expected, rel=1e-12)
    assert 1 - 1e-12 <= found <= len(values) * (1 + 1e-12)


def test_hoyer_square_by_hand() -> None:
    """(1 + 3)² / 10; ∂/∂x_i = 2·S·sign/Q − 2·S²·x_i/Q² = 0.8·sign − 0.32·x_i."""
    x = scales(1, -3)
    assert hoyer_square(x).item() == pytest.approx(1.6)
    assert gradient(hoyer_square, x) == pytest.approx([0.8 - 0.32, -0.8 + 0.96])


@pytest.mark.parametrize("factor", [1e-30, 1e-6, 1e6, 1e30])
def test_hoyer_square_keeps_its_value_at_any_scale(factor: float) -> None:
    """The squares alone leave the range of single precision."""
    x = scales(1 * factor, -3 * factor, dtype=torch.float32)
    assert hoyer_square(x).item() == pytest.approx(1.6, rel=1e-6)
    assert gradient(hoyer_square, x) == pytest.approx([0.48 / factor, 0.16 / factor], rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_hoyer_square_of_zeros_is_zero(dtype: torch.dtype) -> None:
    x = scales(0, 0, 0, dtype=dtype)
    assert hoyer_square(x).item() == 0
    assert gradient(hoyer_square, x) == [0, 0, 0]


def test_hoyer_square_lets_the_last_channel_be() -> None:
    """The value is 1 whatever x is; with no scale left to shrink it has no slope."""
    for size in (1e-20, 0.3, 1.0, 2.0, 1e20):
        assert hoyer_square(scales(0, size)).item() == pytest.approx(1)
        assert gradient(hoyer_square, scales(0, size)) == [0, 0]


def test_receding_by_hand() -> None:
    """s·(1 − log s) at 1, 1/2 and 1/e; its slope is −log s."""
    x = scales(1, 0.5, 1 / math.e)
    assert receding(x).item() == pytest.approx(1 + (1 + math.log(2)) / 2 + 2 / math.e)
    assert gradient(receding, x) == pytest.approx([0, math.log(2), 1], abs=1e-15)


def test_receding_of_zero_is_zero_with_a_finite_pull() -> None:
    x = scales(0, dtype=torch.float32)
    assert receding(x).item() == 0
    (pull,) = gradient(receding, x)
    assert 80 < pull < 100


def test_both_forms_of_receding_agree() -> None:
    s = torch.linspace(0.01, 0.99, 20, dtype=torch.float64)
    assert receding_from_log(s.log()).item() == pytest.approx(receding(s).item(), rel=1e-14)


@every_penalty
def test_first_and_second_derivatives_by_finite_differences(penalty: Penalty) -> None:
    x = scales(0.2, 0.9, 0.45, 0.7, 0.33)
    assert torch.autograd.gradcheck(penalty, [x])
    assert torch.autograd.gradgradcheck(penalty, [x])


@every_penalty
def test_order_and_shape_do_not_matter(penalty: Penalty) -> None:
    x = scales(0.2, 0.9, 0.45, 0.7, 0.33, 0.8)
    value = penalty(x)
    assert value.shape == ()
    assert penalty(x.flip(0)).item() == pytest.approx(value.item(), rel=1e-14)
    assert penalty(x.reshape(2, 3)).item() == pytest.approx(value.item(), rel=1e-14)


@every_penalty
def test_one_element_is_enough(penalty: Penalty) -> None:
    assert penalty(scales(0.5)).isfinite()


@every_penalty
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(penalty: Penalty, dtype: torch.dtype) -> None:
    """Thousands of halves of which one is different: no half could hold the sum's units."""
    x = torch.full((10_001,), 0.5, dtype=dtype)
    x[0] = 0.25
    value = penalty(x)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(penalty(x.double()).item(), rel=1e-4)
