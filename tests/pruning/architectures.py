"""Small networks, one per feature that a trace must follow, with what is known of them by hand."""

from __future__ import annotations

import networks
import torch
from architecture import COMPUTED, IMAGE, WRITTEN, Architecture
from networks import Attention, Branches, Functional, Scales, between, chain, conv, head, small
from operator_architectures import OPERATOR_ARCHITECTURES
from torch import nn
from torch.nn import functional as F
from zoo_architectures import ZOO_ARCHITECTURES

__all__ = ["ARCHITECTURES", "BY_NAME", "IMAGE", "ONE_SAMPLE", "PRUNABLE", "Architecture"]

ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture("chain", small, prunable={"conv1": (6, 1), "conv2": (5, 1)}),
    Architecture(
        "batch normalisation of every kind",
        lambda: chain(
            first=conv(3, 6),
            plain=nn.BatchNorm2d(6, affine=False),
            second=conv(6, 5),
            batch=nn.BatchNorm2d(5, track_running_stats=False),
            third=conv(5, 7),
            neither=nn.BatchNorm2d(7, affine=False, track_running_stats=False),
            last=conv(7, 4),
        ),
        prunable={"first": (6, 1), "second": (5, 1), "third": (7, 1)},
    ),
    Architecture(
        "identity shortcut",
        lambda: Branches(
            lambda net, x: net.head(F.relu((y := net.stem(x)) + net.bn(net.b(F.relu(net.a(y)))))),
            stem=conv(3, 6),
            a=conv(6, 5),
            b=conv(5, 6),
            bn=nn.BatchNorm2d(6),
            head=head(6),
        ),
        prunable={"stem": (6, 1), "a": (5, 1)},
        residual=frozenset({"stem"}),
    ),
    Architecture(
        "projected shortcut",
        lambda: Branches(
            lambda net, x: net.head(F.relu(net.short(y := net.stem(x)) + net.b(F.relu(net.a(y))))),
            stem=conv(3, 6),
            a=conv(6, 5, stride=2),
            b=conv(5, 7),
            short=conv(6, 7, 1, stride=2),
            head=head(7),
        ),
        prunable={"stem": (6, 1), "short": (7, 1), "a": (5, 1)},
        residual=frozenset({"short"}),
    ),
    Architecture(
        "shortcut padded in front",
        lambda: networks.padded_shortcut(lambda net, y: (2, 2)),
        prunable={"conv1": (5, 1)},
        pinned={"stem": "zero-padded in front of the channels", "conv2": "a fixed size"},
    ),
    Architecture(
        "shortcut padded behind",
        lambda: networks.padded_shortcut(lambda net, y: (0, net.conv2.out_channels - y.shape[1])),
        prunable={"stem": (4, 1), "conv1": (5, 1), "conv2": (4, 1)},
        residual=frozenset({"stem", "conv2"}),
    ),
    Architecture(
        "shortcut padded by a written number",
        lambda: networks.padded_shortcut(lambda net, y: (0, 4)),
        prunable={"stem": (4, 1), "conv1": (5, 1)},
        pinned={"conv2": WRITTEN},
        residual=frozenset({"stem", "conv2"}),
    ),
    Architecture(
        "dense block",
        lambda: Branches(
            networks.dense,
            stem=conv(3, 5),
            bn1=nn.BatchNorm2d(5),
            grow1=conv(5, 4),
            bn2=nn.BatchNorm2d(9),
            grow2=conv(9, 3),
            head=head(12),
        ),
        prunable={"stem": (5, 1), "grow1": (4, 1), "grow2": (3, 1)},
    ),
    Architecture(
        "u-net",
        lambda: Branches(
            networks.unet,
            enter=conv(3, 5),
            down=conv(5, 7),
            up=nn.ConvTranspose2d(7, 6, 2, stride=2),
            leave=conv(11, 4),
        ),
        prunable={"enter": (5, 1), "down": (7, 1), "up": (6, 1)},
    ),
    Architecture(
        "inception",
        lambda: Branches(
            networks.inception,
            stem=conv(3, 6),
            narrow=conv(6, 4, 1),
            reduce=conv(6, 3, 1),
            wide=conv(3, 5),
            pool=conv(6, 2, 1),
            head=head(11),
        ),
        prunable={
            "stem": (6, 1),
            "narrow": (4, 1),
            "reduce": (3, 1),
            "wide": (5, 1),
            "pool": (2, 1),
        },
    ),
    Architecture(
        "channel shuffle",
        lambda: Branches(
            lambda net, x: net.head(net.deep(networks.shuffle(F.relu(net.first(net.stem(x))), 2))),
            stem=conv(3, 8),
            first=conv(8, 12, 1, groups=2),
            deep=conv(12, 12, groups=12),
            head=head(12),
        ),
        prunable={"stem": (8, 2), "first": (12, 2)},
    ),
    Architecture(
        "chunk",
        lambda: Branches(networks.split_flow, first=conv(3, 10), last=conv(5, 4)),
        prunable={"first": (10, 2)},
    ),
    Architecture(
        "uneven split",
        lambda: Branches(
            lambda net, x: net.last(torch.cat(net.first(x).split([2, 5], dim=1)[::-1], dim=1)),
            first=conv(3, 7),
            last=conv(7, 4),
        ),
        pinned={"first": WRITTEN},
    ),
    Architecture(
        "halves by slicing",
        lambda: between(lambda x: x[:, : x.shape[1] // 2] - x[:, x.shape[1] // 2 :], 8, 4),
        prunable={"first": (8, 2)},
        residual=frozenset({"first"}),
    ),
    Architecture(
        "sizes of halves written in",
        lambda: between(lambda x: x[:, :4] - x[:, 4:], 8, 4),
        pinned={"first": WRITTEN},
        residual=frozenset({"first"}),
    ),
    Architecture(
        "squeeze-excitation",
        networks.squeeze_excitation,
        prunable={"stem": (5, 1), "block.expand": (8, 1), "block.squeeze": (3, 1)},
        residual=frozenset({"stem"}),
    ),
    Architecture(
        "depthwise multiplier",
        lambda: chain(
            stem=conv(3, 4), depthwise=conv(4, 8, groups=4), bn=nn.BatchNorm2d(8), head=head(8)
        ),
        prunable={"stem": (4, 1)},
    ),
    Architecture(
        "few wide groups",
        lambda: chain(stem=conv(3, 8), grouped=conv(8, 12, groups=2), head=head(12)),
        prunable={"stem": (8, 2), "grouped": (12, 2)},
    ),
    Architecture(
        "many narrow groups",
        lambda: chain(stem=conv(3, 12), grouped=conv(12, 6, groups=6), head=head(6)),
        prunable={"stem": (12, 2)},
    ),
    Architecture(
        "transposed",
        lambda: chain(
            first=conv(3, 6),
            up=nn.ConvTranspose2d(6, 5, 3, stride=2),
            bn=nn.BatchNorm2d(5),
            last=conv(5, 4),
        ),
        prunable={"first": (6, 1), "up": (5, 1)},
    ),
    Architecture(
        "transposed, few wide groups",
        lambda: chain(
            first=conv(3, 12), up=nn.ConvTranspose2d(12, 10, 2, groups=2), last=conv(10, 4)
        ),
        prunable={"first": (12, 2), "up": (10, 2)},
    ),
    Architecture(
        "transposed, many narrow groups",
        lambda: chain(
            first=conv(3, 6), up=nn.ConvTranspose2d(6, 12, 2, groups=6), last=conv(12, 4)
        ),
        prunable={"first": (6, 1)},
    ),
    Architecture(
        "one dimension",
        lambda: chain(
            first=nn.Conv1d(3, 6, 3),
            bn=nn.BatchNorm1d(6),
            pool=nn.MaxPool1d(2),
            last=nn.Conv1d(6, 4, 3),
        ),
        shapes=((1, 3, 16),),
        prunable={"first": (6, 1)},
    ),
    Architecture(
        "three dimensions",
        lambda: chain(
            first=nn.Conv3d(2, 6, 3),
            bn=nn.BatchNorm3d(6),
            pool=nn.AvgPool3d(2),
            last=nn.Conv3d(6, 4, 1),
        ),
        shapes=((1, 2, 6, 6, 6),),
        prunable={"first": (6, 1)},
    ),
    Architecture(
        "layer scale",
        lambda: Branches(
            lambda net, x: net.head((y := net.stem(x)) + net.scale(net.last(F.gelu(net.first(y))))),
            stem=conv(3, 6),
            first=conv(6, 5, 1),
            last=conv(5, 6, 1),
            scale=Scales(6),
            head=head(6),
        ),
        prunable={"stem": (6, 1), "first": (5, 1)},
        residual=frozenset({"stem"}),
    ),
    Architecture(
        "prelu",
        lambda: chain(
            first=conv(3, 6), act=nn.PReLU(6), second=conv(6, 5), scalar=nn.PReLU(), last=conv(5, 4)
        ),
        prunable={"first": (6, 1), "second": (5, 1)},
    ),
    Architecture(
        "module used twice",
        lambda: Branches(networks.twice, stem=conv(3, 6), shared=conv(6, 6), head=head(6)),
        prunable={"stem": (6, 1)},
    ),
    Architecture("tied parameter", networks.tied, prunable={"stem": (6, 1)}),
    Architecture(
        "bare parameters in arithmetic",
        lambda: chain(first=conv(3, 6), scales=Scales(6), relu=nn.ReLU(), last=conv(6, 4)),
        prunable={"first": (6, 1)},
    ),
    Architecture("functional calls", Functional, prunable={"kernel": (6, 1)}),
    Architecture(
        "control flow on shapes",
        lambda: Branches(networks.by_shape, first=conv(3, 6), last=conv(6, 4)),
        prunable={"first": (6, 1)},
    ),
    Architecture(
        "control flow on values",
        lambda: Branches(networks.by_value, first=conv(3, 6), last=conv(6, 4)),
        prunable={"first": (6, 1)},
    ),
    Architecture(
        "several inputs",
        lambda: Branches(networks.two_inputs, image=conv(3, 6), code=nn.Linear(5, 6), head=head(6)),
        shapes=(IMAGE, (1, 5)),
        prunable={"image": (6, 1)},
        residual=frozenset({"image"}),
    ),
    Architecture(
        "keyword inputs",
        lambda: Branches(networks.two_inputs, image=conv(3, 6), code=nn.Linear(5, 6), head=head(6)),
        shapes={"code": (1, 5), "image": IMAGE},
        prunable={"image": (6, 1)},
        residual=frozenset({"image"}),
    ),
    Architecture(
        "mapping as output",
        lambda: Branches(
            lambda net, x: {"mask": net.mask(y := F.relu(net.first(x))), "logits": net.head(y)},
            first=conv(3, 6),
            mask=conv(6, 1),
            head=head(6),
        ),
        prunable={"first": (6, 1)},
    ),
    Architecture(
        "tuple as output",
        lambda: Branches(
            lambda net, x: (y := net.second(F.relu(net.first(x))), net.head(y)),
            first=conv(3, 6),
            second=conv(6, 5),
            head=head(5),
        ),
        prunable={"first": (6, 1)},
        pinned={"second": "the network's output"},
    ),
    Architecture(
        "linear after flatten",
        lambda: chain(
            first=conv(3, 6, stride=4),
            flatten=nn.Flatten(),
            fc1=nn.Linear(24, 7),
            fc2=nn.Linear(7, 4),
        ),
        prunable={"first": (6, 1), "fc1": (7, 1)},
    ),
    Architecture(
        "attention",
        lambda: Branches(
            lambda net, x: net.head(net.block(net.embed(x).flatten(2).transpose(1, 2)).mean(1)),
            embed=nn.Conv2d(3, 6, 4, 4),
            block=Attention(),
            head=nn.Linear(6, 4),
        ),
        prunable={"block.query": (5, 1), "block.value": (8, 1), "block.up": (7, 1)},
        pinned={"embed": "a layer normalisation runs over these channels"},
        residual=frozenset({"embed"}),
    ),
    Architecture(
        "flattened and back",
        lambda: between(lambda x: F.relu(x.flatten(1)).view(x.shape[0], -1, 8, 8)),
        prunable={"first": (6, 1)},
    ),
    Architecture(
        "halves interleaved",
        lambda: between(lambda x: x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2), 8),
        prunable={"first": (8, 2)},
    ),
    Architecture(
        "a head that only training uses",
        lambda: Branches(networks.auxiliary, stem=conv(3, 6), aux=conv(6, 5), head=head(6)),
        prunable={"stem": (6, 1)},
        pinned={"aux": "output"},
    ),
    Architecture(
        "size written into a reshape",
        lambda: between(lambda x: F.relu(x.view(-1, 6, 64)).view(-1, 6, 8, 8)),
        pinned={"first": WRITTEN},
    ),
    Architecture(
        "scaled by a power of the width",
        lambda: between(lambda x: x * x.shape[1] ** -0.5),
        pinned={"first": COMPUTED},
    ),
    Architecture(
        "scaled by a tensor made from the width",
        lambda: between(lambda x: x / torch.tensor(float(x.shape[1])).sqrt()),
        pinned={"first": COMPUTED},
    ),
    Architecture(
        "scaled on the device by the width",
        lambda: between(lambda x: x / torch.tensor(float(x.shape[1]), device=x.device)),
        pinned={"first": COMPUTED},
    ),
    Architecture(
        "scaled by a filled tensor",
        lambda: between(lambda x: x * torch.full((1,), 1 / x.shape[1], device=x.device)),
        pinned={"first": COMPUTED},
    ),
    Architecture(
        "scaled by the sum of ones",
        lambda: between(lambda x: x / torch.ones(x.shape[1], dtype=x.dtype).sum()),
        pinned={"first": COMPUTED},
    ),
    Architecture(
        "scale inside a matrix product",
        lambda: Branches(
            lambda net, x: net.last(
                torch.baddbmm(
                    x.new_zeros(1), q := net.first(x), q.mT, beta=0, alpha=1 / q.shape[-1]
                )
            ),
            first=nn.Linear(5, 6),
            last=nn.Linear(7, 4),
        ),
        shapes=((1, 7, 5),),
        pinned={"first": COMPUTED},
    ),
    *OPERATOR_ARCHITECTURES,
    *ZOO_ARCHITECTURES,
)

BY_NAME = {architecture.name: architecture for architecture in ARCHITECTURES}
ONE_SAMPLE = frozenset({"reshaped with one size left open", "merged and split at once"})
"""Networks whose code only works with a batch of one."""
PRUNABLE = tuple(architecture for architecture in ARCHITECTURES if architecture.prunable)
