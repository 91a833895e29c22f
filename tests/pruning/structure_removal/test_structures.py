"""Layers, branches and blocks that can go, and the shortcuts that they leave behind."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torchvision
from gated_networks import ResidualBlock, Wired, images, residual
from gating import difference
from networks import Branches, chain, conv, head, padded_shortcut, randomised, twice
from torch import nn
from torch.nn import functional as F

from pruning import measure_cost, trace
from pruning.errors import PlanError, TraceError
from pruning.structure_removal.shortcuts import around_block, around_layer
from pruning.structure_removal.structures import (
    KINDS,
    Kind,
    Structure,
    remove_structures,
    structures,
)
from search.models import resnet56, vgg16

LAYERS = [
    "conv",
    *(f"block{i}.conv{j}" for i in (1, 2, 3) for j in (1, 2)),
    "wide",
]
BLOCKS = ["block1", "block2", "block3"]


def names(model: nn.Module, kind: Kind, extent: int = 32) -> list[str]:
    example = images(1, extent).to(next(model.parameters()).dtype)
    return [structure.name for structure in structures(model, example, [kind])]


def test_a_residual_network_has_all_kinds_in_order() -> None:
    layers: tuple[Kind, ...] = ("layer", "full-layer")
    expected = [Structure(kind, name) for kind in layers for name in LAYERS]
    expected += [Structure(kind, name) for kind in ("branch", "block") for name in BLOCKS]
    assert list(structures(residual(), images())) == expected


def test_networks_of_the_paper() -> None:
    assert names(vgg16(), "layer") == [f"features.conv{i}" for i in range(2, 14)]
    blocks = [f"stage{i}.block{j}" for i in (1, 2, 3) for j in range(9)]
    assert names(resnet56(), "branch") == names(resnet56(), "block") == blocks
    assert len(names(resnet56(), "layer")) == 54
    network = torchvision.models.googlenet(weights=None, aux_logits=False, init_weights=False)
    assert names(network, "block", 64) == [
        f"inception{name}" for name in ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")
    ]


@pytest.mark.parametrize(
    "layer",
    [
        lambda: nn.Conv2d(6, 7, 1),
        lambda: nn.Conv2d(6, 12, 1, groups=2),
        lambda: nn.ConvTranspose2d(6, 6, 2, stride=2),
        lambda: nn.Conv2d(6, 6, 3, padding=2),
    ],
    ids=["1×1", "grouped 1×1", "transposed", "grows"],
)
def test_layers_that_no_smaller_shortcut_replaces(layer: Callable[[], nn.Module]) -> None:
    model = chain(stem=conv(3, 6), layer=layer(), pool=nn.AdaptiveAvgPool2d(1))
    assert names(model, "layer") == []


def test_no_pooling_makes_an_extent_that_grows() -> None:
    assert around_layer(nn.Conv2d(6, 6, 3, padding=2)) is None
    assert around_layer(nn.ConvTranspose2d(6, 6, 2, stride=2)) is None


def test_shared_layers_stay() -> None:
    model = Branches(twice, stem=conv(3, 6), shared=conv(6, 6), head=head(6))
    assert names(model, "layer") == []
    other = Branches(lambda net, x: net.b(net.stem(x)), stem=conv(3, 6), a=(b := conv(6, 6)), b=b)
    assert names(other, "layer") == []  # in place of a, a shortcut would not be called
    assert names(chain(stem=conv(3, 6), a=(shared := conv(6, 6)), b=shared), "layer") == []


def test_layers_whose_attributes_the_code_reads_stay() -> None:
    model = padded_shortcut(lambda net, y: (0, net.conv2.out_channels - y.shape[1]))
    assert names(model, "layer") == ["conv1"]


def test_blocks_that_write_into_their_input_stay() -> None:
    def block(inplace: bool) -> nn.Module:
        return Wired(
            lambda net, x: net.a(F.relu(x, inplace=inplace)) + net.b(x), a=conv(6, 6), b=conv(6, 6)
        )

    assert names(chain(stem=conv(3, 6), block=block(False)), "block") == ["block"]
    assert names(chain(stem=conv(3, 6), block=block(True)), "block") == []


def test_the_outermost_block_is_one_and_the_network_none() -> None:
    inner = Wired(lambda net, x: x + net.conv(x), conv=conv(6, 6, 1))
    outer = Wired(lambda net, x: torch.cat([x, net.inner(x)], 1), inner=inner)
    model = chain(stem=conv(3, 6), outer=outer, head=head(12))
    assert names(model, "block") == ["outer.inner"]  # the shortcut of outer is the larger one
    inner.conv = conv(6, 6)
    assert names(model, "block") == ["outer"]
    network = Wired(lambda net, x: net.a(x) + net.b(x), a=conv(3, 6), b=conv(3, 6))
    assert names(network, "block") == []


WINDOWS = [
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 5},
    {"kernel_size": 1, "stride": 3},
    {"kernel_size": 3, "stride": 2, "dilation": 2, "padding": 2},
    {"kernel_size": 2, "stride": 2},
    {"kernel_size": 4, "padding": "same"},
    {"kernel_size": 4, "padding": "valid"},
]


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("outputs", [4, 6])
@pytest.mark.parametrize("options", WINDOWS, ids=str)
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_the_shortcut_of_a_layer_has_its_shape_at_any_extent(
    dims: int, outputs: int, options: dict[str, int | str]
) -> None:
    layer = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1](4, outputs, **options)
    shortcut = around_layer(layer)
    assert shortcut is not None
    made = shortcut.make(layer.weight, torch.Generator())
    assert sum(p.numel() for p in made.parameters()) == shortcut.num_params
    for extent in (7, 8, 12):
        x = torch.randn(2, 4, *[extent] * dims)
        assert made(x).shape == layer(x).shape


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize(
    ("before", "after"), [(8, 8), (8, 4), (7, 4), (7, 3), (35, 17), (9, 2), (8, 5), (7, 1)]
)
def test_the_shortcut_of_a_block_has_its_shape(dims: int, before: int, after: int) -> None:
    inside, outside = torch.Size([2, 4, *[before] * dims]), torch.Size([2, 5, *[after] * dims])
    shortcut = around_block(inside, outside)
    assert shortcut is not None
    assert shortcut.make(torch.empty(0), torch.Generator())(torch.randn(inside)).shape == outside


@pytest.mark.parametrize("after", [(2, 4), (2, 4, 9, 8), (1, 4, 8, 8)])
def test_shapes_that_no_shortcut_makes(after: tuple[int, ...]) -> None:
    assert around_block(torch.Size([2, 4, 8, 8]), torch.Size(after)) is None


def test_a_shortcut_passes_the_mean_and_keeps_the_scale() -> None:
    pool = around_layer(nn.Conv2d(4, 4, 3, stride=2, padding=1))
    assert pool is not None
    ones = torch.ones(1, 4, 8, 8)
    assert torch.equal(pool.make(ones, torch.Generator())(ones), torch.ones(1, 4, 4, 4))
    wide = around_block(torch.Size([1, 500, 1, 1]), torch.Size([1, 400, 1, 1]))
    assert wide is not None
    y = wide.make(ones, torch.Generator())(torch.randn(50, 500, 1, 1))
    assert 0.95 < y.std() < 1.05


def test_what_goes_becomes_its_shortcut() -> None:
    model = residual().eval()
    shorter = remove_structures(
        model,
        images(),
        [Structure("layer", "conv"), Structure("branch", "block1"), Structure("block", "block3")],
    )
    x = images(2)
    y = F.relu(F.relu(model.norm(model.stem(x))))  # both layers are followed by one
    expected = model.head(model.wide_norm(model.wide(model.block2(F.relu(y)))))
    assert torch.equal(shorter(x), expected)


def test_what_stays_keeps_its_name_and_what_comes_has_one() -> None:
    model = residual()
    shorter = remove_structures(
        model, images(), [Structure("layer", "wide"), Structure("layer", "block2.conv1")]
    )
    before, after = model.state_dict(), shorter.state_dict()
    assert set(after) - set(before) == {"wide.project.weight", "block2.conv1.project.weight"}
    assert after["wide.project.weight"].shape == (10, 12, 1, 1)
    assert after["wide.project.weight"].dtype == torch.float64
    assert all(torch.equal(before[name], after[name]) for name in set(before) & set(after))


def test_the_seed_decides_the_added_weights() -> None:
    gone = [Structure("block", "block2"), Structure("layer", "wide")]
    first, again, other = (
        remove_structures(residual(), images(), order, seed=seed).state_dict()
        for order, seed in ((gone, 3), (gone[::-1], 3), (gone, 4))
    )
    name = "block2.project.weight"
    assert torch.equal(first[name], again[name])
    assert not torch.equal(first[name], other[name])


@pytest.mark.parametrize(
    "inside", [Structure("branch", "block2"), Structure("layer", "block2.conv2")], ids=str
)
def test_what_is_inside_goes_along(inside: Structure) -> None:
    alone, both = (
        remove_structures(residual(), images(), gone)
        for gone in ([Structure("block", "block2")], [inside, Structure("block", "block2")])
    )
    assert set(alone.state_dict()) == set(both.state_dict())
    branch = [Structure("branch", "block2"), Structure("layer", "block2.conv1")]
    assert (
        "block2.conv1.project.weight"
        not in remove_structures(residual(), images(), branch).state_dict()
    )


def test_what_follows_an_identity_may_work_in_place() -> None:
    model = Branches(
        lambda net, x: net.head((y := net.stem(x)) + F.relu(net.layer(y), inplace=True)),
        stem=conv(3, 6),
        layer=conv(6, 6),
        head=head(6),
    )
    randomised(model).double()
    shorter, y = (
        remove_structures(model, images(), [Structure("layer", "layer")]),
        model.stem(images()),
    )
    assert torch.equal(shorter(images()), model.head(y + F.relu(y)))
    assert difference(model.head(F.relu(y) + F.relu(y)), shorter(images())) > 1e-3


def test_the_given_network_is_untouched() -> None:
    model = residual()
    modules, state = list(model.modules()), copy.deepcopy(model.state_dict())
    shorter = remove_structures(model, images(), structures(model, images()))
    with torch.no_grad():
        for tensor in shorter.state_dict().values():
            tensor.zero_()
    assert all(old is new for old, new in zip(modules, model.modules(), strict=True))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("training", [False, True])
def test_the_mode_is_kept(training: bool) -> None:
    model = residual().train(training)
    shorter = remove_structures(model, images(), structures(model, images()))
    assert all(module.training == training for module in shorter.modules())


@pytest.mark.parametrize("kind", KINDS)
def test_a_shorter_network_can_be_traced_and_priced(kind: Kind) -> None:
    model = residual()
    shorter = remove_structures(model, images(), structures(model, images(), [kind]))
    cost = trace(shorter, images()).cost()
    assert cost == measure_cost(shorter, images())
    assert cost.flops < trace(model, images()).cost().flops


def test_what_cannot_be_removed_is_refused() -> None:
    for gone in (Structure("layer", "stem"), Structure("block", "conv"), Structure("branch", "x")):
        with pytest.raises(PlanError, match=f"no {gone.kind} '{gone.name}' that can be removed"):
            remove_structures(residual(), images(), [gone])
    with pytest.raises(TraceError, match="Sequential cannot run on this example input"):
        structures(residual(), images()[:, :2])


def test_a_projected_shortcut_of_its_own_stays() -> None:
    block = randomised(ResidualBlock(3, 4, stride=2)).double()
    shorter = remove_structures(chain(block=block), images(), [Structure("branch", "block")])
    assert torch.equal(shorter(images()), F.relu(block.short(images())))
