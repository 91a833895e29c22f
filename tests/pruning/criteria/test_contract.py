"""What every criterion promises, on networks with every kind of group."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from architectures import BY_NAME, IMAGE, Architecture
from networks import attributes, chain, conv, randomised
from torch import Tensor, nn

import pruning
from pruning import ChannelGraph, criteria, to_sigmoid_batchnorm
from pruning.criteria import Criterion
from pruning.errors import CriterionError


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """A mean over samples for outputs of any shape."""
    return (outputs.flatten(1).square().mean(1) * (1 + targets)).mean()


class Judging:
    """Has all methods of a criterion, and is none."""

    def covers(self, _model: nn.Module, graph: ChannelGraph) -> tuple[str, ...]:
        return tuple(group.name for group in graph.prunable)

    def score(self, model: nn.Module, graph: ChannelGraph, _batches: object) -> dict[str, Tensor]:
        return criteria.Random(0).score(model, graph)


TAKERS: dict[str, Callable[[nn.Module, Any], object]] = {
    "prune": lambda model, criterion: pruning.prune(
        model, torch.zeros(IMAGE), "flops=50%", criterion=criterion
    ),
    "iterative": lambda model, criterion: pruning.IterativePruner(
        model, torch.zeros(IMAGE), criterion, pruning.Budget.parse("flops=50%")
    ),
    "together": lambda model, criterion: criteria.score_together(
        {"one": criterion}, model, pruning.trace(model, torch.zeros(IMAGE)), []
    ),
}
"""Whatever is given a criterion."""


@pytest.mark.parametrize("take", TAKERS.values(), ids=TAKERS)
@pytest.mark.parametrize(
    ("thing", "said"),
    [
        (object(), "got one of object: take one of those there"),
        (0, "got one of int: "),
        (Judging(), "got one of Judging: "),
        ("taylor", "got one of str: "),
        (criteria.Taylor, r"got the class Taylor: write Taylor\(\)$"),
    ],
)
def test_what_is_no_criterion_is_refused_in_one_line(
    take: Callable[[nn.Module, Any], object], thing: object, said: str
) -> None:
    expected = f"^a criterion must be an instance of pruning.criteria.*Criterion, {said}"
    with pytest.raises(CriterionError, match=expected) as error:
        take(chain(first=conv(3, 8), last=conv(8, 4)), thing)
    assert "\n" not in str(error.value)


@dataclass(frozen=True)
class Case:
    """A criterion and what it claims.

    is_non_negative: no score is below zero.
    vanishes: a channel scores exactly zero whose outgoing weights are zero.
    follows_order: scores move with the channels.
    needs_data: labelled minibatches.
    on_sigmoid: judges σBN only.
    """

    name: str
    make: Callable[[], Criterion]
    is_non_negative: bool = True
    vanishes: bool = True
    follows_order: bool = True
    needs_data: bool = True
    on_sigmoid: bool = False

    def __str__(self) -> str:
        return self.name


def data_free(name: str, make: Callable[[], Criterion], **claims: bool) -> Case:
    return Case(name, make, needs_data=False, vanishes=False, **claims)


SPECIAL = (
    data_free("sigmoid scale", criteria.SigmoidScale, on_sigmoid=True),
    data_free("batch norm scale", criteria.BatchNormScale),
    data_free("L1", lambda: criteria.WeightMagnitude(1)),
    data_free("L2", lambda: criteria.WeightMagnitude(2)),
    data_free("random", lambda: criteria.Random(3), follows_order=False),
    Case("Fisher", lambda: criteria.Fisher(loss=loss)),
    Case(
        "Fisher and FLOPs",
        lambda: criteria.Fisher(1e-4, loss=loss),
        is_non_negative=False,
        vanishes=False,
    ),
    Case("OBD", lambda: criteria.Obd(loss), is_non_negative=False),
)
"""Criteria with arguments of their own, or that claim less than `usual` takes for granted."""


def usual(kind: type[Criterion]) -> Case:
    """A criterion that claims all there is to claim: of the loss if it takes one."""
    parameters = inspect.signature(kind).parameters
    needed = [p.name for p in parameters.values() if p.default is p.empty and p.name != "loss"]
    assert not needed, f"{kind.__name__} needs {', '.join(needed)}: give it a case in SPECIAL"
    if "loss" not in parameters:
        return data_free(kind.__name__, kind)
    return Case(kind.__name__, functools.partial(kind, loss=loss))


EXPORTED = [
    kind
    for kind in vars(criteria).values()
    if inspect.isclass(kind) and issubclass(kind, Criterion) and not inspect.isabstract(kind)
]
_SPECIAL_KINDS = {type(case.make()) for case in SPECIAL}
CASES = (*SPECIAL, *(usual(kind) for kind in EXPORTED if kind not in _SPECIAL_KINDS))
"""Every criterion of the package: a new one is held to the contract as soon as it is exported."""
NETWORKS = [
    BY_NAME[name]
    for name in (
        "chain",
        "identity shortcut",
        "dense block",
        "squeeze-excitation",
        "channel shuffle",
        "group normalisation",
        "transposed, few wide groups",
        "linear after flatten",
        "attention",
        "caches on itself",
    )
]


def network(
    case: Case, architecture: Architecture, dtype: torch.dtype = torch.float32
) -> nn.Module:
    model = architecture.make()
    if case.on_sigmoid:
        model = to_sigmoid_batchnorm(model)
    return randomised(model, 1).to(dtype)


PAIRS = [
    pytest.param(case, architecture, id=f"{case}, {architecture}")
    for case in CASES
    for architecture in NETWORKS
    if case.make().covers(network(case, architecture), architecture.graph)
]
everywhere = pytest.mark.parametrize(("case", "architecture"), PAIRS)
of_all = pytest.mark.parametrize("case", CASES, ids=str)


def batches(
    architecture: Architecture, dtype: torch.dtype = torch.float32
) -> list[tuple[Tensor, Tensor]]:
    """Two minibatches of unequal size."""
    generator = torch.Generator().manual_seed(2)
    shape = architecture.example().shape[1:]
    return [
        (
            torch.randn(size, *shape, generator=generator, dtype=torch.float64).to(dtype),
            torch.randint(0, 3, (size,), generator=generator),
        )
        for size in (3, 2)
    ]


def scores_of(
    case: Case, model: nn.Module, architecture: Architecture, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    data = batches(architecture, dtype) if case.needs_data else []
    return case.make().score(model, architecture.graph, data)


@everywhere
def test_one_finite_score_per_channel_of_what_it_covers(
    case: Case, architecture: Architecture
) -> None:
    model, graph = network(case, architecture), architecture.graph
    covered, scores = case.make().covers(model, graph), scores_of(case, model, architecture)
    assert tuple(scores) == covered
    assert covered == tuple(g.name for g in graph.prunable if g.name in covered)
    for name, values in scores.items():
        group = graph.group(name)
        assert values.shape == (group.width,)
        assert values.isfinite().all()
        assert not values.requires_grad
        for unit in range(group.num_units):
            assert len(values[torch.from_numpy(group.unit_of_channel == unit)].unique()) == 1
    together = torch.cat(list(scores.values()))
    assert len(together.unique()) > 1
    assert (together >= 0).all() or not case.is_non_negative


@everywhere
def test_scores_repeat_and_leave_the_network_as_it_was(
    case: Case, architecture: Architecture
) -> None:
    model = network(case, architecture).train()
    frozen, *others = model.parameters()
    frozen.requires_grad_(False)
    next(iter(model.children())).eval()
    for parameter in others:
        parameter.grad = torch.full_like(parameter, 7.0)
    before, random = copy.deepcopy(model), torch.get_rng_state()
    gradients = [parameter.grad for parameter in model.parameters()]
    first, second = (scores_of(case, model, architecture) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(torch.get_rng_state(), random)
    assert [m.training for m in model.modules()] == [m.training for m in before.modules()]
    state = model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in before.state_dict().items())
    for after, gradient in zip(model.parameters(), gradients, strict=True):
        assert after.grad is gradient
        assert gradient is None or (gradient == 7).all()
        assert after.requires_grad == (after is not frozen)
    assert attributes(model) == attributes(before)


@everywhere
def test_scores_move_with_the_channels(case: Case, architecture: Architecture) -> None:
    if not case.follows_order:
        pytest.skip("claims no such thing")
    graph = architecture.graph
    model = network(case, architecture, torch.float64)
    orders = {
        group.name: np.random.default_rng(4).permutation(group.num_units)
        for group in graph.prunable
    }
    moved = permuted(model, graph, orders)
    (inputs, _), _ = batches(architecture, torch.float64)
    torch.testing.assert_close(moved.eval()(inputs), model.eval()(inputs))
    before = scores_of(case, model, architecture, torch.float64)
    after = scores_of(case, moved, architecture, torch.float64)
    for name, values in before.items():
        first = [
            graph.group(name).unit_of_channel.tolist().index(u) for u in range(len(orders[name]))
        ]
        torch.testing.assert_close(after[name][first], values[first][orders[name]])


@everywhere
def test_channels_that_nothing_consumes_score_zero(case: Case, architecture: Architecture) -> None:
    if not case.vanishes:
        pytest.skip("claims no such thing")
    graph, model = architecture.graph, network(case, architecture)
    dead = {graph.index(group.name): group.num_units - 1 for group in graph.prunable}
    consumed = {n for a in graph.axes if a.is_input for n in a.groups.tolist()}
    parameters = dict(model.named_parameters())
    for axis in graph.axes:
        for number, unit in dead.items():
            here = np.flatnonzero((axis.groups == number) & (axis.units == unit))
            if axis.is_input == (number in consumed) and axis.tensor in parameters:
                parameters[axis.tensor].data.index_fill_(axis.axis, torch.from_numpy(here), 0)
    for name, values in scores_of(case, model, architecture).items():
        group = graph.group(name)
        is_dead = torch.from_numpy(group.unit_of_channel == dead[graph.index(name)])
        assert (values[is_dead] == 0).all()
        assert (values[~is_dead] != 0).any()


@pytest.mark.parametrize(
    ("case", "architecture"),
    [pair for pair in PAIRS if str(pair.values[1]) in ("chain", "dense block", "attention")],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_scores_have_the_networks_dtype_if_it_is_exact(
    case: Case, architecture: Architecture, dtype: torch.dtype
) -> None:
    exact = scores_of(case, network(case, architecture), architecture)
    scores = scores_of(case, network(case, architecture, dtype), architecture, dtype)
    for name, values in scores.items():
        assert values.dtype == torch.promote_types(dtype, torch.float32)
        if dtype == torch.float64:
            torch.testing.assert_close(values, exact[name].double(), rtol=1e-2, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@everywhere
def test_scores_are_on_the_networks_device(case: Case, architecture: Architecture) -> None:
    model = network(case, architecture, torch.float64)
    expected = scores_of(case, model, architecture, torch.float64)
    data = [(x.cuda(), y.cuda()) for x, y in batches(architecture, torch.float64)]
    random = torch.cuda.get_rng_state()
    scores = case.make().score(model.cuda(), architecture.graph, data if case.needs_data else [])
    assert torch.equal(torch.cuda.get_rng_state(), random)
    for name, values in scores.items():
        assert values.device.type == "cuda"
        torch.testing.assert_close(values.cpu(), expected[name])


@of_all
def test_missing_data_or_labels_are_one_clear_error(case: Case) -> None:
    architecture = NETWORKS[0]
    model = network(case, architecture)
    images = torch.zeros(2, 3, 8, 8)
    if not case.needs_data:
        assert case.make().score(model, architecture.graph)
        return
    with pytest.raises(CriterionError, match="data"):
        case.make().score(model, architecture.graph)
    for unlabelled in (images, (images, None), (images,)):
        with pytest.raises(CriterionError, match="needs labelled data: batch 0 is not a pair"):
            case.make().score(model, architecture.graph, [unlabelled])  # type: ignore[list-item]


@of_all
def test_nothing_to_score_is_one_clear_error(case: Case) -> None:
    architecture = BY_NAME["size written into a reshape"]
    model = network(case, architecture)
    assert case.make().covers(model, architecture.graph) == ()
    with pytest.raises(CriterionError):
        scores_of(case, model, architecture)


def permuted(
    model: nn.Module,
    graph: ChannelGraph,
    orders: dict[str, np.ndarray[tuple[int], np.dtype[np.int64]]],
) -> nn.Module:
    """A copy with the units of each group in another order; its outputs are the same."""
    result = copy.deepcopy(model)
    tensors = {**dict(result.named_parameters()), **dict(result.named_buffers())}
    for axis in graph.axes:
        if axis.tensor not in tensors:
            continue
        source = np.arange(len(axis.groups))
        for name, order in orders.items():
            for unit, origin in enumerate(order):
                number = graph.index(name)
                here = (axis.groups == number) & (axis.units == unit)
                source[here] = np.flatnonzero((axis.groups == number) & (axis.units == origin))
        tensor = tensors[axis.tensor]
        tensor.data = tensor.data.index_select(axis.axis, torch.from_numpy(source))
    return result


@of_all
def test_it_judges_by_the_loss_that_it_is_given(case: Case) -> None:
    """A copy does; those that look at no loss are themselves."""
    criterion = case.make()
    other = criterion.by_loss(lambda outputs, targets: loss(outputs, targets) * 2)
    assert (other is criterion) == (not case.needs_data)
    if case.needs_data:
        assert vars(other) == vars(criterion) | {"loss": vars(other)["loss"]}
        assert vars(other)["loss"] is not vars(criterion)["loss"]
