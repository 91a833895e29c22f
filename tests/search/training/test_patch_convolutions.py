"""Convolutions as products against torch's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from search.training import patch_convolutions as module
from search.training.patch_convolutions import patches, patching

CPU = torch.device("cpu")


def gradients(convolution: nn.Conv2d, images: torch.Tensor, *, patched: bool):
    images = images.clone().requires_grad_(True)
    if patched:
        with patching(convolution, CPU)():
            output = convolution(images)
    else:
        output = convolution(images)
    weighting = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    wanted = [images, *convolution.parameters()]
    return output, *torch.autograd.grad((output * weighting).sum(), wanted)


@pytest.mark.parametrize("size", [(2, 2), (4, 4), (3, 5), (7, 7)])
@pytest.mark.parametrize(
    "form",
    [(3, 1, 1, True), (3, 2, 1, False), (2, 1, 0, True), ((3, 1), 1, 0, False), (5, 2, 2, True)],
)
def test_outputs_and_gradients_are_torchs(size, form, monkeypatch):
    kernel, stride, padding, bias = form
    rows = []
    monkeypatch.setattr(module, "patches", lambda *given: (rows.append(1), patches(*given))[1])
    convolution = nn.Conv2d(64, 5, kernel, stride, padding, bias=bias).double()
    height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
    if size[0] + 2 * padding < height or size[1] + 2 * padding < width:
        pytest.skip("larger than the image")
    images = torch.randn(3, 64, *size, dtype=torch.float64)
    images = images.contiguous(memory_format=torch.channels_last)
    expected = gradients(convolution, images, patched=False)
    assert not rows
    found = gradients(convolution, images, patched=True)
    assert bool(rows) == (expected[0].shape[2] * expected[0].shape[3] <= 16)
    for one, two in zip(found, expected, strict=True):
        assert torch.allclose(one, two)


@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv2d(64, 64, 3, groups=64, padding=1),
        nn.Conv2d(64, 8, 3, dilation=2, padding=2),
        nn.Conv2d(64, 8, 1),
        nn.Conv2d(8, 8, 3),
        nn.Conv2d(64, 8, 3, padding="same"),
        nn.Conv2d(64, 8, (3, 5), padding=(1, 2)),
    ],
    ids=str,
)
def test_others_stay_torchs(convolution, monkeypatch):
    monkeypatch.setattr(module, "patches", lambda *_: pytest.fail("a product"))
    images = torch.randn(2, convolution.in_channels, 4, 4)
    expected = gradients(convolution, images, patched=False)
    for one, two in zip(gradients(convolution, images, patched=True), expected, strict=True):
        assert torch.equal(one, two)


def test_on_other_devices_nothing_changes(monkeypatch):
    monkeypatch.setattr(module, "_convolution", lambda *_: pytest.fail("a product"))
    convolution = nn.Conv2d(64, 8, 3, padding=1)
    with patching(convolution, torch.device("cuda"))():
        convolution(torch.randn(2, 64, 4, 4))


def test_checkpointed_layers_run_again_as_they_ran():
    layer = nn.Conv2d(64, 8, 3, padding=1)
    images = torch.randn(2, 64, 4, 4, requires_grad=True)
    with patching(layer, CPU)():
        checkpoint(layer, images, use_reentrant=False).sum().backward()
    assert images.grad is not None
