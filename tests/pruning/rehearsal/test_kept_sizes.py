"""Numbers of channels in attributes of modules: which are found, and what becomes of them."""

from __future__ import annotations

import torch
from networks import Branches, chain, conv
from torch import Tensor, nn
from torch.nn import functional as F

from pruning import KeepPlan, remove_channels, trace

IMAGE = torch.zeros(1, 3, 8, 8)


class Sliced(nn.Module):
    """Convolves the first channels alone (FasterNet)."""

    def __init__(self, part: int) -> None:
        super().__init__()
        self.part = part
        self.layer = conv(part, part)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.layer(x[:, : self.part]), x[:, self.part :]], 1)


class Rows(nn.Module):
    """Reshapes to as many columns as it keeps, which it keeps as the number of something else."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = self.repeats = width

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(2).transpose(1, 2).reshape(len(x), 8, 8, self.width)
        return rows.permute(0, 3, 1, 2) * self.repeats


class Stages(nn.Module):
    """Keeps a number that is as large as the first part by chance, in front of its own sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.repeats, self.passed, self.convolved = 3, 3, 6
        self.layer = conv(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.split([self.passed, self.convolved], 1)
        for _ in range(self.repeats):
            right = right.relu()
        return torch.cat([left, self.layer(right)], 1)


class SlicedWeight(nn.Conv2d):
    """Two convolutions whose weights are parts of one, of sizes that it keeps (OctConv)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1, bias=False)
        self.high, self.low = outputs // 3, outputs - outputs // 3

    def forward(self, x: Tensor) -> Tensor:
        high = F.conv2d(x, self.weight[: self.high], padding=1)
        low = F.conv2d(F.avg_pool2d(x, 2), self.weight[-self.low :], padding=1)
        return torch.cat([high, F.interpolate(low, scale_factor=2)], 1)


class Turned(nn.Module):
    """Heads of a width that it keeps, of which queries are turned by angles of that number."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 4
        self.query, self.value, self.last = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        query, value = (
            layer(x).view(*x.shape[:2], 2, self.width).transpose(1, 2)
            for layer in (self.query, self.value)
        )
        query = query * torch.arange(self.width, device=x.device).cos()
        weights = (query @ query.transpose(-1, -2)).softmax(-1)
        return self.last((weights @ value).transpose(1, 2).flatten(2).mean(1))


def test_who_reads_before_a_step_that_fails_for_another_stays_free() -> None:
    model = chain(enter=nn.Linear(5, 8), turned=Turned())
    graph = trace(model, torch.zeros(1, 6, 5))
    assert [group.name for group in graph.prunable] == ["enter"]
    assert graph.group("turned.value").pinned is not None


def test_a_number_that_is_as_large_by_chance_stays() -> None:
    model = chain(first=conv(3, 9), stages=Stages(), last=conv(9, 4))
    graph = trace(model, IMAGE)
    assert [g.name for g in graph.prunable] == ["first", "first.1", "stages.layer"]
    smaller = remove_channels(model, graph, KeepPlan({"first": (0,), "first.1": (0, 2)}))
    stages = smaller.stages
    assert (stages.repeats, stages.passed, stages.convolved) == (3, 1, 2)


def test_both_parts_of_what_is_sliced_lose_channels() -> None:
    model = chain(first=conv(3, 9), sliced=Sliced(2), last=conv(9, 4))
    graph = trace(model, IMAGE)
    assert {g.name: g.width for g in graph.prunable} == {
        "first": 2,
        "first.1": 7,
        "sliced.layer": 2,
    }
    plan = KeepPlan({"first": (0,), "first.1": (0, 3, 4), "sliced.layer": (1,)})
    smaller = remove_channels(model, graph, plan)
    assert (smaller.sliced.part, model.sliced.part) == (1, 2)
    assert smaller(IMAGE).shape == (1, 4, 8, 8)


def test_parts_of_a_weight_lose_channels_apart() -> None:
    model = chain(first=conv(3, 6), both=SlicedWeight(6, 10), last=conv(10, 4))
    graph = trace(model, IMAGE)
    widths = {group.name: group.width for group in graph.prunable}
    assert widths == {"first": 6, "both": 3, "both.1": 7}
    plan = KeepPlan({"first": (0, 1), "both": (0, 2), "both.1": (3,)})
    smaller = remove_channels(model, graph, plan)
    assert (smaller.both.high, smaller.both.low, smaller.both.out_channels) == (2, 1, 3)
    assert smaller(IMAGE).shape == (1, 4, 8, 8)


def test_only_the_number_that_the_code_reshapes_by_follows_the_channels() -> None:
    model = chain(first=conv(3, 6), rows=Rows(6), last=conv(6, 4))
    graph = trace(model, IMAGE)
    smaller = remove_channels(model, graph, KeepPlan({"first": (0, 1)}))
    assert (smaller.rows.width, smaller.rows.repeats) == (2, 6)


def test_a_number_of_a_module_around_the_one_that_runs_is_found() -> None:
    model = Branches(
        lambda net, x: net.last(net.image(net.first(x).flatten(1))),
        first=conv(3, 6),
        image=Reshaped(),
        last=conv(6, 4),
    )
    model.width = 6
    model.image.around = [model]
    graph = trace(model, IMAGE)
    assert [group.name for group in graph.prunable] == ["first"]
    smaller = remove_channels(model, graph, KeepPlan({"first": (0, 4, 5)}))
    assert smaller.width == 3
    assert smaller(IMAGE).shape == (1, 4, 8, 8)


class Reshaped(nn.Module):
    """Reads a number of the module around it."""

    around: list[nn.Module]

    def forward(self, x: Tensor) -> Tensor:
        return x.view(len(x), self.around[0].width, 8, 8)


def test_a_number_that_scales_values_pins_the_channels() -> None:
    model = Branches(
        lambda net, x: net.last(net.first(x).view(1, net.width, 8, 8) / net.width),
        first=conv(3, 6),
        last=conv(6, 4),
    )
    model.width = 6
    (group,) = (group for group in trace(model, IMAGE).groups if group.name == "first")
    assert "computed from the number of channels" in str(group.pinned)
    (group,) = trace(model, IMAGE, exact=False).prunable
    assert "computed from the number of channels" in str(group.inexact)
