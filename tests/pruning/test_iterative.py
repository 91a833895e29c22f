"""Iterative pruning: its pace, its trajectory, real removal on the way, and going on again."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from architectures import BY_NAME
from torch import Tensor, nn
from torch.nn import functional as F

from pruning import (
    Budget,
    ChannelGraph,
    Restrictions,
    Rules,
    measure_cost,
    removal_order,
    trace,
)
from pruning.criteria import (
    BatchNormScale,
    Criterion,
    FirstOrderCriterion,
    Fisher,
    GradientMoments,
    Oracle,
    Random,
    SigmoidScale,
    Taylor,
    TaylorSecondOrder,
    WeightMagnitude,
)
from pruning.errors import ConfigError, CriterionError, UnreachableBudgetError
from pruning.iterative import FISHER_PACE, IterativePruner, Pace, Removable

EXAMPLE = torch.zeros(1, 3, 6, 6)
A = Removable(groups=("a",))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.a = nn.Conv2d(8, 10, 3, padding=1)
        self.b = nn.Conv2d(10, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = x + self.b(F.relu(self.a(x)))
        return self.head(x.mean((2, 3)))


def network() -> Residual:
    torch.manual_seed(0)
    return Residual()


def batches(count: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    for number in range(start, start + count):
        generator = torch.Generator().manual_seed(number)
        images = torch.randn(8, 3, 6, 6, generator=generator)
        yield images, torch.randint(0, 4, (8,), generator=generator)


def sgd(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)


def advance(
    pruner: IterativePruner,
    optimizer: torch.optim.Optimizer,
    data: Iterator[tuple[Tensor, Tensor]],
    after: Callable[[], None] = lambda: None,
) -> None:
    """The loop of the module's docstring."""
    pruner.network.train()
    for images, labels in data:
        with pruner.watching(len(images)):
            F.cross_entropy(pruner.network(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        pruner.after_step(optimizer)
        after()


def pruner_of(model: nn.Module, budget: str = "params=40%", **options: Any) -> IterativePruner:
    settings = {"criterion": Taylor(), "pace": Pace(2, 3, 2)} | options
    return IterativePruner(
        model, EXAMPLE, settings.pop("criterion"), Budget.parse(budget), **settings
    )


@pytest.mark.parametrize(
    "name",
    [
        "attention heads by size",
        "attention heads of a width that is kept",
    ],
)
def test_heads_go_one_after_the_other_until_one_is_left(name: str) -> None:
    """Which does not show any more how its channels would go."""
    architecture = BY_NAME[name]
    model, example = architecture.network(), architecture.example()
    (group,) = (g.name for g in architecture.graph.prunable if g.unit > 1)
    least = architecture.graph.cost({group: architecture.graph.group(group).unit})
    pruner = IterativePruner(
        model,
        example,
        WeightMagnitude(2),
        Budget.parse(f"params={least.params}"),
        Pace(1, 1, surgery_every=1),
        removable=Removable((group,), Rules(min_channels=1)),
    )
    optimizer = sgd(pruner.network)
    while not pruner.is_finished:
        pruner.network(example).sum().backward()
        pruner.after_step(optimizer)
    left = pruner.finish(optimizer)
    assert measure_cost(left, example).params == least.params
    assert left(example).shape == model(example).shape


def test_a_network_comes_out_within_budget_without_gates_and_as_it_was_gated() -> None:
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pruner = pruner_of(model, pace=Pace(2, 3, surgery_every=100))
    optimizer = sgd(pruner.network)
    gated: list[Tensor] = []

    def look() -> None:
        pruner.network.eval()
        gated.append(pruner.network(torch.ones(1, 3, 6, 6)))
        pruner.network.train()

    advance(pruner, optimizer, batches(60), look)
    smaller = pruner.finish(optimizer)
    assert pruner.is_finished
    torch.testing.assert_close(smaller.eval()(torch.ones(1, 3, 6, 6)), gated[-1])
    limits = Budget.parse("params=40%").absolute(measure_cost(model, EXAMPLE))
    assert limits.allows(measure_cost(smaller, EXAMPLE))
    assert type(smaller) is Residual
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("criterion", [Taylor(), WeightMagnitude()], ids=["taylor", "magnitude"])
def test_a_fixed_criterion_judges_once(criterion: Criterion) -> None:
    """Molchanov et al., fig. 4: what the network becomes meanwhile makes no difference."""
    kept = []
    for scrambled in (False, True):
        pruner = pruner_of(network(), criterion=criterion.fixed(), pace=Pace(3, 1, 2))
        optimizer, ((images, labels),) = sgd(pruner.network), batches(1)
        for step in range(4):
            if step and scrambled:
                for weight in pruner.network.parameters():
                    weight.data.copy_(torch.randn(weight.shape))
            with pruner.watching(len(images)):
                F.cross_entropy(pruner.network(images), labels).backward()
            pruner.after_step(optimizer)
            optimizer.zero_grad()
        kept.append(pruner.plan.keep)
    assert kept[0] == kept[1]


def test_what_channels_were_last_judged_by_is_kept_also_of_those_that_are_gone() -> None:
    """By scales that do not change, so that all of them are known beforehand."""
    model = network()
    scales = torch.linspace(1.0, 0.3, 8)
    model.norm.weight.data = scales
    removable = Removable(groups=("stem",), rules=Rules(min_channels=1))
    pruner = pruner_of(
        model, "channels=50%", criterion=BatchNormScale(), pace=Pace(2, 1), removable=removable
    )
    assert pruner.scores == {}
    optimizer = torch.optim.SGD(pruner.network.parameters(), lr=1e-9)
    seen: list[Tensor] = []
    advance(pruner, optimizer, batches(2), lambda: seen.append(pruner.scores["stem"]))
    assert pruner.is_finished
    torch.testing.assert_close(seen, [scales, scales])
    again = pruner_of(
        model, "channels=50%", criterion=BatchNormScale(), pace=Pace(2, 1), removable=removable
    )
    again.load_state_dict(pruner.state_dict())
    torch.testing.assert_close(again.scores["stem"], scales)


def test_a_channel_that_is_gone_is_judged_no_more() -> None:
    pruner = pruner_of(network(), "params=60%", removable=A, pace=Pace(1, 1, momentum=0.0))
    optimizer, data = sgd(pruner.network), batches(9)
    advance(pruner, optimizer, (next(data) for _ in range(1)))
    first = pruner.scores["a"]
    (gone,) = set(range(10)) - set(pruner.plan.keep["a"])
    assert first.argmin() == gone
    advance(pruner, optimizer, (next(data) for _ in range(1)))
    second = pruner.scores["a"]
    assert second[gone] == first[gone]
    assert all(second[c] != first[c] for c in pruner.plan.keep["a"])


def test_gates_before_batch_norm_are_watched_there_and_closed_where_channels_are_read() -> None:
    criterion = Taylor().placed(at="convolution")
    pruner = pruner_of(network(), criterion=criterion, pace=Pace(2, 1, 100))
    optimizer, ((images, labels),) = sgd(pruner.network.eval()), batches(1)
    with pruner.watching(len(images)):
        F.cross_entropy(pruner.network(images), labels).backward()
    graph = trace(network(), EXAMPLE)
    scores = criterion.score(network(), graph, [(images, labels)])
    expected = removal_order(scores, graph)[:2]
    pruner.after_step(optimizer)
    gone = [
        (name, channel)
        for name, channels in pruner.plan.keep.items()
        for channel in sorted(set(range(graph.group(name).width)) - set(channels))
    ]
    assert sorted(gone) == sorted(expected)


def test_so_many_channels_go_every_so_many_minibatches_and_for_real_every_so_many_times() -> None:
    pruner = pruner_of(network(), pace=Pace(units=2, minibatches=3, surgery_every=2))
    optimizer = sgd(pruner.network)
    gone: list[int] = []
    sizes: list[int] = []

    def count() -> None:
        gone.append(26 - sum(len(channels) for channels in pruner.plan.keep.values()))
        sizes.append(sum(p.numel() for p in pruner.network.model.parameters()))

    advance(pruner, optimizer, batches(12), count)
    assert gone == [8 + n for n in (0, 0, 2, 2, 2, 4, 4, 4, 6, 6, 6, 8)]
    changes = [i for i in range(1, 12) if sizes[i] != sizes[i - 1]]
    assert changes == [5, 11]
    assert [point.removed for point in pruner.trajectory] == [2, 4, 6, 8]
    assert [point.minibatches for point in pruner.trajectory] == [3, 6, 9, 12]


def test_the_lowest_scores_go_first() -> None:
    class Numbered(FirstOrderCriterion):
        """Units in falling order of importance."""

        def of(self, moments: GradientMoments) -> Tensor:
            return -torch.arange(moments.gates.num_units).float()

    pruner = pruner_of(network(), criterion=Numbered(), pace=Pace(1, 1, 1))
    optimizer = sgd(pruner.network)
    advance(pruner, optimizer, batches(3))
    last = max(pruner.plan.keep, key=trace(network(), EXAMPLE).index)
    assert pruner.plan.keep["a"] == tuple(range(7))
    assert last == "a"
    assert pruner.plan.keep["stem"] == tuple(range(8))


def test_the_moving_average_weighs_iterations_as_in_the_taylor_paper() -> None:
    class Scripted(FirstOrderCriterion):
        """First the last unit of `a` is least important, then the first by less."""

        def __init__(self) -> None:
            super().__init__()
            self.calls = 0

        def of(self, moments: GradientMoments) -> Tensor:
            self.calls += 1
            scores = torch.full((moments.gates.num_units,), 10.0)
            part = moments.gates.by_group(scores)["a"]
            part[-1 if self.calls == 1 else 0] = 0.0
            part[1] = 8.0
            return scores

    def second(momentum: float) -> tuple[int, ...]:
        pace = Pace(1, 1, 10, momentum)
        pruner = pruner_of(network(), "params=60%", criterion=Scripted(), pace=pace, removable=A)
        advance(pruner, sgd(pruner.network), batches(2))
        return pruner.plan.keep["a"]

    assert second(0.0) == tuple(range(1, 9))
    # 0.9 · 10 + 0.1 · 0 = 9 for the first against 0.9 · 8 + 0.1 · 8 = 8 for the second
    assert second(0.9) == (0, *range(2, 9))


def test_the_fisher_schedule_records_every_channel_with_shape_cost_and_score() -> None:
    """Each is a point of its own, however seldom channels go for real."""
    assert (FISHER_PACE.units, FISHER_PACE.minibatches, FISHER_PACE.momentum) == (1, 100, 0.0)
    pace = Pace(1, 2, surgery_every=50, momentum=0.0)
    pruner = pruner_of(network(), "params=60%", criterion=Fisher(), pace=pace, removable=A)
    pruner.record_score(1.0)  # there is no point yet
    optimizer = sgd(pruner.network)
    for number, score in enumerate([0.5, None, 0.125]):
        advance(pruner, optimizer, batches(2, 2 * number))
        if score is not None:
            pruner.record_score(score)
    assert [point.score for point in pruner.trajectory] == [0.5, None, 0.125]
    graph = trace(network(), EXAMPLE)
    for number, point in enumerate(pruner.trajectory, start=1):
        cost = graph.cost({"a": 10 - number})
        assert (point.minibatches, point.removed) == (2 * number, number)
        assert point.widths == {"a": 10 - number}
        assert (point.params, point.flops) == (cost.params, cost.flops)


def test_several_budgets_are_met_in_turn_and_no_further_than_they_need() -> None:
    """Of a step of many channels only those go that the next budget needs."""
    budgets = [Budget.parse(f"params={share}%") for share in (80, 60, 40)]
    base = measure_cost(network(), EXAMPLE)
    pruner = IterativePruner(network(), EXAMPLE, Taylor(), budgets, Pace(100, 1, 50))
    optimizer = sgd(pruner.network)
    for number, budget in enumerate(budgets, start=1):
        assert not pruner.is_finished
        advance(pruner, optimizer, batches(1, number))
        limits = budget.absolute(base)
        assert limits.allows(measure_cost(pruner.smaller(), EXAMPLE))
        tight = Budget.parse(f"params={limits.limit('params'):.0f}").scaled(0.75)
        assert not tight.allows(pruner.cost)
    assert pruner.is_finished
    assert len(pruner.trajectory) == 3


def test_a_smaller_network_is_taken_out_while_training_goes_on() -> None:
    straight, looked_at = (pruner_of(network(), pace=Pace(2, 1, 4)) for _ in range(2))
    optimizers = [sgd(pruner.network) for pruner in (straight, looked_at)]
    taken: list[nn.Module] = []
    advance(straight, optimizers[0], batches(4))
    advance(looked_at, optimizers[1], batches(4), lambda: taken.append(looked_at.smaller()))
    assert all(map(torch.equal, *(p.network.state_dict().values() for p in (straight, looked_at))))
    for smaller, point in zip(taken, looked_at.trajectory, strict=True):
        assert trace(smaller, EXAMPLE).group("a").width == point.widths["a"]
        assert measure_cost(smaller, EXAMPLE).flops == point.flops
    looked_at.network.eval()
    image = torch.ones(1, 3, 6, 6)
    torch.testing.assert_close(taken[-1].eval()(image), looked_at.network(image))


def test_how_often_channels_go_for_real_makes_no_difference() -> None:
    """To plans, and to weights but for rounding, whether momentum is reset or not."""
    for reset in (False, True):
        pruners = [
            pruner_of(network(), pace=Pace(1, 2, every, reset_momentum=reset)) for every in (1, 50)
        ]
        for pruner in pruners:
            advance(pruner, sgd(pruner.network), batches(8))
        assert pruners[0].trajectory == pruners[1].trajectory
        assert pruners[0].plan == pruners[1].plan
        expected = pruners[0].smaller().state_dict()
        for name, tensor in pruners[1].smaller().state_dict().items():
            torch.testing.assert_close(tensor, expected[name])


def test_shares_of_uniform_pruning_stay_those_of_the_whole_network() -> None:
    """Every group loses the same share, also after channels have gone for real."""
    removable = Removable(rules=Rules(scope="uniform"))
    pruner = pruner_of(network(), "params=35%", pace=Pace(1, 1, 1), removable=removable)
    optimizer = sgd(pruner.network)
    for step in range(12):
        advance(pruner, optimizer, batches(1, step))
        removed = {name: 1 - pruner.plan.widths[name] / width for name, width in WIDTHS.items()}
        assert max(removed.values()) - min(removed.values()) < 1 / 8 + 1e-9, removed
        if pruner.is_finished:
            break
    assert pruner.is_finished


WIDTHS = {"stem": 8, "a": 10}


def test_widths_are_multiples_of_the_divisor_after_every_step() -> None:
    removable = Removable(rules=Rules(min_channels=2, divisor=4))
    pruner = pruner_of(network(), "params=45%", pace=Pace(1, 1, 2), removable=removable)
    advance(pruner, sgd(pruner.network), batches(8))
    assert pruner.is_finished
    shapes = [point.widths for point in pruner.trajectory]
    assert all(s[name] % 4 == 0 or s[name] == WIDTHS[name] for s in shapes for name in s)


class Alike(FirstOrderCriterion):
    """All units are as important as each other."""

    def of(self, moments: GradientMoments) -> Tensor:
        return torch.ones(moments.gates.num_units)


def test_the_penalty_on_flops_takes_what_saves_most_by_any_criterion() -> None:
    """β · FLOPs saved at the widths that are left is taken from every score."""
    for criterion in (Alike(), Random(0)):
        pace = Pace(1, 1, 3, flops_penalty=1.0)  # far above the scores
        pruner = pruner_of(network(), "params=50%", criterion=criterion, pace=pace)
        optimizer = sgd(pruner.network)
        graph = trace(network(), EXAMPLE)
        while not pruner.is_finished:
            widths = pruner.plan.widths
            flops = {n: graph.cost({**widths, n: widths[n] - 1}).flops for n in widths}
            best = min((n for n in widths if widths[n] > 3), key=lambda n: flops[n])
            advance(pruner, optimizer, batches(1))
            assert pruner.trajectory[-1].flops == flops[best]
            assert pruner.plan.widths[best] == widths[best] - 1


@pytest.mark.parametrize("reset", [False, True])
def test_momentum_is_reset_after_each_pruning_step_if_asked_for(reset: bool) -> None:
    pruner = pruner_of(network(), pace=Pace(1, 2, 2, reset_momentum=reset))
    optimizer = sgd(pruner.network)
    for number in range(1, 9):
        advance(pruner, optimizer, batches(1, number))
        assert bool(optimizer.state) == (not reset or number % 2 == 1)


@pytest.mark.parametrize("stop", [1, 4, 6, 8, 11])
def test_going_on_from_a_checkpoint_ends_in_the_same_weights(stop: int) -> None:
    straight = pruner_of(network())
    optimizer = sgd(straight.network)
    advance(straight, optimizer, batches(16))

    first = pruner_of(network())
    first_optimizer = sgd(first.network)
    advance(first, first_optimizer, batches(stop))
    file = io.BytesIO()
    states = (first.state_dict(), first.network.state_dict(), first_optimizer.state_dict())
    torch.save(states, file)
    file.seek(0)
    state, network_state, optimizer_state = torch.load(file, weights_only=True)

    second = pruner_of(network())
    second.load_state_dict(state)
    second.network.load_state_dict(network_state)
    second_optimizer = sgd(second.network)
    second_optimizer.load_state_dict(optimizer_state)
    advance(second, second_optimizer, batches(16 - stop, stop))
    assert second.plan == straight.plan
    assert second.trajectory[-1].removed == straight.trajectory[-1].removed
    expected = straight.network.state_dict()
    for name, tensor in second.network.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_a_state_is_plain_data_and_holds_the_whole_trajectory() -> None:
    first = pruner_of(network(), pace=Pace(1, 2, 50))
    advance(first, sgd(first.network), batches(5))
    first.record_score(0.25)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = pruner_of(network(), pace=Pace(1, 2, 50))
    second.load_state_dict(torch.load(file, weights_only=True))
    assert second.trajectory == first.trajectory
    assert second.trajectory[-1].score == 0.25
    assert (second.plan, second.cost) == (first.plan, first.cost)
    assert torch.equal(second.network.mask, first.network.mask)


DATA = list(batches(2, start=100))
OTHERS = [WeightMagnitude(), BatchNormScale(), Random(2), TaylorSecondOrder(), Oracle()]
named = pytest.mark.parametrize("criterion", OTHERS, ids=lambda c: type(c).__name__)


@named
def test_any_criterion_prunes_what_it_scores_lowest(criterion: Criterion) -> None:
    """Step by step what it says of the network as it stands, whose channels are gone for real."""
    pruner = pruner_of(
        network(), "params=90%", criterion=criterion, batches=DATA, pace=Pace(1, 2, 50, 0.0)
    )
    optimizer = sgd(pruner.network)
    for start in range(0, 6, 2):
        advance(pruner, optimizer, batches(1, start))
        model = pruner.network.model
        weights = {name: p.detach().clone() for name, p in pruner.network.named_parameters()}
        graph, before = trace(model, EXAMPLE), pruner.plan
        if pruner.is_finished:
            break
        # nothing but the update of the weights lies between here and the pruning
        expected: list[str] = []

        def judge(_: object, graph: ChannelGraph = graph, found: list[str] = expected) -> None:
            scores = criterion.score(pruner.network.model, graph, DATA)
            found.append(removal_order(scores, graph)[0][0])

        hook = optimizer.register_step_post_hook(lambda o, *_: judge(o))
        advance(pruner, optimizer, batches(1, start + 1))
        hook.remove()
        (group,) = expected
        assert len(pruner.plan.keep[group]) == len(before.keep.get(group, range(99))) - 1
        assert any(weights[name].shape != p.shape for name, p in pruner.network.named_parameters())
    assert pruner.network.mask.all()


@named
def test_any_criterion_ends_within_the_budget_and_can_go_on(criterion: Criterion) -> None:
    settings: dict[str, Any] = {"criterion": criterion, "batches": DATA, "pace": Pace(1, 2)}
    straight = pruner_of(network(), "params=60%", **settings)
    optimizer = sgd(straight.network)
    advance(straight, optimizer, batches(5))
    assert not straight.is_finished

    second = pruner_of(network(), "params=60%", **settings)
    second.load_state_dict(straight.state_dict())
    second.network.load_state_dict(straight.network.state_dict())
    second_optimizer = sgd(second.network)
    second_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for pruner, its_optimizer in ((straight, optimizer), (second, second_optimizer)):
        advance(pruner, its_optimizer, batches(20, 5))
    assert second.plan == straight.plan
    limits = Budget.parse("params=60%").absolute(measure_cost(network(), EXAMPLE))
    assert limits.allows(measure_cost(straight.finish(), EXAMPLE))
    expected = straight.network.state_dict()
    assert all(torch.equal(t, expected[n]) for n, t in second.network.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"criterion": Oracle()}, "the oracle needs labelled data: pass batches="),
        ({"criterion": Oracle(), "batches": iter(DATA)}, "a list, no iterator"),
        ({"criterion": SigmoidScale()}, "BatchNormScale cannot judge any group of this network"),
        (
            {"criterion": BatchNormScale(), "removable": Removable(["a"])},
            "BatchNormScale cannot judge group 'a' of this network",
        ),
    ],
)
def test_what_a_criterion_lacks_is_found_out_before_any_training(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(CriterionError, match=message):
        pruner_of(network(), **options)


def test_restrictions_hold_for_shares_of_the_whole_network() -> None:
    floor = trace(network(), EXAMPLE).cost({"a": 5})
    pruner = pruner_of(
        network(),
        f"params={floor.params}",
        pace=Pace(2, 1, 1),
        removable=Removable(restrictions=Restrictions(("stem",), {"a": 0.5})),
    )
    advance(pruner, sgd(pruner.network), batches(8))
    assert pruner.plan.widths == {"a": 5}
    with pytest.raises(UnreachableBudgetError, match=f"nearest reachable: {floor.params:,}"):
        pruner_of(
            network(),
            f"params={floor.params - 1}",
            removable=Removable(restrictions=Restrictions(("stem",), {"a": 0.5})),
        )


def test_whoever_changes_the_parameters_needs_the_optimizer() -> None:
    pruner = pruner_of(network(), pace=Pace(2, 1, surgery_every=100))
    with pytest.raises(ConfigError, match="pass the optimizer that trains them, got None"):
        pruner.after_step(None)  # type: ignore[arg-type]
    optimizer = sgd(pruner.network)
    advance(pruner, optimizer, batches(2))
    parameters = list(pruner.network.parameters())
    with pytest.raises(ConfigError, match="pass the optimizer that trains them, got None"):
        pruner.finish()
    assert all(a is b for a, b in zip(parameters, pruner.network.parameters(), strict=True))
    smaller = pruner.finish(optimizer)
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert {id(p) for p in smaller.parameters()} == trained
    assert pruner.finish() is smaller  # nothing is left to remove


def test_an_optimizer_of_another_network_is_refused_at_the_first_step() -> None:
    model = network()
    pruner = pruner_of(model)
    with pytest.raises(ConfigError, match="has no parameter of the network that is pruned"):
        advance(pruner, sgd(model), batches(1))


def test_a_floor_over_budget_is_refused_before_any_training() -> None:
    with pytest.raises(UnreachableBudgetError, match="nearest reachable"):
        pruner_of(network(), "params=1%")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"units": 0}, "units must be at least 1, got 0"),
        ({"minibatches": 0}, "minibatches must be at least 1"),
        ({"surgery_every": -1}, "surgery_every must be at least 1"),
        ({"momentum": 1.0}, "momentum must be from 0 to below 1"),
        ({"flops_penalty": -1.0}, "flops_penalty must be finite and at least 0, got -1.0"),
    ],
)
def test_a_pace_that_makes_no_sense_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Pace(**settings)
