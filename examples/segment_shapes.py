"""Search for smaller networks that segment images: data, a U-Net and a mean IoU of one's own.

    python examples/segment_shapes.py [FOLDER]

Discs and squares are drawn at random, in noise; the network says for each pixel whether it is
background, disc or square. The same from the command line, in the folder of this file:

    espalier search --data segment_shapes:data --model segment_shapes:network \
        --task segmentation --budget flops=25%

It takes about half a minute on two cores.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import Dataset

import search

SIZE = 32
CLASSES = ("background", "disc", "square")


class Shapes(Dataset[tuple[Tensor, Tensor]]):
    """Grey images 1×SIZE×SIZE, each with the class number of every pixel, SIZE×SIZE.

    seed: another one draws other shapes.
    """

    classes = CLASSES  # the names in reports and in the stored networks

    def __init__(self, count: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        line = torch.arange(SIZE)
        self._masks = torch.zeros(count, SIZE, SIZE, dtype=torch.int64)
        for number in (1, 2):
            centres = 6 + (SIZE - 12) * torch.rand(count, 2, 1, 1, generator=generator)
            radii = 3 + 4 * torch.rand(count, 1, 1, generator=generator)
            rows = (line[None, :, None] - centres[:, 0]).abs()
            columns = (line[None, None, :] - centres[:, 1]).abs()
            is_disc = (rows.square() + columns.square()).sqrt() < radii
            is_square = torch.maximum(rows, columns) < radii
            self._masks[is_disc if number == 1 else is_square] = number
        noise = 0.2 * torch.randn(count, 1, SIZE, SIZE, generator=generator)
        self._images = (self._masks > 0)[:, None].float() + noise

    def __len__(self) -> int:
        return len(self._masks)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self._images[index], self._masks[index]


def data() -> search.DataSplits:
    """What `--data segment_shapes:data` calls; a validation part is held out of `train`."""
    return search.DataSplits(train=Shapes(400, seed=0), test=Shapes(150, seed=1))


class UNet(nn.Module):
    """A small U-Net: three resolutions, skips that are joined to what comes from below.

    Source: Ronneberger, Fischer and Brox, "U-Net: Convolutional Networks for Biomedical Image
    Segmentation", fig. 1, with fewer and padded convolutions.
    """

    def __init__(self, num_classes: int, width: int = 16) -> None:
        super().__init__()
        self.down = nn.ModuleList([_convolutions(1, width), _convolutions(width, 2 * width)])
        self.bottom = _convolutions(2 * width, 4 * width)
        self.up = nn.ModuleList(
            [_convolutions(6 * width, 2 * width), _convolutions(3 * width, width)]
        )
        self.head = nn.Conv2d(width, num_classes, 1)
        self.halved = nn.MaxPool2d(2)
        self.doubled = nn.Upsample(scale_factor=2)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for block in self.down:
            x = block(x)
            skips.append(x)
            x = self.halved(x)
        x = self.bottom(x)
        for block in self.up:
            x = block(torch.cat([self.doubled(x), skips.pop()], 1))
        return self.head(x)


def _convolutions(inputs: int, outputs: int) -> nn.Module:
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [nn.Conv2d(channels, outputs, 3, padding=1, bias=False)]
        layers += [nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


def network(num_classes: int) -> nn.Module:
    """What `--model segment_shapes:network` calls, told how many classes there are."""
    return UNet(num_classes)


def settings(folder: str) -> search.SearchConfig:
    """A short search: two trials, at a quarter of the FLOPs and at an eighth."""
    return search.SearchConfig(
        model="segment_shapes:network",
        data=search.DataConfig(source="segment_shapes:data"),
        task="segmentation",
        budget=("flops=25%",),
        training=search.TrainingConfig(
            epochs=4, fine_tune_epochs=2, scratch_epochs=2, batch_size=20, learning_rate=0.05
        ),
        study=search.StudyConfig(by_products=0, tempered_trials=0),  # or more networks to compare
        trials=2,
        ladder=(1.0, 0.5),
        profiles=1,
        equal_compute_pairs=False,
        concurrency=2,
        device="cpu",
        name="shapes",
        runs=folder,
    )


def main(folder: str) -> None:
    """Search, and print what to take and what it costs."""
    os.chdir(Path(__file__).parent)  # where both names above are looked up
    result = search.run(settings(folder), console=Console())
    print(result.verdict)
    for outcome in result.front:
        print(f"{outcome.key}: {outcome.flops / 1e6:.2f}M FLOPs, mean IoU {outcome.test_score:.3f}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(os.path.abspath(sys.argv[1]) if len(sys.argv) > 1 else temporary)
