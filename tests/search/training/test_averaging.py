"""The running average against its definition and torch's AveragedModel."""

from __future__ import annotations

import io

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from search.training.averaging import AveragedWeights


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def walk(model: nn.Module, step: int) -> None:
    """Other weights and statistics, as training leaves them."""
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))
    model(torch.randn(4, 3, generator=generator))


def decay_of(limit: float, step: int) -> float:
    return min(limit, (1 + step) / (10 + step))


@pytest.mark.parametrize("limit", [0.0, 0.5, 0.99])
def test_the_average_is_that_of_the_definition_and_of_torch(limit: float):
    model = network()
    kept = AveragedWeights(model, limit)
    expected = {name: value.clone().double() for name, value in model.state_dict().items()}
    torchs = AveragedModel(
        model,
        avg_fn=lambda average, now, count: torch.lerp(now, average, decay_of(limit, int(count))),
    )
    torchs.n_averaged += 1  # so that it begins with the first weights, not with those of step 1
    for step in range(1, 30):
        walk(model, step)
        kept.update()
        torchs.update_parameters(model)
        share = decay_of(limit, step)
        for name, value in model.state_dict().items():
            expected[name] = share * expected[name] + (1 - share) * value
    kept.swap()
    for name, value in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            assert value == 29
        else:
            assert torch.allclose(value.double(), expected[name], atol=1e-5), name
    for own, theirs in zip(model.parameters(), torchs.module.parameters(), strict=True):
        assert torch.allclose(own, theirs, atol=1e-5)


def test_swapping_twice_changes_nothing_and_parameters_stay_the_same_objects():
    model = network()
    kept = AveragedWeights(model, 0.9)
    walk(model, 1)
    kept.update()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    parameters = list(model.parameters())
    kept.swap()
    assert not torch.equal(model[0].weight, before["0.weight"])
    kept.swap()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(one is two for one, two in zip(parameters, model.parameters(), strict=True))


def test_an_average_goes_on_from_its_state():
    model = network()
    whole = AveragedWeights(model, 0.9)
    other = AveragedWeights(model, 0.9)
    for step in range(1, 4):
        walk(model, step)
        whole.update()
        other.update()
    file = io.BytesIO()
    torch.save(other.state_dict(), file)
    file.seek(0)
    rest = AveragedWeights(model, 0.9)
    rest.load_state_dict(torch.load(file, weights_only=True))
    walk(model, 4)
    whole.update()
    rest.update()
    for one, two in zip(whole.state_dict()["kept"], rest.state_dict()["kept"], strict=True):
        assert torch.equal(one, two)
