"""Networks that keep things in global variables, in classes and behind caches of functions."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from networks import conv
from torch import Tensor, nn

from pruning import KeepPlan, measure_cost, remove_channels, trace
from pruning.networks.state_outside import state_outside_kept

IMAGE = torch.zeros(1, 3, 8, 8)
POSITIONS: dict[Any, Any] = {}
SEEN: list[Any] = []
LAST: Tensor | None = None


def positions(x: Tensor) -> Tensor:
    return torch.arange(x.shape[-1], device=x.device, dtype=x.dtype) / 7


@functools.lru_cache
def cached_positions(size: int, device: torch.device) -> Tensor:
    return torch.arange(size, device=device) / 7


@functools.cache
def of_channels(size: int, device: torch.device) -> Tensor:
    return torch.ones(size, 1, 1, device=device)


class Positions(nn.Module):
    by_size: ClassVar[dict[int, Tensor]] = {}
    last: ClassVar[Tensor | None] = None
    number: ClassVar[int] = 0

    def __init__(self, kept: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.kept = kept
        self.first, self.head = conv(3, 6), conv(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.head(x + self.kept(x))


def in_a_dictionary(x: Tensor) -> Tensor:
    key = (x.shape[-1], x.device)
    if key not in POSITIONS:
        POSITIONS[key] = (positions(x), "of the last axis")
    return POSITIONS[key][0]


def in_a_list(x: Tensor) -> Tensor:
    if not SEEN:
        SEEN.append(positions(x))
    return SEEN[0]


def in_a_variable(x: Tensor) -> Tensor:
    global LAST  # noqa: PLW0603 - as networks may do
    if LAST is None:
        LAST = positions(x)
    return LAST


def in_a_class(x: Tensor) -> Tensor:
    if x.shape[-1] not in Positions.by_size:
        Positions.by_size[x.shape[-1]] = positions(x)
    return Positions.by_size[x.shape[-1]]


def in_an_attribute(x: Tensor) -> Tensor:
    if Positions.last is None:
        Positions.last = positions(x)
    return Positions.last


def behind_a_cache(x: Tensor) -> Tensor:
    return cached_positions(x.shape[-1], x.device)


def by_the_number_of_channels(x: Tensor) -> Tensor:
    return of_channels(x.shape[1], x.device)


KEPT = [
    in_a_dictionary,
    in_a_list,
    in_a_variable,
    in_a_class,
    in_an_attribute,
    behind_a_cache,
    by_the_number_of_channels,
]
every_place = pytest.mark.parametrize("kept", KEPT, ids=lambda function: function.__name__)


@pytest.fixture(autouse=True)
def _nothing_is_kept() -> None:
    global LAST  # noqa: PLW0603 - as networks may do
    LAST = Positions.last = None
    for collection in (POSITIONS, SEEN, Positions.by_size):
        collection.clear()
    for cache in (cached_positions, of_channels):
        cache.cache_clear()


@every_place
@pytest.mark.parametrize("is_warm", [False, True])
def test_a_network_that_ran_before_is_as_free_as_one_that_never_did(
    kept: Callable[[Tensor], Tensor], is_warm: bool
) -> None:
    model = Positions(kept)
    if is_warm:
        model(IMAGE)
    graph = trace(model, IMAGE)
    assert graph.group("first").pinned is None
    smaller = remove_channels(model, graph, KeepPlan({"first": (0, 2)}))
    assert smaller(IMAGE).shape == model(IMAGE).shape


@every_place
def test_nothing_is_left_outside_of_the_network(kept: Callable[[Tensor], Tensor]) -> None:
    trace(Positions(kept), IMAGE)
    assert (POSITIONS, SEEN, LAST) == ({}, [], None)
    assert (Positions.by_size, Positions.last) == ({}, None)
    assert cached_positions.cache_info().currsize == of_channels.cache_info().currsize == 0


def test_what_was_there_before_stays() -> None:
    model = Positions(in_a_dictionary)
    with torch.no_grad():
        model(IMAGE)
    before = dict(POSITIONS)
    trace(model, torch.zeros(1, 3, 12, 12))
    measure_cost(model, IMAGE)
    assert list(POSITIONS) == list(before)
    assert all(POSITIONS[key] is value for key, value in before.items())


def test_all_is_as_before_after_an_error() -> None:
    def run() -> None:
        Positions.last = torch.zeros(1)
        SEEN.append((1, torch.zeros(1)))
        raise KeyError

    with pytest.raises(KeyError), state_outside_kept(Positions(in_a_list)):
        run()
    assert Positions.last is None
    assert SEEN == []


def test_what_others_write_down_meanwhile_stays() -> None:
    """Such as a list of the file that the network is written in, which is told of progress."""
    with state_outside_kept(Positions(in_a_class)):
        SEEN.append("half done")
        Positions.number = 1
    assert SEEN == ["half done"]
    assert Positions.number == 1
    Positions.number = 0
