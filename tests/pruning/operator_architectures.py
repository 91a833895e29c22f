"""Small networks around single operators, one per way in which an operator treats channels."""

from __future__ import annotations

import functools

import networks
import torch
from architecture import COMPUTED, NO_RULE, WRITTEN, Architecture
from networks import Branches, MatrixVector, between, chain, conv, head
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torchvision.ops import DeformConv2d

NORMALISED = "one normalisation runs over all channels"

OPERATOR_ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(
        "grouped convolution of the input",
        lambda: chain(first=conv(3, 12, groups=3), relu=nn.ReLU(), last=conv(12, 4)),
        prunable={"first": (12, 3)},
    ),
    Architecture(
        "grouped transposed convolution of the input",
        lambda: chain(first=nn.ConvTranspose2d(3, 12, 2, 2, groups=3), last=conv(12, 4)),
        prunable={"first": (12, 3)},
    ),
    Architecture(
        "magnitude of complex numbers",
        lambda: between(lambda x: torch.complex(x, x.flip(-1)).abs()),
        prunable={"first": (6, 1)},
    ),
    Architecture(
        "group normalisation",
        lambda: chain(
            first=conv(3, 12), norm=nn.GroupNorm(4, 12), relu=nn.ReLU(), last=conv(12, 4)
        ),
        prunable={"first": (12, 3)},
    ),
    Architecture(
        "group normalisation without parameters",
        lambda: chain(first=conv(3, 9), norm=nn.GroupNorm(3, 9, affine=False), last=conv(9, 4)),
        pinned={"first": WRITTEN},
    ),
    Architecture(
        "group normalisation over everything",
        lambda: chain(first=conv(3, 6), norm=nn.GroupNorm(1, 6), last=conv(6, 4)),
        pinned={"first": NORMALISED},
    ),
    Architecture(
        "layer normalisation",
        lambda: Branches(
            networks.channels_last,
            stem=conv(3, 6),
            norm=nn.LayerNorm(6),
            up=nn.Linear(6, 9),
            down=nn.Linear(9, 5),
            head=nn.Linear(5, 4),
        ),
        prunable={"up": (9, 1), "down": (5, 1)},
        pinned={"stem": "a layer normalisation runs over these channels"},
    ),
    Architecture(
        "instance normalisation",
        lambda: chain(
            first=conv(3, 6),
            norm=nn.InstanceNorm2d(6, affine=True, track_running_stats=True),
            relu=nn.ReLU(),
            last=conv(6, 4),
        ),
        prunable={"first": (6, 1)},
    ),
    Architecture(
        "instance normalisation without parameters",
        lambda: chain(first=conv(3, 6), norm=nn.InstanceNorm2d(6), relu=nn.ReLU(), last=conv(6, 4)),
        prunable={"first": (6, 1)},
    ),
    Architecture(
        "unknown operator",
        lambda: Branches(networks.unknown, first=conv(3, 6), second=conv(6, 5), head=head(5)),
        prunable={"second": (5, 1)},
        pinned={"first": NO_RULE},
    ),
    Architecture(
        "a weight through an unknown operator",
        lambda: Branches(
            lambda net, x: net.last(
                F.conv2d(net.first(x), networks.halve(net.second.weight), net.second.bias)
            ),
            first=conv(3, 6),
            second=conv(6, 5, 1),
            last=conv(5, 4),
        ),
        pinned={"first": NO_RULE, "second": NO_RULE},
    ),
    Architecture(
        "a weight times a learned number",
        networks.Tempered,
        prunable={"first": (6, 1), "second": (5, 1)},
    ),
    Architecture(
        "values that are all alike",
        lambda: Branches(
            networks.filled, first=conv(3, 6), second=conv(6, 5, bias=False), last=conv(5, 4)
        ),
        prunable={"first": (6, 1), "second": (5, 1)},
    ),
    Architecture(
        "values that are all alike, of a written number",
        lambda: between(lambda x: x + torch.ones(6, 1, 1, dtype=x.dtype)),
        pinned={"first": WRITTEN},
    ),
    Architecture(
        "values that were all alike",
        lambda: between(networks.overwritten),
        pinned={"first": "combined with values of a fixed size"},
    ),
    Architecture(
        "pixel shuffle",
        lambda: chain(first=conv(3, 20), shuffle=nn.PixelShuffle(2), last=conv(5, 4)),
        prunable={"first": (20, 4)},
    ),
    Architecture(
        "one channel spread over many",
        lambda: Branches(
            networks.spatial_attention,
            first=conv(3, 6),
            hidden=conv(6, 5),
            mask=conv(5, 1),
            last=conv(6, 4),
        ),
        prunable={"first": (6, 1), "hidden": (5, 1)},
        pinned={"mask": "one channel broadcast over many"},
    ),
    Architecture(
        "resized and padded",
        lambda: between(
            lambda x: F.pad(
                F.interpolate(x, scale_factor=2, mode="bilinear"), (1, 1, 1, 1), "reflect"
            )
        ),
        prunable={"first": (6, 1)},
    ),
    Architecture(
        "softmax over channels",
        lambda: between(lambda x: x.softmax(1)),
        pinned={"first": "a softmax runs over these channels"},
    ),
    Architecture(
        "normalised over channels",
        lambda: between(lambda x: F.normalize(x, dim=1)),
        pinned={"first": "reduced over all channels"},
    ),
    Architecture(
        "one channel picked",
        lambda: between(lambda x: x - x[:, 2].unsqueeze(1)),
        pinned={"first": "a channel picked by its number"},
    ),
    Architecture(
        "stacked branches",
        lambda: Branches(
            lambda net, x: net.last(torch.stack([net.left(x), net.right(x)]).amax(0)),
            left=conv(3, 6),
            right=conv(3, 6, 1),
            last=conv(6, 4),
        ),
        prunable={"left": (6, 1)},
    ),
    Architecture(
        "added in place",
        lambda: Branches(
            lambda net, x: net.last(net.left(x).add_(net.right(x)).relu_()),
            left=conv(3, 6),
            right=conv(3, 6, 1),
            last=conv(6, 4),
        ),
        prunable={"left": (6, 1)},
        residual=frozenset({"left"}),
    ),
    Architecture(
        "written into a buffer of zeros",
        lambda: between(lambda x: x.new_zeros(x.shape).copy_(x)),
        prunable={"first": (6, 1)},
    ),
    Architecture(
        "channel shuffle as one operator",
        lambda: chain(first=conv(3, 12), shuffle=nn.ChannelShuffle(3), last=conv(12, 4)),
        prunable={"first": (12, 3)},
    ),
    Architecture(
        "channel shuffle into as many parts as the width says",
        lambda: between(lambda x: F.channel_shuffle(x, x.shape[1] // 4), 8),
        pinned={"first": COMPUTED},
    ),
    *(
        Architecture(
            f"{mode} padding in {dims} dimensions",
            functools.partial(networks.padded, dims, mode),
            shapes=((1, 3, *[5] * dims),),
            prunable={"first": (6, 1)},
        )
        for mode in ("circular", "reflect", "replicate")
        for dims in (1, 2, 3)
    ),
    Architecture(
        "padded by a value and cropped",
        lambda: between(lambda x: F.pad(x, (-1, 2, 1, 0), value=3.0)),
        prunable={"first": (6, 1)},
    ),
    Architecture(
        "padded by a value made from the width",
        lambda: between(lambda x: F.pad(x, (1, 1), value=float(x.shape[1]))),
        pinned={"first": COMPUTED},
    ),
    Architecture(
        "channels last in memory",
        lambda: between(
            lambda x: F.adaptive_avg_pool2d(x.to(memory_format=torch.channels_last), 1) * x
        ),
        prunable={"first": (6, 1)},
    ),
    Architecture(
        "memory read with other strides",
        lambda: between(lambda x: x.as_strided(x.shape, (1, 64, 1, 8))),
        pinned={"first": "memory read with other strides"},
    ),
    Architecture(
        "pointwise operator of two results",
        lambda: between(lambda x: torch.ldexp(*torch.frexp(x))),
        prunable={"first": (6, 1)},
    ),
    Architecture(
        "single channel reshaped",
        lambda: between(lambda x: F.relu(x.flatten(1)).view(1, -1, 1, 8, 8).view(x.shape), 1),
        prunable={"first": (1, 1)},
    ),
    Architecture(
        "reshaped with one size left open",
        lambda: between(lambda x: x.view(1, -1, 2, 8, 8).transpose(1, 2).flatten(1, 2), 8),
        prunable={"first": (8, 2)},
    ),
    Architecture(
        "merged and split at once",
        lambda: between(lambda x: x.reshape(1, -1, 32).view(1, -1, 8, 8)),
        prunable={"first": (6, 1)},
    ),
    Architecture(
        "gated linear unit",
        lambda: chain(first=conv(3, 10), unit=nn.GLU(1), last=conv(5, 4)),
        prunable={"first": (10, 2)},
    ),
    Architecture(
        "pixel unshuffle",
        lambda: chain(first=conv(3, 5), unshuffle=nn.PixelUnshuffle(2), last=conv(20, 4)),
        prunable={"first": (5, 1)},
    ),
    Architecture(
        "patches",
        lambda: Branches(
            lambda net, x: net.last(F.fold(net.deep(F.unfold(net.first(x), 2)), (8, 8), (2, 2))),
            first=conv(3, 5),
            deep=nn.Conv1d(20, 24, 1),
            last=conv(6, 4),
        ),
        prunable={"first": (5, 1), "deep": (24, 4)},
    ),
    Architecture(
        "windows",
        lambda: between(lambda x: x.unfold(2, 3, 1).unfold(3, 3, 1).amax((-1, -2))),
        prunable={"first": (6, 1)},
    ),
    Architecture(
        "max unpooling",
        lambda: between(
            lambda x: F.max_unpool2d(
                *F.max_pool2d(x, 2, return_indices=True), 2, output_size=(8, 8)
            )
        ),
        prunable={"first": (6, 1)},
    ),
    Architecture(
        "along positions",
        lambda: between(
            lambda x: x.cumsum(2).sort(3).values.roll((1, 2), (2, 3)).tril().topk(5, dim=2).values
        ),
        prunable={"first": (6, 1)},
    ),
    Architecture(
        "gathered by an order",
        lambda: between(lambda x: x.gather(3, (x * 2).argsort(3)) - x.median(3, keepdim=True)[0]),
        prunable={"first": (6, 1)},
        residual=frozenset({"first"}),
    ),
    Architecture(
        "cumulated over channels",
        lambda: between(lambda x: x.cumsum(1)),
        pinned={"first": "channels combined along their axis"},
    ),
    Architecture(
        "sorted over channels",
        lambda: between(lambda x: x.sort(1).values),
        pinned={"first": "channels moved along their axis"},
    ),
    Architecture(
        "rolled over everything",
        lambda: between(lambda x: x.roll(3)),
        pinned={"first": "channels moved along their axis"},
    ),
    Architecture(
        "rolled by the width",
        lambda: between(lambda x: x.roll(x.shape[1], 3)),
        pinned={"first": COMPUTED},
    ),
    Architecture(
        "in the frequency domain",
        lambda: between(lambda x: torch.view_as_real(torch.fft.rfft2(x)).mul(0.1).flatten(3)),
        prunable={"first": (6, 1)},
    ),
    Architecture(
        "spatial transformer",
        lambda: Branches(
            networks.transformed, first=conv(3, 6), theta=nn.Linear(6, 6), last=conv(6, 4)
        ),
        prunable={"first": (6, 1)},
        pinned={"theta": "used as positions"},
    ),
    Architecture(
        "resized by area",
        lambda: between(lambda x: F.interpolate(x, scale_factor=0.5, mode="area")),
        prunable={"first": (6, 1)},
    ),
    Architecture(
        "resized to the very nearest",
        lambda: between(lambda x: F.interpolate(x, size=5, mode="nearest-exact")),
        prunable={"first": (6, 1)},
    ),
    Architecture(
        "activations in place",
        lambda: between(lambda x: F.mish(x.abs_(), inplace=True)),
        prunable={"first": (6, 1)},
    ),
    Architecture(
        "weight norm",
        lambda: chain(
            first=parametrizations.weight_norm(conv(3, 6)),
            act=nn.ReLU(),
            second=parametrizations.weight_norm(conv(6, 5)),
            last=conv(5, 4),
        ),
        prunable={"second.parametrizations.weight": (5, 1)},
        pinned={"first.parametrizations.weight": "a weight norm runs over these channels"},
    ),
    Architecture(
        "divided without remainder",
        lambda: between(lambda x: x * (1 + x.detach() // 2)),
        prunable={"first": (6, 1)},
    ),
    Architecture(
        "log-sigmoid",
        lambda: chain(first=conv(3, 6), act=nn.LogSigmoid(), last=conv(6, 4)),
        prunable={"first": (6, 1)},
    ),
    *(
        Architecture(
            f"into a recurrent layer, {name}",
            lambda make=make: Branches(
                lambda net, x: net.last(net.recurrent(F.relu(net.first(x)))[0]),
                first=nn.Linear(5, 7),
                recurrent=make(7, 6, batch_first=True),
                last=nn.Linear(6, 4),
            ),
            shapes=((1, 3, 5),),
            prunable={"first": (7, 1)},
            pinned={"recurrent": "fixed"},
            residual=frozenset({"recurrent"}),
        )
        for name, make in {
            "LSTM": nn.LSTM,
            "GRU": nn.GRU,
            "RNN": nn.RNN,
        }.items()
    ),
    Architecture(
        "into a recurrent cell",
        lambda: Branches(
            lambda net, x: net.last(net.cell(net.first(x))),
            first=nn.Linear(5, 7),
            cell=nn.GRUCell(7, 6),
            last=nn.Linear(6, 4),
        ),
        shapes=((1, 5),),
        prunable={"first": (7, 1)},
        pinned={"cell": WRITTEN},
        residual=frozenset({"cell"}),
    ),
    Architecture(
        "into the keys and values of an attention",
        lambda: Branches(
            lambda net, x: net.last(net.attend(net.query(x), net.key(x), net.value(x))[0]),
            query=nn.Linear(5, 6),
            key=nn.Linear(5, 7),
            value=nn.Linear(5, 8),
            attend=nn.MultiheadAttention(6, 2, kdim=7, vdim=8, batch_first=True),
            last=nn.Linear(6, 4),
        ),
        shapes=((1, 3, 5),),
        prunable={"key": (7, 1), "value": (8, 1), "attend.out_proj": (6, 1)},
        pinned={"query": WRITTEN, "attend": WRITTEN},
    ),
    Architecture(
        "deformable convolution",
        lambda: Branches(
            lambda net, x: net.last(net.deform(y := net.first(x), net.offsets(y)).relu()),
            first=conv(3, 6),
            offsets=conv(6, 18),
            deform=DeformConv2d(6, 8, 3, padding=1),
            last=conv(8, 4),
        ),
        prunable={"first": (6, 1), "deform": (8, 1)},
        pinned={"offsets": "used as positions"},
    ),
    Architecture(
        "deformable convolution without a bias",
        lambda: Branches(
            lambda net, x: net.last(net.deform(net.first(x), net.offsets(x)).relu()),
            first=conv(3, 6),
            offsets=conv(3, 18),
            deform=DeformConv2d(6, 8, 3, padding=1, bias=False),
            last=conv(8, 4),
        ),
        prunable={"first": (6, 1), "deform": (8, 1)},
        pinned={"offsets": "used as positions"},
    ),
    Architecture(
        "embedding",
        lambda: Branches(
            lambda net, x: net.last(net.table(x.abs().long().clamp(max=8)).relu()),
            table=nn.Embedding(9, 8),
            last=nn.Linear(8, 4),
        ),
        shapes=((1, 6),),
        prunable={"table": (8, 1)},
    ),
    Architecture(
        "bilinear form",
        lambda: Branches(
            lambda net, x: net.last(net.form(net.left(x), net.right(x)).relu()),
            left=nn.Linear(5, 6),
            right=nn.Linear(5, 7),
            form=nn.Bilinear(6, 7, 8),
            last=nn.Linear(8, 4),
        ),
        shapes=((1, 5),),
        prunable={"left": (6, 1), "right": (7, 1), "form": (8, 1)},
    ),
    Architecture(
        "what is made of the input alone",
        lambda: Branches(
            lambda net, x: net.last(
                net.first(F.interpolate(x, size=6, mode="bilinear")).relu()
                * (y := F.adaptive_avg_pool2d(x, 2).flatten(2)).matmul(y.mT).mean()
            ),
            first=conv(3, 6),
            last=conv(6, 4),
        ),
        prunable={"first": (6, 1)},
    ),
    Architecture(
        "matrix times vector",
        lambda: MatrixVector(lambda x, vector: x @ vector),
        prunable={"first": (6, 1)},
    ),
    Architecture(
        "bias and matrix times vector",
        lambda: MatrixVector(lambda x, vector: torch.addmv(x[:, 0], x, vector)),
        pinned={"first": "a channel picked by its number"},
    ),
)
