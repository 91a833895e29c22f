"""Layers and wirings of the small networks in architectures.py."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pruning.cost import ExampleInput


def call(model: nn.Module, inputs: ExampleInput) -> Any:
    """`model` on an example input of any form."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """`model` itself with random parameters and statistics, so that no wrong result is hidden.

    Weights keep the scale of the activations; biases and statistics are far from 0 and 1.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(tensor: Tensor) -> Tensor:
        return torch.randn(tensor.shape, generator=generator)

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.copy_(normal(parameter) * (2 / parameter[0].numel()) ** 0.5)
            else:
                parameter.copy_(0.7 + 0.5 * normal(parameter))
        for name, buffer in model.named_buffers():
            if name.endswith("running_var"):
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
            elif buffer.is_floating_point():
                buffer.copy_(normal(buffer))
    return model


class Branches(nn.Module):
    """Layers by name and, as a function of them and the input, how they are wired."""

    def __init__(self, wiring: Callable[..., Any], **layers: nn.Module | None) -> None:
        super().__init__()
        self.wiring = wiring
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, *inputs: Tensor, **named: Tensor) -> Any:
        return self.wiring(self, *inputs, **named)


def chain(**layers: nn.Module) -> nn.Sequential:
    """Layers that run one after the other, by name."""
    return nn.Sequential(OrderedDict(layers))


def conv(inputs: int, outputs: int, kernel: int = 3, **options: Any) -> nn.Conv2d:
    """A convolution that keeps the extent, unless it has a stride."""
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **options)


def head(inputs: int, classes: int = 4) -> nn.Sequential:
    """Global average, then a linear layer called head.fc."""
    return chain(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(inputs, classes))


def between(
    wiring: Callable[[Tensor], Tensor], width: int = 6, after: int | None = None
) -> nn.Module:
    """A convolution of `width` channels, a function of its output, another convolution."""
    return Branches(
        lambda net, x: net.last(wiring(net.first(x))),
        first=conv(3, width),
        last=conv(width if after is None else after, 4),
    )


def small(width: int = 6, classes: int = 4) -> nn.Module:
    """The builder of stored networks: two convolutions with batch norms, and a classifier."""
    return chain(
        conv1=conv(3, width),
        bn1=nn.BatchNorm2d(width),
        relu1=nn.ReLU(),
        conv2=conv(width, 5, stride=2, bias=False),
        bn2=nn.BatchNorm2d(5),
        relu2=nn.ReLU(),
        head=head(5, classes),
    )


def layer_normalised() -> nn.Module:
    """A normalisation over all channels of the first convolution, none over the second's."""
    return chain(first=conv(3, 6), norm=nn.GroupNorm(1, 6), second=conv(6, 5), head=head(5))


class Functional(nn.Module):
    """Calls of torch.nn.functional with parameters that belong to no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.empty(6, 3, 3, 3))
        self.offset = nn.Parameter(torch.empty(6))
        self.matrix = nn.Parameter(torch.empty(4, 6))
        nn.init.normal_(self.kernel)
        nn.init.normal_(self.offset)
        nn.init.normal_(self.matrix)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(F.conv2d(x, self.kernel, self.offset, padding=1))
        return F.linear(y.mean((2, 3)), self.matrix)


class Scales(nn.Module):
    """A bare parameter per channel: LayerScale, or an offset in plain arithmetic."""

    def __init__(self, width: int, *, trailing: int = 2) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width, *[1] * trailing))
        self.beta = nn.Parameter(torch.zeros(1, width, *[1] * trailing))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma + self.beta


class Attention(nn.Module):
    """Pre-norm attention over positions and an MLP, on sequences N×L×width."""

    def __init__(self, width: int = 6, inner: int = 5, hidden: int = 7) -> None:
        super().__init__()
        self.query = nn.Linear(width, inner)
        self.key = nn.Linear(width, inner)
        self.value = nn.Linear(width, 8)
        self.project = nn.Linear(8, width)
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        query, key = self.query(y), self.key(y)
        weights = (query @ key.transpose(1, 2) * 0.5).softmax(-1)
        x = x + self.project(weights @ self.value(y))
        return x + self.down(F.gelu(self.up(self.norm(x))))


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution, squeeze-excitation, projection, identity."""

    def __init__(self, width: int, expanded: int, squeezed: int) -> None:
        super().__init__()
        self.expand = conv(width, expanded, 1)
        self.expand_bn = nn.BatchNorm2d(expanded)
        self.depthwise = conv(expanded, expanded, groups=expanded)
        self.depthwise_bn = nn.BatchNorm2d(expanded)
        self.squeeze = conv(expanded, squeezed, 1)
        self.excite = conv(squeezed, expanded, 1)
        self.project = conv(expanded, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.silu(self.expand_bn(self.expand(x)))
        y = F.silu(self.depthwise_bn(self.depthwise(y)))
        gate = self.excite(F.relu(self.squeeze(y.mean((2, 3), keepdim=True))))
        return x + self.project(y * gate.sigmoid())


def spread() -> nn.Module:
    """A builder that returns its network compiled and spread over devices."""
    return nn.DataParallel(torch.compile(small()))  # type: ignore[arg-type]


def squeeze_excitation() -> nn.Module:
    """The builder of stored networks with a block that can be removed."""
    return chain(stem=conv(3, 5), block=InvertedResidual(5, 8, 3), head=head(5))


def with_recipe(width: int = 6) -> nn.Module:
    """A builder with initialisations of its own, as torchvision's are written."""
    scratch = [nn.init.constant_(torch.empty(width), 7.0) for _ in range(3)]
    del scratch  # parameters may be made where these were
    model = chain(
        conv1=conv(3, width),
        relu=nn.ReLU(),
        conv2=conv(width, 50),
        scales=Scales(50),
        head=head(50),
    )
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    nn.init.normal_(model.conv2.weight, 0.0, (2 / (9 * width)) ** 0.5)
    nn.init.normal_(model.head.fc.weight, std=0.123)
    nn.init.zeros_(model.head.fc.bias)
    nn.init.constant_(model.head.fc.bias, 5.0)
    return model


def shuffle(x: Tensor, groups: int) -> Tensor:
    batch, channels, height, width = x.shape
    x = x.view(batch, groups, channels // groups, height, width)
    return x.transpose(1, 2).reshape(batch, channels, height, width)


def padded_shortcut(amounts: Callable[[Any, Tensor], tuple[int, int]]) -> nn.Module:
    """A shortcut without parameters from 4 channels to 8, which pads the missing ones."""

    def wiring(net: Any, x: Tensor) -> Tensor:
        x = net.stem(x)
        short = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, *amounts(net, x)))
        return net.head(F.relu(net.conv2(F.relu(net.conv1(x))) + short))

    return Branches(
        wiring, stem=conv(3, 4), conv1=conv(4, 5, stride=2), conv2=conv(5, 8), head=head(8)
    )


def unet(net: Any, x: Tensor) -> Tensor:
    high = F.relu(net.enter(x))
    low = F.relu(net.down(F.max_pool2d(high, 2)))
    return net.leave(torch.cat([high, net.up(low)], dim=1))


def dense(net: Any, x: Tensor) -> Tensor:
    x = net.stem(x)
    x = torch.cat([x, net.grow1(F.relu(net.bn1(x)))], dim=1)
    x = torch.cat([x, net.grow2(F.relu(net.bn2(x)))], dim=1)
    return net.head(x)


def inception(net: Any, x: Tensor) -> Tensor:
    x = F.relu(net.stem(x))
    pooled = F.avg_pool2d(x, 3, 1, 1)
    return net.head(
        torch.cat([net.narrow(x), net.wide(F.relu(net.reduce(x))), net.pool(pooled)], 1)
    )


def split_flow(net: Any, x: Tensor) -> Tensor:
    left, right = net.first(x).chunk(2, dim=1)
    return net.last(left * right.sigmoid())


def by_shape(net: Any, x: Tensor) -> Tensor:
    x = F.relu(net.first(x))
    while x.shape[-1] > 2:
        x = F.avg_pool2d(x, 2)
    return net.last(x).mean((2, 3))


def by_value(net: Any, x: Tensor) -> Tensor:
    y = net.first(x)
    return net.last(y) if x.sum() > -1e9 else net.last(-y)


def spatial_attention(net: Any, x: Tensor) -> Tensor:
    x = F.relu(net.first(x))
    return net.last(x * net.mask(F.relu(net.hidden(x))).sigmoid())


def channels_last(net: Any, x: Tensor) -> Tensor:
    x = net.norm(net.stem(x).permute(0, 2, 3, 1))
    return net.head(net.down(F.gelu(net.up(x))).mean((1, 2)))


def two_inputs(net: Any, image: Tensor, code: Tensor) -> Tensor:
    y = net.image(image) + net.code(code)[:, :, None, None]
    return net.head(F.relu(y))


def auxiliary(net: Any, x: Tensor) -> Any:
    x = F.relu(net.stem(x))
    return (net.head(x), net.aux(x)) if net.training else net.head(x)


def tied() -> nn.Module:
    model = chain(
        stem=conv(3, 6), first=conv(6, 6), relu=nn.ReLU(), second=conv(6, 6), head=head(6)
    )
    model.second.weight = model.first.weight
    return model


def twice(net: Any, x: Tensor) -> Tensor:
    x = F.relu(net.stem(x))
    return net.head(net.shared(F.relu(net.shared(x))))


def padded(dims: int, mode: str) -> nn.Module:
    """Two convolutions in 1, 2 or 3 dimensions with any padding mode."""
    layer: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    options = {"padding": 1, "padding_mode": mode}
    return chain(first=layer(3, 6, 3, **options), last=layer(6, 4, 3, **options))


def transformed(net: Any, x: Tensor) -> Tensor:
    x = net.first(x)
    theta = net.theta(x.mean((2, 3))).view(-1, 2, 3)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return net.last(F.grid_sample(x, grid, align_corners=False))


@torch.library.custom_op("espalier_tests::halve", mutates_args=())
def halve(x: Tensor) -> Tensor:
    """An operator that no rule knows."""
    return x * 0.5


@halve.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


halve.register_autograd(lambda _context, gradient: gradient * 0.5)


def unknown(net: Any, x: Tensor) -> Tensor:
    return net.head(net.second(halve(net.first(x))))


class Tempered(nn.Module):
    """A convolution and a linear layer with weights that a parameter of one number multiplies."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = conv(3, 6), conv(6, 5, 1), nn.Linear(5, 4)
        self.temperature = nn.Parameter(torch.tensor(0.7))

    def forward(self, x: Tensor) -> Tensor:
        y = F.conv2d(self.first(x), self.second.weight * self.temperature, self.second.bias)
        return F.linear(y.relu().mean((2, 3)), self.last.weight / self.temperature, self.last.bias)


def filled(net: Any, x: Tensor) -> Tensor:
    """Zeros and ones, as many as there are channels, in arithmetic, as a bias, put before."""
    width, narrow = net.first.out_channels, net.second.out_channels
    y = net.first(x) + torch.ones(width, 1, 1, dtype=x.dtype) * 2
    y = F.conv2d(y, net.second.weight, torch.zeros(narrow, dtype=x.dtype))
    before = torch.zeros(len(x), narrow, 1, y.shape[-1], dtype=x.dtype)
    return net.last(torch.cat([before, y], 2))


def overwritten(x: Tensor) -> Tensor:
    """Zeros of which a part is written to."""
    offsets = torch.zeros(x.shape[1], dtype=x.dtype)
    offsets[:2] += 1
    return x + offsets[:, None, None]


class MatrixVector(nn.Module):
    """Positions × channels of a convolution by a vector that is a parameter."""

    def __init__(self, product: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.first = conv(3, 6)
        self.vector = nn.Parameter(torch.ones(6))
        self.product = product

    def forward(self, x: Tensor) -> Tensor:
        return self.product(self.first(x)[0].flatten(1).t(), self.vector)


def attributes(model: nn.Module) -> dict[str, str]:
    """By the name of each module what it holds beside its tensors, modes and parts, as text."""
    torchs = vars(nn.Module())
    return {
        name: str({key: value for key, value in vars(module).items() if key not in torchs})
        for name, module in model.named_modules()
    }
