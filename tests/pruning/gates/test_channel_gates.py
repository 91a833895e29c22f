"""Gates on every network of the collection: zero is removal, and probes see ∂E/∂z."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from architectures import ARCHITECTURES, Architecture
from gating import difference, random_plan, tensors_of
from networks import Branches, chain, conv, head, randomised
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from pruning import KeepPlan, remove_channels, trace
from pruning.criteria import Taylor
from pruning.errors import CriterionError
from pruning.gates.channel_gates import ChannelGates, Gated


def attention_of_features(net: Any, x: Tensor) -> Tensor:
    """A weight reads the same channels as the scores do."""
    y = 0.3 * net.first(x).flatten(2)
    weights = (y.transpose(1, 2) @ y).softmax(-1)
    return net.last((y @ weights).amax(2))


def kernel_of_the_input(net: Any, x: Tensor) -> Tensor:
    y = net.first(x)
    kernel = net.kernel(y.mean((2, 3))).view(4, -1, 1, 1)
    return F.conv2d(y, kernel) + net.last(y)


def linear_attention(net: Any, x: Tensor) -> Tensor:
    """What is zero where it is produced is one where it is consumed."""
    query, key = F.elu(net.query(x)) + 1, F.elu(net.key(x)) + 1
    return net.last(query @ (key.transpose(1, 2) @ net.value(x)))


def heads(net: Any, x: Tensor) -> Tensor:
    query, key, value = (
        layer(x).unflatten(-1, (2, -1)) for layer in (net.query, net.key, net.value)
    )
    weights = (0.3 * torch.einsum("blhd,bmhd->bhlm", query, key)).softmax(-1)
    return net.last(torch.einsum("bhlm,bmhd->blhd", weights, value).flatten(2))


def transposed_weights(net: Any, x: Tensor) -> Tensor:
    return F.relu(net.first(x)) @ net.last.weight.T + net.other.weight.data.sum() * x.sum()


def shared_product(net: Any, x: Tensor) -> Tensor:
    """One module multiplies channels of two groups, one of which a weight reads as well."""
    first, second, third = net.first(x), net.second(x), net.third(x)
    scores = net.product(0.1 * first, net.query(x)) + net.product(second, 0.1 * third)
    return net.last(scores.softmax(-1) @ first)


def projections(width: int) -> dict[str, nn.Module]:
    names = ("query", "key", "value")
    return {**{name: nn.Linear(5, width) for name in names}, "last": nn.Linear(width, 4)}


CONSUMED_OTHERWISE = [
    Architecture(
        "attention of unprojected features",
        lambda: Branches(attention_of_features, first=conv(3, 6), last=nn.Linear(6, 4)),
    ),
    Architecture(
        "kernel computed from the input",
        lambda: Branches(
            kernel_of_the_input, first=conv(3, 6), kernel=nn.Linear(6, 24), last=conv(6, 4)
        ),
    ),
    Architecture(
        "linear attention", lambda: Branches(linear_attention, **projections(6)), ((1, 3, 5),)
    ),
    Architecture("heads", lambda: Branches(heads, **projections(8)), ((1, 3, 5),)),
    Architecture(
        "one module that multiplies twice",
        lambda: Branches(
            shared_product,
            first=nn.Linear(5, 6),
            query=nn.Linear(5, 6),
            second=nn.Linear(5, 7),
            third=nn.Linear(5, 7),
            product=Branches(lambda _, one, other: one @ other.transpose(1, 2)),
            last=nn.Linear(6, 4),
        ),
        ((1, 3, 5),),
    ),
    Architecture(
        "kernels added up",
        lambda: Branches(
            lambda net, x: net.last(
                F.conv2d(net.first(x), net.wide.weight + F.pad(net.narrow.weight, [1] * 4))
            ),
            first=conv(3, 6),
            wide=conv(6, 5, bias=False),
            narrow=conv(6, 5, 1, bias=False),
            last=conv(5, 4),
        ),
    ),
    Architecture(
        "kernels one behind the other",
        lambda: Branches(
            lambda net, x: net.last(
                F.conv2d(net.first(x), torch.cat([net.one.weight, net.other.weight]))
            ),
            first=conv(3, 6),
            one=conv(6, 5, bias=False),
            other=conv(6, 2, bias=False),
            last=conv(7, 4),
        ),
    ),
    Architecture(
        "a weight that is one plus a parameter",
        lambda: Branches(
            lambda net, x: net.last(F.linear(net.first(x), (1 + net.change.weight) ** 2)),
            first=nn.Linear(5, 6),
            change=nn.Linear(6, 7, bias=False),
            last=nn.Linear(7, 4),
        ),
        ((1, 3, 5),),
    ),
    Architecture(
        "a weight of low rank added",
        lambda: Branches(
            lambda net, x: net.last(
                F.linear(net.first(x), net.whole.weight + net.up.weight @ net.down.weight)
            ),
            first=nn.Linear(5, 6),
            whole=nn.Linear(6, 7, bias=False),
            down=nn.Linear(6, 2, bias=False),
            up=nn.Linear(2, 7, bias=False),
            last=nn.Linear(7, 4),
        ),
        ((1, 3, 5),),
    ),
    Architecture(
        "weights read through attributes",
        lambda: Branches(
            transposed_weights,
            first=nn.Linear(5, 6),
            last=nn.Linear(6, 4, bias=False),
            other=nn.Linear(2, 2),
        ),
        ((1, 3, 5),),
    ),
]
"""Channels that other things than layers read."""

GATED = [*(one for one in ARCHITECTURES if one.graph.prunable), *CONSUMED_OTHERWISE]


def call(network: nn.Module, inputs: Any) -> Any:
    if isinstance(inputs, dict):
        return network(**inputs)
    return network(*inputs) if isinstance(inputs, tuple) else network(inputs)


def energy(output: Any) -> Tensor:
    return torch.stack([(tensor**2).sum() for tensor in tensors_of(output)]).sum()


@pytest.mark.parametrize("architecture", GATED, ids=str)
def test_a_gate_of_zero_is_a_removed_channel(architecture: Architecture) -> None:
    model, graph = architecture.network(0, torch.float64), architecture.graph
    inputs, plan = architecture.example(1, torch.float64), random_plan(graph, 3)
    gated = Gated(ChannelGates(model, graph)).double()
    whole = call(model, inputs)
    assert difference(call(gated, inputs), whole) == 0
    gated.mask.copy_(gated.gates.mask(plan))
    removed = call(remove_channels(model, graph, plan), inputs)
    assert difference(call(gated, inputs), removed) < 1e-9
    with gated.gates.multiplying(gated.mask):  # as often as one likes
        for _ in range(2):
            assert difference(call(model, inputs), removed) < 1e-9


@pytest.mark.parametrize("architecture", GATED, ids=str)
def test_probes_see_the_gradient_of_the_gates(architecture: Architecture) -> None:
    model, graph = architecture.network(0, torch.float64), architecture.graph
    inputs, gates = architecture.example(1, torch.float64), ChannelGates(model, graph)
    ones = torch.ones(gates.num_units, dtype=torch.float64, requires_grad=True)
    with gates.multiplying(ones):
        energy(call(model, inputs)).backward()
    with gates.probing(1) as probe:
        energy(call(model, inputs)).backward()
    assert ones.grad is not None
    assert ones.grad.abs().max() > 0
    torch.testing.assert_close(probe.gradients.sum(0), ones.grad, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("architecture", GATED, ids=str)
def test_a_probe_outside_of_a_mask_sees_the_masked_network(architecture: Architecture) -> None:
    model, graph = architecture.network(0, torch.float64), architecture.graph
    inputs, gates = architecture.example(1, torch.float64), ChannelGates(model, graph)
    gated = Gated(gates).double()
    gated.mask.copy_(gates.mask(random_plan(graph, 3)))
    values = gated.mask.clone().requires_grad_()
    with gates.multiplying(values):
        energy(call(model, inputs)).backward()
    with gates.probing(1) as probe:
        energy(call(gated, inputs)).backward()
    assert values.grad is not None
    torch.testing.assert_close(
        probe.gradients.sum(0), values.grad * gated.mask, rtol=1e-8, atol=1e-9
    )


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, groups=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6 * 16, 5),
    ).double()


def test_gradients_per_sample_are_those_of_each_sample_alone() -> None:
    model = small().eval()
    images, labels = torch.randn(7, 3, 6, 6).double(), torch.randint(0, 5, (7,))
    gates = ChannelGates(model, trace(model, images[:1]))
    with gates.probing(7) as probe:
        F.cross_entropy(model(images), labels, reduction="sum").backward()
    for number in range(7):
        with gates.probing(1) as alone:
            F.cross_entropy(model(images[[number]]), labels[[number]]).backward()
        torch.testing.assert_close(probe.gradients[number], alone.gradients[0])


def test_gates_per_sample_gate_each_sample_alone() -> None:
    model = small().eval()
    images = torch.randn(3, 3, 6, 6).double()
    gates = ChannelGates(model, trace(model, images[:1]))
    values = torch.rand(3, gates.num_units).double()
    with gates.multiplying(values):
        together = model(images)
    for number in range(3):
        with gates.multiplying(values[number]):
            torch.testing.assert_close(together[[number]], model(images[[number]]))


def test_a_probe_changes_neither_output_nor_gradients() -> None:
    model = small().eval()
    images = torch.randn(2, 3, 6, 6).double()
    model(images).sum().backward()
    plain = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    gates = ChannelGates(model, trace(model, images[:1]))
    with gates.probing(2):
        output = model(images)
        output.sum().backward()
    assert torch.equal(output, model(images))
    assert all(torch.equal(a, b.grad) for a, b in zip(plain, model.parameters(), strict=True))


def test_gradients_may_be_asked_for_while_gates_are_on() -> None:
    model = small().eval()
    images = torch.randn(2, 3, 6, 6).double()
    gates, parameters = ChannelGates(model, trace(model, images[:1])), list(model.parameters())
    expected = torch.autograd.grad(model(images).sum(), parameters)
    with gates.probing(2):
        found = torch.autograd.grad(model(images).sum(), parameters)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_second_derivatives_flow_to_the_gates() -> None:
    model = small().eval()
    images, labels = torch.randn(4, 3, 6, 6).double(), torch.randint(0, 5, (4,))
    gates = ChannelGates(model, trace(model, images[:1]))

    def loss(values: Tensor) -> Tensor:
        with gates.multiplying(values):
            return F.cross_entropy(model(images), labels)

    ones = torch.ones(gates.num_units, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(loss, (ones,))


def test_some_groups_are_gated_and_vectors_fall_apart_by_group() -> None:
    model = small().float()
    graph = trace(model, torch.randn(1, 3, 6, 6))
    gates = ChannelGates(model, graph, ["3", "0"])
    assert gates.names == ("0", "3")
    values = torch.arange(gates.num_units).float()
    assert torch.equal(gates.joined(gates.by_group(values)), values)
    channels = gates.by_channel(values)
    assert {name: len(tensor) for name, tensor in channels.items()} == {"0": 4, "3": 6}
    assert ChannelGates(model, graph, ["3"]).num_units < gates.num_units


def test_nothing_to_gate_is_one_clear_error() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten())
    graph = trace(model, torch.randn(1, 3, 2, 2))
    with pytest.raises(CriterionError, match="nothing to gate"):
        ChannelGates(model, graph)
    with pytest.raises(CriterionError, match="pinned: the network's output"):
        ChannelGates(model, graph, ["0"])


def test_another_network_is_refused() -> None:
    model = small().float()
    gates = ChannelGates(nn.Linear(3, 3), trace(model, torch.randn(1, 3, 6, 6)))
    with pytest.raises(CriterionError, match=r"no parameter '3.weight'"), gates.probing(1):
        pass


def test_one_gate_acts_once_where_two_activations_meet() -> None:
    """Scores are linear in a gate; with gates on both sides they would be quadratic."""
    model = randomised(
        Branches(
            lambda net, x: net.query(x) @ net.key(x).transpose(1, 2),
            query=nn.Linear(5, 6),
            key=nn.Linear(5, 6),
        )
    ).double()
    x = torch.randn(2, 3, 5, dtype=torch.float64)
    gates = ChannelGates(model, trace(model, x[:1]))
    assert gates.num_units == 6

    def at(value: float) -> Tensor:
        with gates.multiplying(torch.full((6,), value, dtype=torch.float64)):
            return model(x)

    torch.testing.assert_close(at(2.0), 2 * at(1.0))
    assert at(0.0).abs().max() == 0


def test_other_calls_than_when_it_was_traced_are_refused() -> None:
    model = Branches(
        lambda net, x: (
            net.query(x) @ net.key(x).transpose(1, 2) if len(x) < 3 else x @ x.transpose(1, 2)
        ),
        query=nn.Linear(5, 6),
        key=nn.Linear(5, 6),
    )
    gates = ChannelGates(model, trace(model, torch.zeros(1, 3, 5)))
    with (
        pytest.raises(CriterionError, match="calls something else than when it was traced"),
        gates.probing(3),
    ):
        model(torch.zeros(3, 3, 5))


def test_channels_that_meet_out_of_sight_and_are_read_elsewhere_are_refused() -> None:
    model = Branches(
        lambda net, x: net.last(net.one(x)) + net.one(x) @ net.two(x).transpose(1, 2),
        one=nn.Linear(5, 6),
        two=nn.Linear(5, 6),
        last=nn.Linear(6, 3),
    )
    graph = trace(model, torch.zeros(1, 3, 5))
    hidden = tuple(replace(product, argument=None) for product in graph.products)
    graph.products = hidden
    with pytest.raises(CriterionError, match="group 'one' cannot be gated: a call of matmul"):
        ChannelGates(model, graph)


class Encoder(nn.Module):
    """Tokens with torch's attention; without a norm only its scale depends on their width."""

    def __init__(self, attend: nn.Module) -> None:
        super().__init__()
        self.embed, self.attend, self.last = nn.Linear(5, 8), attend, nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x)
        if isinstance(self.attend, nn.MultiheadAttention):
            return self.last(self.attend(tokens, tokens, tokens)[0])
        return self.last(self.attend(tokens))


def test_attention_that_is_hidden_in_one_call_is_gated_once() -> None:
    attend = nn.MultiheadAttention(8, 2, batch_first=True, add_bias_kv=True)
    model = randomised(Encoder(attend)).double().eval()
    images = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0)).double()
    graph = trace(model, images[:1], exact=False)
    gates = ChannelGates(model, graph, ["embed"])
    plan = KeepPlan({"embed": (0, 1, 3, 4, 5, 7)})
    smaller = remove_channels(model, graph, plan)
    with torch.no_grad():  # queries are divided by the root of the width of a head
        smaller.attend.in_proj_weight[:6] *= (3 / 4) ** 0.5
        smaller.attend.in_proj_bias[:6] *= (3 / 4) ** 0.5
    with gates.multiplying(gates.mask(plan).double()):
        assert difference(model(images), smaller(images)) < 1e-9


@pytest.mark.parametrize("norm_first", [False, True])
def test_gradients_of_gates_on_a_transformer_layer(norm_first: bool) -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0, batch_first=True, norm_first=norm_first)
    model = randomised(Encoder(layer)).double().eval()
    images = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0)).double()
    gates = ChannelGates(model, trace(model, images[:1], exact=False))
    assert gates.names == ("embed", "attend.linear1")

    def loss(values: Tensor) -> Tensor:
        with gates.multiplying(values):
            return energy(model(images))

    ones = torch.ones(gates.num_units, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(loss(ones), ones)
    with gates.probing(2) as probe:
        energy(model(images)).backward()
    torch.testing.assert_close(probe.gradients.sum(0), expected)
    query = [site for site in gates.sites["attend.self_attn.in_proj_bias"] if site.axis == 0]
    assert [(site.units < gates.num_units).tolist() for site in query] == [
        [True] * 8 + [False] * 16
    ]


def test_a_copy_that_is_made_meanwhile_computes_what_the_network_does() -> None:
    model = small().eval()
    images = torch.randn(2, 3, 6, 6).double()
    gates = ChannelGates(model, trace(model, images[:1]))
    values = torch.rand(gates.num_units).double()
    with gates.multiplying(values):
        expected = model(images)
        torch.testing.assert_close(copy.deepcopy(model)(images), expected)
    assert not torch.allclose(model(images), expected)


class Checkpointed(nn.Module):
    """Parts that the backward pass runs again: a module, and a method with a product in it."""

    def __init__(self, use_reentrant: bool | None) -> None:
        super().__init__()
        self.stem, self.block = conv(3, 6), chain(a=conv(6, 8), relu=nn.ReLU(), b=conv(8, 6))
        self.query, self.key = nn.Linear(6, 5), nn.Linear(6, 5)
        self.head, self.use_reentrant = head(6), use_reentrant

    def forward(self, x: Tensor) -> Tensor:
        x = self.run(self.block, self.stem(x))
        return self.head(self.run(self.attend, self.run(self.attend, x)))

    def run(self, part: Any, x: Tensor) -> Tensor:
        if self.use_reentrant is None:
            return part(x)
        result: Tensor = checkpoint(part, x, use_reentrant=self.use_reentrant)
        return result

    def attend(self, x: Tensor) -> Tensor:
        y = x.flatten(2).transpose(1, 2)
        weights = (0.1 * self.query(y) @ self.key(y).transpose(1, 2)).softmax(-1)
        return x + (weights @ y).transpose(1, 2).reshape(x.shape)


def checkpointed(use_reentrant: bool | None) -> Checkpointed:
    model = Checkpointed(use_reentrant)
    randomised(model)
    return model.double()


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_what_runs_again_in_the_backward_pass_is_gated_again(use_reentrant: bool) -> None:
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    plain, model = checkpointed(None), checkpointed(use_reentrant)
    graph = trace(plain, x[:1])
    found = []
    for network in (plain, model):
        gates = ChannelGates(network, graph)
        values = torch.rand(gates.num_units, generator=torch.Generator().manual_seed(0)).double()
        values.requires_grad_()
        with gates.multiplying(values):
            output = network(x)
        energy(output).backward()
        with gates.probing(2) as probe:
            energy(network(x)).backward()
        found.append(
            [output, values.grad, probe.gradients, *(p.grad for p in network.parameters())]
        )
    for expected, again in zip(*found, strict=True):
        torch.testing.assert_close(again, expected)


def test_criteria_score_networks_with_checkpoints() -> None:
    data = [(torch.randn(4, 3, 4, 4).double(), torch.tensor([0, 1, 2, 3]))]
    graph = trace(checkpointed(None), data[0][0][:1])
    expected = Taylor().score(checkpointed(None), graph, data)
    for name, scores in Taylor().score(checkpointed(False), graph, data).items():
        torch.testing.assert_close(scores, expected[name])


def test_computed_gates_need_checkpoints_without_re_entry() -> None:
    x, model = torch.randn(2, 3, 4, 4, dtype=torch.float64), checkpointed(True)
    gates = ChannelGates(model, trace(checkpointed(None), x[:1]))
    logits = torch.zeros(gates.num_units, dtype=torch.float64, requires_grad=True)
    with (
        pytest.raises(CriterionError, match="pass use_reentrant=False"),
        gates.multiplying(logits.sigmoid()),
    ):
        model(x)
