"""A network without a branch computes what the full one does with that branch at zero."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torchvision
from architectures import BY_NAME, IMAGE
from gated_networks import Wired
from gating import difference
from networks import Branches, chain, conv, head, randomised
from torch import Tensor, nn
from torch.nn import functional as F

from pruning import Structure, measure_cost, remove_structures, residual_blocks, trace
from pruning.errors import PlanError
from search import models

BRANCH_ENDS = {
    "resnet18": ("bn2", ["layer1.0", "layer2.0", "layer2.1", "layer4.1"]),
    "resnext50_32x4d": ("bn3", ["layer1.0", "layer1.1", "layer4.2"]),
    "mobilenet_v2": ("conv.3", ["features.3", "features.5", "features.16"]),
    "mobilenet_v3_small": ("block", ["features.3", "features.5"]),
    "efficientnet_v2_s": ("stochastic_depth", ["features.1.0", "features.2.1"]),
    "convnext_tiny": ("stochastic_depth", ["features.1.0", "features.5.8"]),
    "wide_resnet50_2": ("bn3", ["layer1.1", "layer2.0"]),
    "regnet_y_400mf": ("f", ["trunk_output.block1.block1-0", "trunk_output.block2.block2-1"]),
    "efficientnet_b0": ("stochastic_depth", ["features.2.1", "features.6.2"]),
}
"""Per network of torchvision: the last layer of a branch, and some of the blocks."""

SLOW = ("wide_resnet50_2", "regnet_y_400mf", "efficientnet_b0")
"""Whose code others have, too."""

OWN_BRANCH_ENDS = {
    "resnet20": ("norm2", ["stage1.block0", "stage2.block0", "stage3.block2"]),
    "wrn-16-1": ("conv2", ["stage1.block0", "stage2.block1"]),
}


def images(seed: int = 0) -> Tensor:
    return torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(seed)).double()


def remove_blocks(model: nn.Module, names: list[str]) -> nn.Module:
    like = next(model.parameters())
    return remove_structures(model, images().to(like), [Structure("branch", n) for n in names])


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name
        for name in (*BRANCH_ENDS, *OWN_BRANCH_ENDS)
    ],
)
def test_equals_the_network_with_its_branches_at_zero(name: str) -> None:
    if name in OWN_BRANCH_ENDS:
        model = models.resolve(name, num_classes=10, in_channels=3)()
    else:
        model = torchvision.models.get_model(name, weights=None, num_classes=10)
    randomised(model).double().eval()
    end, blocks = (BRANCH_ENDS | OWN_BRANCH_ENDS)[name]
    assert set(blocks) <= {b.name for b in residual_blocks(model) if b.obstacle is None}
    shorter = remove_blocks(model, blocks)
    for block in blocks:
        layer = model.get_submodule(f"{block}.{end}")
        layer.register_forward_hook(lambda _module, _inputs, output: output * 0)
    assert difference(shorter(images()), model(images())) < 1e-10
    assert difference(shorter(images(1)), shorter(images(2))) > 1e-6


Wiring = Callable[["Block", Tensor], Tensor]


class Block(nn.Module):
    """A branch of layers a, bn and b, and what it is added to."""

    def __init__(self, wiring: Wiring) -> None:
        super().__init__()
        self.wiring = wiring
        self.a, self.bn, self.b = conv(6, 5), nn.BatchNorm2d(5), conv(5, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.wiring(self, x)


def network(wiring: Wiring) -> nn.Module:
    """A network with one such block, called block."""
    return randomised(chain(stem=conv(3, 6), block=Block(wiring), head=head(6)))


def plain(block: Block, x: Tensor) -> Tensor:
    return F.relu(x + block.b(F.relu(block.bn(block.a(x)))))


def test_what_only_fed_the_branch_is_gone() -> None:
    model = network(plain)
    shorter = remove_blocks(model, ["block"])
    kept = set(model.state_dict()) - {k for k in model.state_dict() if k.startswith("block.")}
    assert set(shorter.state_dict()) == kept
    inputs = torch.randn(IMAGE)
    expected = model.head(F.relu(model.stem(inputs)))
    assert torch.equal(shorter(inputs), expected)


def test_a_projected_shortcut_stays_under_its_name() -> None:
    model = torchvision.models.resnet18(weights=None)
    shorter = remove_blocks(model, ["layer2.0"])
    kept = [name for name in shorter.state_dict() if name.startswith("layer2.0.")]
    assert {name.split(".")[2] for name in kept} == {"downsample"}
    assert all(torch.equal(shorter.state_dict()[n], model.state_dict()[n]) for n in kept)


def test_the_given_network_is_untouched() -> None:
    model = network(plain)
    modules, state = list(model.modules()), copy.deepcopy(model.state_dict())
    shorter = remove_blocks(model, ["block"])
    with torch.no_grad():
        for tensor in shorter.state_dict().values():
            tensor.zero_()
    assert all(old is new for old, new in zip(modules, model.modules(), strict=True))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("training", [False, True])
def test_the_mode_is_kept(training: bool) -> None:
    shorter = remove_blocks(network(plain).train(training), ["block"])
    assert all(module.training == training for module in shorter.modules())


def test_removing_nothing_changes_nothing() -> None:
    model = network(plain)
    inputs = torch.randn(IMAGE)
    assert torch.equal(remove_blocks(model, [])(inputs), model(inputs))


def test_what_follows_may_work_in_place() -> None:
    """On the sum, that is, and not on what entered the block."""
    inner = Block(lambda block, x: F.relu(x + block.b(block.a(x)), inplace=True))
    outer = Branches(
        lambda net, x: net.head((y := net.stem(x)) + net.block(y)),
        stem=conv(3, 6),
        block=inner,
        head=head(6),
    )
    model, inputs = randomised(outer), torch.randn(IMAGE)
    y = model.stem(inputs)
    shorter = remove_blocks(model, ["block"])
    assert torch.equal(shorter(inputs), model.head(y + F.relu(y)))


def test_a_shorter_network_can_be_traced_and_priced() -> None:
    model = torchvision.models.resnet18(weights=None, num_classes=10)
    shorter = remove_blocks(model, ["layer1.0", "layer3.1", "layer2.0"])
    example = images().float()
    cost = trace(shorter, example).cost()
    assert cost == measure_cost(shorter, example)
    assert cost.params < trace(model, example).cost().params


def test_blocks_are_found_in_order() -> None:
    names = [b.name for b in residual_blocks(torchvision.models.resnet18(weights=None))]
    assert names == [f"layer{i}.{j}" for i in (1, 2, 3, 4) for j in (0, 1)]
    assert residual_blocks(BY_NAME["chain"].make()) == ()


def weighted(block: Block, x: Tensor) -> Tensor:
    return torch.add(block.b(block.a(x)), x, alpha=2)


def used_twice(block: Block, x: Tensor) -> Tensor:
    y = block.b(block.a(x))
    return (x + y) * y.sigmoid()


def two_additions(block: Block, x: Tensor) -> Tensor:
    return x + block.b(block.a(x)) + x.relu()


def two_equals(block: Block, x: Tensor) -> Tensor:
    return x.relu() + x.sigmoid()


def frozen_mode(block: Block, x: Tensor) -> Tensor:
    return x + F.dropout(block.b(block.a(x)), training=block.training)


def by_value(block: Block, x: Tensor) -> Tensor:
    return x + block.b(block.a(x)) if x.sum() > 0 else x


@pytest.mark.parametrize(
    ("wiring", "obstacle"),
    [
        (weighted, None),
        (used_twice, "what its branch computes is used a second time"),
        (two_additions, "its forward has 2 additions"),
        (two_equals, "both sides of its addition have as many parameters"),
        (frozen_mode, "its own code does something else in training"),
        (by_value, None),
    ],
)
def test_branches_that_cannot_be_removed(wiring: Wiring, obstacle: str | None) -> None:
    model = network(wiring)
    reason = obstacle or "pruning.structures lists those that can"
    message = f"this network has no branch 'block' that can be removed: {reason}"
    with pytest.raises(PlanError, match=message):
        remove_blocks(model, ["block"])
    assert [block.name for block in residual_blocks(model) if block.obstacle] == (
        ["block"] if obstacle else []
    )


@pytest.mark.parametrize("name", ["blick", "", "stem"])
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(PlanError, match=f"no branch '{name}' that can be removed"):
        remove_blocks(network(plain), [name])


def test_a_branch_inside_a_removed_one_goes_with_it() -> None:
    inner = Wired(lambda net, x: x + net.conv(x), conv=conv(6, 6))
    outer = Wired(lambda net, x: x + net.inner(x), inner=inner)
    model = randomised(chain(stem=conv(3, 6), outer=outer, head=head(6)))
    both, alone = (remove_blocks(model, names) for names in (["outer.inner", "outer"], ["outer"]))
    assert both.state_dict().keys() == alone.state_dict().keys()
    inputs = torch.randn(IMAGE)
    assert torch.equal(both(inputs), model.head(model.stem(inputs)))
