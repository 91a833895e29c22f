"""The closed form counts every operator as fvcore does, at full width and at smaller ones."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch
from architectures import BY_NAME
from networks import Branches
from torch import Tensor, nn
from torch.nn import functional as F

from pruning import measure_cost, remove_channels, trace
from pruning.cost import format_count
from pruning.einsum_products import einsum_products
from pruning.selection import KeepPlan

Forward = Callable[..., Tensor]
Network = tuple[Callable[[], nn.Module], tuple[int, ...]]
"""What makes it, and the shape of its input."""

IMAGES = {1: (1, 3, 12), 2: (1, 3, 6, 8), 3: (1, 3, 4, 6, 8)}
TOKENS = (1, 6, 5)


def over(dim: int, forward: Forward, **layers: nn.Module) -> Network:
    """A convolution of eight channels in `dim` dimensions, something, and another convolution."""
    convolution = getattr(nn, f"Conv{dim}d")

    def make() -> nn.Module:
        return Branches(
            lambda net, x: net.last(forward(net, net.first(x))),
            first=convolution(3, 8, 1),
            last=convolution(8, 4, 1),
            **layers,
        )

    return make, IMAGES[dim]


LAYERS: Mapping[str, Callable[[], nn.Module]] = {
    "out": lambda: nn.Linear(8, 3, bias=False),
    "norm": lambda: nn.LayerNorm(8),
    "root": lambda: nn.RMSNorm(8),
    "form": lambda: nn.Bilinear(8, 8, 3),
    "attention": lambda: nn.MultiheadAttention(8, 2, batch_first=True),
    "table": lambda: nn.Embedding(9, 8),
}


def tokens(forward: Forward) -> Network:
    """Two linear layers of six tokens and what is made of them, with the LAYERS it mentions."""

    def make() -> nn.Module:
        names = inspect.getclosurevars(forward).unbound
        return Branches(
            lambda net, x: forward(net, net.first(x), net.second(x)),
            first=nn.Linear(5, 8),
            second=nn.Linear(5, 8),
            **{name: layer() for name, layer in LAYERS.items() if name in names},
        )

    return make, TOKENS


def layers_over(dim: int) -> Iterator[tuple[str, nn.Module]]:
    """Everything that may stand between two convolutions of eight channels."""

    def of(name: str, *settings: Any, **options: Any) -> nn.Module:
        layer: nn.Module = getattr(nn, f"{name}{dim}d")(*settings, **options)
        return layer

    yield "dilated", of("Conv", 8, 8, 3, dilation=2, padding=2)
    yield "dilated same", of("Conv", 8, 8, 3, dilation=2, padding="same")
    yield "even same", of("Conv", 8, 8, 2, padding="same")
    yield "valid", of("Conv", 8, 8, 2, padding="valid")
    yield "without bias", of("Conv", 8, 8, 3, padding=1, bias=False)
    yield "strided", of("Conv", 8, 8, 3, stride=2)
    yield "depthwise", of("Conv", 8, 8, 3, groups=8, padding=1)
    yield "depthwise same", of("Conv", 8, 8, 3, groups=8, padding="same", dilation=2)
    yield "grouped", of("Conv", 8, 8, 3, groups=2, padding=1)
    yield "circular", of("Conv", 8, 8, 3, padding=1, padding_mode="circular")
    yield "reflecting", of("Conv", 8, 8, 3, padding=1, padding_mode="reflect")
    yield "transposed", of("ConvTranspose", 8, 8, 2, stride=2)
    yield "transposed, shifted", of("ConvTranspose", 8, 8, 3, 2, 1, 1, bias=False)
    yield "transposed, grouped", of("ConvTranspose", 8, 8, 2, stride=2, groups=2)
    yield "batch norm", of("BatchNorm", 8)
    yield "plain batch norm", of("BatchNorm", 8, affine=False)
    yield "batch norm of the batch", of("BatchNorm", 8, track_running_stats=False)
    yield "instance norm", of("InstanceNorm", 8)
    yield "affine instance norm", of("InstanceNorm", 8, affine=True)
    yield "tracking instance norm", of("InstanceNorm", 8, affine=True, track_running_stats=True)
    yield "group norm", nn.GroupNorm(4, 8)
    yield "plain group norm", nn.GroupNorm(4, 8, affine=False)
    yield "layer norm of positions", nn.LayerNorm(IMAGES[dim][2:])
    yield "plain layer norm of positions", nn.LayerNorm(IMAGES[dim][2:], elementwise_affine=False)
    yield "average", of("AdaptiveAvgPool", 1)
    yield "averages", of("AdaptiveAvgPool", 3)
    yield "largest", of("AdaptiveMaxPool", 2)
    yield "average pooling", of("AvgPool", 2)
    yield "maximum pooling", of("MaxPool", 2)


def resized(dim: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Options of `interpolate`."""
    linear = {1: "linear", 2: "bilinear", 3: "trilinear"}[dim]
    for mode in ("nearest", "nearest-exact", "area", linear, *["bicubic"] * (dim == 2)):
        yield f"{mode} by a factor", {"mode": mode, "scale_factor": 2}
        yield f"{mode} to a size", {"mode": mode, "size": [5] * dim}
        if mode in (linear, "bicubic"):
            yield f"{mode} aligned", {"mode": mode, "scale_factor": 1.5, "align_corners": True}
        if mode in ("bilinear", "bicubic"):
            yield f"{mode} smoothed", {"mode": mode, "scale_factor": 0.5, "antialias": True}


def sampled(x: Tensor, *size: int) -> Tensor:
    matrix = torch.eye(len(size), len(size) + 1, device=x.device)[None]
    grid = F.affine_grid(matrix, [1, 1, *size], align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


def written_in_place(net: nn.Module, x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y[:, :, 1:] = net.between(x)[:, :, 1:]
    return y


class _Squares(torch.autograd.Function):
    """fvcore does not look inside."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x @ x.transpose(1, 2)


PRODUCTS: Mapping[str, Forward] = {
    "scores": lambda net, a, b: a @ b.transpose(1, 2),
    "bmm": lambda net, a, b: torch.bmm(a, b.transpose(1, 2)),
    "covariance": lambda net, a, b: torch.bmm(a.transpose(1, 2), b),
    "covariance by matmul": lambda net, a, b: a.transpose(1, 2).matmul(b),
    "baddbmm": lambda net, a, b: torch.baddbmm(a.new_zeros(1, 6, 6), a, b.transpose(1, 2)),
    "mm": lambda net, a, b: torch.mm(a[0], b[0].t()),
    "addmm": lambda net, a, b: torch.addmm(a.new_zeros(6), a[0], b[0].t()),
    "matmul of matrices": lambda net, a, b: a[0] @ b[0].t(),
    "tokens by a matrix": lambda net, a, b: a @ b[0].t(),
    "a matrix by tokens": lambda net, a, b: a[0] @ b.transpose(1, 2),
    "matmul with a vector": lambda net, a, b: a @ b[0, 0],
    "matrix with a vector": lambda net, a, b: a[0] @ b[0, 0],
    "vector with a matrix": lambda net, a, b: a[0, 0] @ b[0].t(),
    "vector with tokens": lambda net, a, b: a[0, 0] @ b.transpose(1, 2),
    "mv": lambda net, a, b: torch.mv(a[0], b[0, 0]),
    "dot": lambda net, a, b: torch.dot(a[0, 0], b[0, 0])[None],
    "vectors by matmul": lambda net, a, b: (a[0, 0] @ b[0, 0])[None],
    "outer": lambda net, a, b: torch.outer(a[0, 0], b[0, 0]),
    "ger": lambda net, a, b: torch.ger(a[0, 0], b[0, 1]),
    "addmv": lambda net, a, b: torch.addmv(a.new_zeros(6), a[0], b[0, 0]),
    "addbmm": lambda net, a, b: torch.addbmm(a.new_zeros(6, 6), a, b.transpose(1, 2)),
    "addr": lambda net, a, b: torch.addr(a.new_zeros(8, 8), a[0, 0], b[0, 0]),
    "inner": lambda net, a, b: torch.inner(a[0], b[0]),
    "tensordot": lambda net, a, b: torch.tensordot(a, b, ([2], [2])),
    "chain": lambda net, a, b: torch.linalg.multi_dot([a[0], b[0].t(), a[0]]),
    "heads": lambda net, a, b: (
        a.view(1, 6, 2, -1).transpose(1, 2) @ b.view(1, 6, 2, -1).permute(0, 2, 3, 1)
    ),
    "broadcast batches": lambda net, a, b: (
        a.view(1, 6, 2, -1).transpose(1, 2) @ b.transpose(1, 2).unsqueeze(1)[:, :, :4]
    ),
    "four by three axes": lambda net, a, b: (
        a.view(1, 6, 2, -1).permute(0, 2, 1, 3) @ a.new_ones(4, 3)
    ),
    "einsum of matrices": lambda net, a, b: torch.einsum("ntc,nsc->nts", a, b),
    "einsum of covariances": lambda net, a, b: torch.einsum("ntc,ntd->ncd", a, b),
    "einsum with an adjacency": lambda net, a, b: torch.einsum(
        "ntc,ts->nsc", a + b, a.new_ones(6, 6)
    ),
    "einsum of a graph convolution": lambda net, a, b: torch.einsum(
        "nkctv,kvw->nctw", (a + b).view(1, 2, 4, 1, 6), a.new_ones(2, 6, 6)
    ),
    "einsum that sums first": lambda net, a, b: torch.einsum("ntc,nsd->nts", a, b),
    "einsum that only multiplies": lambda net, a, b: torch.einsum("ntc,ntc->ntc", a, b),
    "einsum of one": lambda net, a, b: torch.einsum("ntc->nct", a + b),
    "einsum that is a sum": lambda net, a, b: torch.einsum("ntc->nt", a + b),
    "einsum of three": lambda net, a, b: torch.einsum("ntc,nsc,ns->nt", a, b, a.new_ones(1, 6)),
    "einsum with an ellipsis": lambda net, a, b: torch.einsum("...tc,...sc->...ts", a, b),
    "einsum of large numbers": lambda net, a, b: torch.einsum(
        "ntc,sc->nts", a + b, a.new_ones(12345, 8)
    ),
    "linear by a function": lambda net, a, b: F.linear(a + b, a.new_ones(7, 8)),
    "linear without bias": lambda net, a, b: net.out(a + b),
    "linear of a vector": lambda net, a, b: net.out(a[0, 0] + b[0, 0]),
    "linear of a matrix": lambda net, a, b: net.out(a[0] + b[0]),
    "bilinear": lambda net, a, b: net.form(a, b),
    "attention": lambda net, a, b: F.scaled_dot_product_attention(a, b, a),
    "attention of heads": lambda net, a, b: F.scaled_dot_product_attention(
        *(x.view(1, 6, 2, -1).transpose(1, 2) for x in (a, b, a))
    ),
    "multi-head attention": lambda net, a, b: net.attention(a, b, b)[0],
    "multi-head attention, fused": lambda net, a, b: net.attention(a, b, b, need_weights=False)[0],
    "embedding": lambda net, a, b: a + b + net.table(torch.arange(6, device=a.device)),
    "layer norm": lambda net, a, b: net.norm(a) + b,
    "layer norm by a function": lambda net, a, b: F.layer_norm(a + b, (8,)),
    "rms norm": lambda net, a, b: net.root(a) + b,
    "an autograd function": lambda net, a, b: _Squares.apply(a + b),
    "a cosine": lambda net, a, b: F.cosine_similarity(a, b, dim=2),
    "distances": lambda net, a, b: torch.cdist(a, b),
}


class WaveNet(nn.Module):
    """Gated dilated convolutions; what the last one adds to the stream is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(3, 8, 1)
        self.gated = nn.ModuleList(
            nn.Conv1d(8, 16, 2, dilation=d, padding="same") for d in (1, 2, 4)
        )
        self.onward = nn.ModuleList(nn.Conv1d(8, 8, 1) for _ in range(3))
        self.skips = nn.ModuleList(nn.Conv1d(8, 6, 1) for _ in range(3))
        self.head = nn.Conv1d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x, total = self.stem(x), 0
        for gated, onward, skip in zip(self.gated, self.onward, self.skips, strict=True):
            values, gate = gated(x).chunk(2, 1)
            y = values.tanh() * gate.sigmoid()
            x, total = x + onward(y), total + skip(y)
        return self.head(total.relu())


class DeeplySupervised(nn.Module):
    """A U-Net that keeps the outputs of its inner heads, as DynUNet does, for training alone."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.inner = nn.Conv3d(3, 8, 3, 2, 1), nn.Conv3d(8, 12, 3, padding=1)
        self.norm = nn.InstanceNorm3d(12, affine=True)
        self.shortcut = nn.Conv3d(8, 12, 1)
        self.inner_head = nn.Conv3d(12, 4, 1)
        self.up, self.head = nn.ConvTranspose3d(12, 8, 2, 2), nn.Conv3d(8, 4, 1)
        self.heads: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(x)
        x = F.leaky_relu(self.norm(self.inner(x)) + self.shortcut(x))
        self.heads = [self.inner_head(x).detach()]
        return self.head(self.up(x))


class PyramidPooling(nn.Module):
    """Averages of several sizes beside the image, and a sum from coarse to fine, as in UperNet."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, 2, 1)
        self.pooled = nn.ModuleList(nn.Conv2d(8, 3, 1) for _ in range(3))
        self.joined, self.lateral = nn.Conv2d(17, 6, 3, padding=1), nn.Conv2d(8, 6, 1)
        self.head = nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.fine(x).relu()
        y = self.coarse(fine)
        averages = [
            F.interpolate(layer(F.adaptive_avg_pool2d(y, n)), y.shape[2:], mode="bilinear")
            for n, layer in enumerate(self.pooled, 1)
        ]
        y = self.joined(torch.cat([y, *averages], 1))
        return self.head(self.lateral(fine) + F.interpolate(y, fine.shape[2:], mode="bilinear"))


class Cascade(nn.Module):
    """Branches at several resolutions with heads that only training uses, as in ICNet."""

    def __init__(self) -> None:
        super().__init__()
        self.whole, self.small = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(3, 6, 3, 2, 1)
        self.norm, self.dilated = nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3, padding=2, dilation=2)
        self.aux, self.head = nn.Conv2d(6, 4, 1), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        low = self.small(F.interpolate(x, scale_factor=0.5, mode="bilinear", align_corners=True))
        low = F.interpolate(low, scale_factor=2, mode="bilinear", align_corners=True)
        y = (self.norm(self.dilated(low)) + self.whole(x)).relu()
        aux, y = self.aux(low), self.head(y)
        return torch.cat([aux, y], 1) if self.training else y


class SecondOrderPooling(nn.Module):
    """The covariance of channels and its root, as in iSQRT-COV, by an autograd function."""

    class Root(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return torch.baddbmm(1.5 * x, x, x.bmm(x), alpha=-0.5)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Conv2d(3, 8, 1), nn.Linear(64, 4)
        self.root = self.Root.apply

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).flatten(2)
        centred = torch.eye(x.shape[2], device=x.device)[None] - 1 / x.shape[2]
        return self.head(self.root(x.bmm(centred).bmm(x.transpose(1, 2))).flatten(1))


NETWORKS: Mapping[str, Network] = {
    **{
        f"{dim}d {name}": over(dim, lambda net, x: net.between(x), between=layer)
        for dim in IMAGES
        for name, layer in layers_over(dim)
    },
    **{
        f"{dim}d {name}": over(dim, lambda _, x, options=options: F.interpolate(x, **options))
        for dim in IMAGES
        for name, options in resized(dim)
    },
    **{name: tokens(forward) for name, forward in PRODUCTS.items()},
    "layers that resize": over(
        2,
        lambda net, x: net.nearest(net.linear(x)),
        linear=nn.UpsamplingBilinear2d(scale_factor=2),
        nearest=nn.UpsamplingNearest2d(size=(7, 7)),
    ),
    "pooling along one axis": over(2, lambda _, x: F.adaptive_avg_pool2d(x, (None, 1))),
    "sampling of images": over(2, lambda _, x: sampled(x, 5, 7)),
    "sampling of volumes": over(3, lambda _, x: sampled(x, 3, 5, 7)),
    "an unused call": over(2, lambda net, x: (net.between(x), x)[1], between=nn.Conv2d(8, 8, 3)),
    "unused calls in a row": over(
        2, lambda net, x: (net.b(net.a(x)), x)[1], a=nn.Conv2d(8, 8, 3), b=nn.Conv2d(8, 2, 1)
    ),
    "unused pooling": over(2, lambda _, x: (F.adaptive_avg_pool2d(x, 1), x)[1]),
    "an unused product": over(2, lambda _, x: (x @ x.transpose(2, 3), x)[1]),
    "written in place": over(2, written_in_place, between=nn.Conv2d(8, 8, 1)),
    "added in place": over(
        2,
        lambda net, x: (y := x.relu(), y[:, :, 1:].add_(net.between(x)), y)[0],
        between=nn.Conv2d(8, 8, (2, 1)),
    ),
    "a transformer": (
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2),
        (1, 6, 8),
    ),
    "WaveNet, same": (WaveNet, IMAGES[1]),
    "DynUNet": (DeeplySupervised, IMAGES[3]),
    "UperNet": (PyramidPooling, IMAGES[2]),
    "ICNet": (Cascade, (1, 3, 8, 8)),
    "iSQRT-COV": (SecondOrderPooling, IMAGES[2]),
    "a recurrent network": (lambda: nn.LSTM(5, 8, batch_first=True), TOKENS),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_closed_form_is_what_is_measured(name: str) -> None:
    make, shape = NETWORKS[name]
    model, example = make().eval(), torch.ones(shape)
    graph = trace(model, example)
    assert graph.cost() == measure_cost(model, example)
    keep = {}
    for group in graph.prunable:
        units = max(group.min_units, group.num_units // 2)
        keep[group.name] = tuple(
            torch.tensor(group.unit_of_channel < units).nonzero()[:, 0].tolist()
        )
    smaller = remove_channels(model, graph, KeepPlan(keep))
    widths = {key: len(kept) for key, kept in keep.items()}
    assert graph.cost(widths) == measure_cost(smaller, example)


OURS = {
    **dict.fromkeys([name for name in NETWORKS if name.endswith(("same", "valid"))], "left out"),
    "matmul with a vector": "fails",
    "matrix with a vector": "fails",
    "vectors by matmul": "fails",
    "einsum that only multiplies": "counted by elements",
    "einsum of one": "counted by elements",
    "einsum that is a sum": "counted by elements",
    "einsum of three": "in another order",
    "einsum of large numbers": "rounded",
}
"""What fvcore makes of those that are counted otherwise here: docs/concepts/channel-graph.md."""


def fvcores_count(name: str) -> int:
    from fvcore.nn import FlopCountAnalysis  # noqa: PLC0415 - it warns of its own age

    make, shape = NETWORKS[name]
    with torch.enable_grad():  # or transformers take a path that is not counted
        analysis = FlopCountAnalysis(make().eval(), torch.ones(shape))
        return int(analysis.unsupported_ops_warnings(False).total())


def count(name: str) -> int:
    make, shape = NETWORKS[name]
    return measure_cost(make(), torch.ones(shape)).flops


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in OURS])
def test_what_is_measured_is_fvcores_count(name: str) -> None:
    assert count(name) == fvcores_count(name)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", OURS)
def test_what_fvcore_leaves_out_or_rounds_is_counted(name: str) -> None:
    if OURS[name] == "fails":
        with pytest.raises(IndexError):
            fvcores_count(name)
    elif OURS[name] == "counted by elements":
        assert fvcores_count(name) > count(name) == count("scores") - 6 * 6 * 8
    elif OURS[name] == "rounded":
        assert fvcores_count(name) == pytest.approx(count(name), rel=1e-3)
        assert fvcores_count(name) != count(name)
    else:
        assert fvcores_count(name) < count(name)


@pytest.mark.filterwarnings("ignore")
def test_a_wavenet_costs_what_its_convolutions_do() -> None:
    """Three of them are padded by name, at 12 positions."""
    assert (fvcores_count("WaveNet, same"), count("WaveNet, same")) == (3840, 13_056)
    assert 13_056 - 3840 == 3 * 12 * (8 * 16 * 2)


UNCOUNTED = {
    "attention": (("scaled_dot_product_attention", 2 * 6 * 6 * 8),),
    "multi-head attention, fused": (("scaled_dot_product_attention", 2 * 6 * 6 * 8),),
    "multi-head attention": (),
    "baddbmm": (("aten::baddbmm", 6 * 6 * 8),),
    "mv": (("aten::mv", 6 * 8),),
    "matrix with a vector": (),
    "dot": (("aten::dot", 8),),
    "addmv": (("aten::addmv", 6 * 8),),
    "inner": (("inner", 6 * 6 * 8),),
    "tensordot": (("tensordot", 6 * 6 * 8),),
    "bilinear": (("bilinear", 6 * 8 * 8 * 3),),
    "an autograd function": (("_Squares", 6 * 6 * 8),),
    "a recurrent network": (("lstm", 6 * 4 * 8 * (5 + 8)),),
    "a transformer": (("scaled_dot_product_attention", 2 * 2 * 6 * 6 * 8),),
    "unused calls in a row": (),
}


@pytest.mark.parametrize("name", UNCOUNTED)
def test_what_is_not_counted_is_told(name: str) -> None:
    make, shape = NETWORKS[name]
    assert trace(make(), torch.ones(shape)).cost().notes == tuple(
        f"fvcore does not count {operator}: {format_count(number)} more multiply-adds"
        for operator, number in UNCOUNTED[name]
    )


@pytest.mark.parametrize("bias", ["", " without a bias"])
def test_a_deformable_convolution_multiplies_as_often_as_another(bias: str) -> None:
    """8 filters of 6 channels and 9 positions, on 64 places."""
    architecture = BY_NAME[f"deformable convolution{bias}"]
    cost = architecture.graph.cost()
    operator, number = "torchvision::deform_conv2d", 8 * 6 * 9 * 64
    assert cost.uncounted == number
    assert cost.notes == (
        f"fvcore does not count {operator}: {format_count(number)} more multiply-adds",
    )
    assert measure_cost(architecture.network(), architecture.example()).notes == (
        f"fvcore does not count {operator} (1 calls; the cost of a trace says how much)",
    )
    halved = architecture.graph.cost({"first": 3, "deform": 4}).uncounted
    assert halved == 4 * 3 * 9 * 64


@pytest.mark.parametrize("context", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_a_frozen_transformer_costs_as_much_as_one_that_learns(context: Any) -> None:
    """Without gradients torch takes one fused operator, which fvcore does not count."""
    make, shape = NETWORKS["a transformer"]
    example, cost = torch.ones(shape), measure_cost(make(), torch.ones(shape))
    frozen = make().requires_grad_(False)
    with context():
        assert measure_cost(frozen, example) == trace(frozen, example).cost() == cost
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize(
    ("equation", "ranks", "expected"),
    [
        ("ij,jk->ik", [2, 2], ["ijk"]),
        ("ij, jk", [2, 2], ["ijk"]),
        ("ij,ij->ij", [2, 2], []),
        ("i,j->ij", [1, 1], []),
        ("ij,ij", [2, 2], ["ij"]),
        ("ij->ji", [2], []),
        ("ij,jk,kl->il", [2, 2, 2], ["ijk", "ikl"]),
        ("...j,jk->...k", [3, 2], ["jkαβ"]),
        ("...j,...j", [3, 2], ["jαβ"]),
    ],
)
def test_products_of_an_equation(equation: str, ranks: list[int], expected: list[str]) -> None:
    assert list(einsum_products(equation, ranks)[1]) == expected
