"""Remembered results of operators against those that are worked out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pruning.tracer import meta_kernels
from pruning.tracer.meta_kernels import MetaKernels, kernels_of

aten = torch.ops.aten


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def described(result: Any) -> Any:
    if isinstance(result, Tensor):
        return (result.shape, result.stride(), result.dtype, result.device.type)
    return [described(item) for item in result]


@pytest.mark.parametrize(
    ("func", "args"),
    [
        (aten.relu.default, (meta(2, 3, 4).transpose(1, 2),)),
        (aten.add.Tensor, (meta(2, 3), meta(3, dtype=torch.float64))),
        (aten.cat.default, ([meta(2, 3), meta(2, 5)], 1)),
        (aten.mean.dim, (meta(2, 3, 4), [1], True)),
        (
            aten.native_batch_norm.default,
            (meta(1, 3, 4, 4), *[meta(3) for _ in range(4)], False, 0.1, 1e-5),
        ),
        (aten.native_layer_norm.default, (meta(2, 5, 3), [3], meta(3), meta(3), 1e-5)),
        (aten.view.default, (meta(2, 6), [3, 4])),
        (aten.split.Tensor, (meta(6, 2), 4)),
    ],
    ids=lambda value: str(value) if not isinstance(value, tuple) else "",
)
def test_what_is_remembered_is_what_is_worked_out(func: Any, args: tuple[Any, ...]) -> None:
    kernels = MetaKernels()
    results = [kernels(func, args, {}) for _ in range(3)]
    assert [described(result) for result in results] == [described(func(*args))] * 3
    assert results[1] is not results[2]


def test_arguments_that_only_look_equal() -> None:
    kernels, x = MetaKernels(), meta(2, dtype=torch.int64)
    results = [kernels(aten.add.Scalar, (x, number), {}).dtype for number in (1, 1.0, True)]
    assert results == [torch.int64, torch.float32, torch.int64]
    sums = [kernels(aten.sum.default, (x,), {"dtype": t}).dtype for t in (None, torch.float64)]
    assert sums == [torch.int64, torch.float64]


def test_what_works_in_place_returns_its_argument() -> None:
    kernels = MetaKernels()
    for _ in range(3):
        x, y = meta(2, 3), meta(2, 3)
        assert kernels(aten.add_.Tensor, (x, y), {}) is x
        kernels(aten.squeeze_.default, (z := meta(1, 3),), {})
        assert z.shape == (3,)


class Kernels(TorchDispatchMode):
    """Notes which kernels are run."""

    def __init__(self) -> None:
        super().__init__()
        self.run: list[Any] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.run.append(func)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("training", [False, True])
def test_what_is_known_of_one_width_takes_no_kernel_at_another(*, training: bool) -> None:
    """Such kernels are Python, and take most of a trace's time."""
    kernels = MetaKernels()

    def calls(width: int) -> list[tuple[Any, tuple[Any, ...]]]:
        x, channels = meta(2, width, 4, 4), [meta(width) for _ in range(4)]
        pooled, kernel = meta(2, width, 1, 1), meta(6, width, 3, 3)
        return [
            (aten.hardtanh_.default, (x, 0.0, 6.0)),
            (aten.hardswish_.default, (x,)),
            (aten.mul.Tensor, (x, pooled)),
            (aten.mul_.Tensor, (x, pooled)),
            (aten.mean.dim, (x, [-1, -2], True)),
            (aten.addmm.default, (meta(3), meta(2, width), meta(3, width).t())),
            (aten.cat.default, ([x, x, pooled.expand(2, width, 4, 4).contiguous()], 1)),
            (aten.convolution.default, (x, kernel, None, [2], [1], [1], False, [0], 1)),
            (aten.native_batch_norm.default, (x, *channels, training, 0.1, 1e-5)),
        ]

    for func, args in calls(3):
        kernels(func, args, {})
    for func, args in calls(5):
        with Kernels() as seen:
            result = kernels(func, args, {})
        assert func not in seen.run
        assert described(result) == described(func(*args))


def test_a_refused_call_is_refused_again() -> None:
    kernels = MetaKernels()
    for _ in range(2):
        with pytest.raises(RuntimeError):
            kernels(aten.mm.default, (meta(2, 3), meta(4, 5)), {})


def test_values_are_computed() -> None:
    kernels = MetaKernels()
    for value in (1.0, 2.0):
        assert kernels(aten.exp.default, (torch.tensor(value).log(),), {}).item() == value


def vectors(width: int, number: int) -> list[Tensor]:
    return [meta(width) for _ in range(number)]


_PADDED = None, [2, 1], [1, 1], [1, 2], False, [0, 0]


@pytest.mark.parametrize(
    ("func", "args_at"),
    [
        (aten.relu.default, lambda n: (meta(2, n, 4),)),
        (aten.hardtanh.default, lambda n: (meta(2, n, dtype=torch.float64), 0, 6)),
        (aten.gt.Tensor, lambda n: (meta(2, n), meta(2, n, dtype=torch.int64))),
        (aten.add.Tensor, lambda n: (meta(2, n, 1, 1), meta(2, n, 5, 5))),
        (aten.add.Tensor, lambda n: (meta(n), meta(n, dtype=torch.float64))),
        (aten.add.Tensor, lambda n: (meta(2, n), meta(n, 2).t())),
        (aten.mul.Scalar, lambda n: (meta(n, dtype=torch.int64), 2.0)),
        (
            aten.native_batch_norm.default,
            lambda n: (meta(1, n, 4, 4), *vectors(n, 4), False, 0.1, 1e-5),
        ),
        (
            aten.native_batch_norm.default,
            lambda n: (meta(2, n), None, None, *vectors(n, 2), True, 0.1, 1e-5),
        ),
        (
            aten.native_batch_norm.default,
            lambda n: (meta(2, n, 3).transpose(1, 2), *vectors(3, 4), True, 0.1, 1e-5),
        ),
        (
            aten.native_layer_norm.default,
            lambda n: (meta(2, 5, n, 3), [n, 3], meta(n, 3), None, 1e-5),
        ),
        (aten.add.Tensor, lambda n: (meta(2, 1, n), meta(3, 1))),
        (aten.div.Tensor, lambda n: (meta(n, 1, 1), meta(1, n, 4, 4, dtype=torch.int64))),
        (aten.add_.Tensor, lambda n: (meta(2, n, 4), meta(n, 1))),
        (aten.hardswish_.default, lambda n: (meta(2, n).t(),)),
        (aten.mean.dim, lambda n: (meta(2, n, 4, 4), [-1, -2])),
        (aten.mean.dim, lambda n: (meta(2, n, 4), [1], True)),
        (aten.mean.dim, lambda n: (meta(2, n), [])),
        (aten.convolution.default, lambda n: (meta(1, n, 7, 5), meta(4, n, 3, 2), *_PADDED, 1)),
        (aten.convolution.default, lambda n: (meta(1, n, 5, 4), meta(n, 1, 3, 2), *_PADDED, n)),
        (aten.convolution.default, lambda n: (meta(1, 2, 5, 4), meta(n, 2, 1, 1), *_PADDED, 1)),
        (
            aten.convolution.default,
            lambda n: (meta(1, n, 5), meta(n, 3, 2), meta(3), [2], [0], [1], True, [1], 1),
        ),
        (
            aten.convolution.default,
            lambda n: (meta(1, n, 7, 4).transpose(2, 3), meta(5, n, 1, 1), *_PADDED, 1),
        ),
        (aten.addmm.default, lambda n: (meta(n), meta(2, 5), meta(5, n))),
        (aten.addmm.default, lambda n: (meta(3), meta(2, n), meta(3, n).t())),
        (aten.addmm.default, lambda n: (meta(2, n), meta(2, 5), meta(5, n))),
        (aten.cat.default, lambda n: ([meta(2, n, 4), meta(2, 3, 4)], 1)),
        (aten.cat.default, lambda n: ([meta(n, 2), meta(n, 2, dtype=torch.float64)], -1)),
        (aten.cat.default, lambda n: ([meta(n), meta(2)],)),
        (aten.cat.default, lambda n: ([meta(0), meta(2, n)], 1)),
        (aten.cat.default, lambda n: ([meta(2, n).t(), meta(n, 3)], 1)),
    ],
)
def test_another_width_is_worked_out_alike(
    func: Any, args_at: Callable[[int], tuple[Any, ...]]
) -> None:
    kernels = MetaKernels()
    for width in (6, 3, 1, 4):
        args = args_at(width)
        assert described(kernels(func, args, {})) == described(func(*args))


def test_sizes_that_do_not_fit_are_refused_at_another_width() -> None:
    kernels = MetaKernels()
    numbers = False, 0.1, 1e-5
    calls = (
        (aten.native_batch_norm.default, lambda n: (meta(1, 4, 2), *vectors(n, 4), *numbers)),
        (aten.native_layer_norm.default, lambda n: (meta(2, 4), [n], *vectors(n, 2), 1e-5)),
        (aten.addmm.default, lambda n: (meta(3), meta(2, 4), meta(n, 3))),
        (aten.mul_.Tensor, lambda n: (meta(2, 4), meta(n))),
        (aten.cat.default, lambda n: ([meta(2, 4), meta(2, n)], 0)),
        (aten.convolution.default, lambda n: (meta(1, n, 5, 5), meta(3, 4, 1, 1), *_PADDED, 1)),
    )
    for func, args_at in calls:
        kernels(func, args_at(4), {})
        with pytest.raises((RuntimeError, IndexError)):
            kernels(func, args_at(5), {})


def test_traces_share_them_while_the_default_type_is_the_same() -> None:
    """What is made of integers has torch's default type."""
    halves = []
    for default in (torch.float32, torch.float64, torch.float32):
        kernels = kernels_of(default)
        torch.set_default_dtype(default)
        try:
            halves.append(kernels(aten.div.Tensor, (meta(2, dtype=torch.int64),) * 2, {}).dtype)
        finally:
            torch.set_default_dtype(torch.float32)
    assert halves == [torch.float32, torch.float64, torch.float32]
    with Kernels() as seen:
        kernels_of(torch.float32)(aten.div.Tensor, (meta(2, dtype=torch.int64),) * 2, {})
    assert aten.div.Tensor not in seen.run


def test_not_more_is_remembered_than_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meta_kernels, "_MOST_KNOWN", 3)
    kernels = MetaKernels()
    for width in range(1, 9):
        args = (meta(width, 2).t(),)
        assert described(kernels(aten.relu.default, args, {})) == described(aten.relu(*args))
        assert len(kernels._known) <= 3
