"""Search for smaller detectors: torchvision's RetinaNet, a training step and a score of one's own.

    python examples/detect_shapes.py [FOLDER]

A detector returns its losses in training and boxes afterwards, so that no loss of outputs and
targets says what it learns: `Detection` below gives `training_step` and `evaluate` instead. Each
image holds one shape, drawn at random in noise, which is to be found and named. The same from the
command line, in the folder of this file:

    espalier search --data detect_shapes:data --model detect_shapes:network \
        --task detect_shapes:Detection --criterion taylor,magnitude-l2 --budget flops=50%

It takes about a minute on two cores.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.retinanet import RetinaNet
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import box_iou

import search
from search.data.data import Loader

SIZE = 48
CLASSES = ("background", "disc", "square")
FOUND = 0.5
"""Intersection over union with the true box from which an object counts as found."""


class Boxes(Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """Colour images 3×SIZE×SIZE, each with one object: its box and the number of its class.

    seed: another one draws other objects.
    """

    classes = CLASSES  # the names in reports and in the stored networks

    def __init__(self, count: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        radii = 5 + 5 * torch.rand(count, 1, generator=generator)
        centres = radii + (SIZE - 2 * radii) * torch.rand(count, 2, generator=generator)
        self._boxes = torch.cat([centres - radii, centres + radii], 1)[:, None]
        self._labels = torch.randint(1, 3, (count, 1), generator=generator)
        line = torch.arange(SIZE)
        columns = (line[None, None, :] - centres[:, 0, None, None]).abs()
        rows = (line[None, :, None] - centres[:, 1, None, None]).abs()
        radii, is_disc = radii[:, :, None], self._labels[:, :, None] == 1
        inside = torch.where(is_disc, columns.hypot(rows), torch.maximum(columns, rows)) < radii
        noise = 0.1 * torch.randn(count, 3, SIZE, SIZE, generator=generator)
        self._images = (0.2 + 0.6 * inside[:, None] + noise).clamp(0, 1)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        return self._images[index], {"boxes": self._boxes[index], "labels": self._labels[index]}


def data() -> search.DataSplits:
    """What `--data detect_shapes:data` calls; a validation part is held out of `train`."""
    return search.DataSplits(train=Boxes(400, seed=0), test=Boxes(100, seed=1))


class Backbone(nn.Module):
    """Convolutions down to an eighth of the size."""

    def __init__(self, out_channels: int = 32) -> None:
        super().__init__()
        self.out_channels = out_channels
        layers: list[nn.Module] = []
        for inputs, outputs in ((3, 16), (16, 32), (32, out_channels)):
            layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)]
            layers += [nn.BatchNorm2d(outputs), nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class SameSize(GeneralizedRCNNTransform):
    """What torchvision's detectors do to images first, without the resizing: all have one size."""

    def resize(self, image: Tensor, target: Any = None) -> tuple[Tensor, Any]:
        return image, target


def network() -> nn.Module:
    """What `--model detect_shapes:network` calls: torchvision's RetinaNet on a small backbone."""
    detector = RetinaNet(
        Backbone(),
        num_classes=len(CLASSES),
        anchor_generator=AnchorGenerator(sizes=((12, 17),), aspect_ratios=((1.0,),)),
        detections_per_img=5,
        topk_candidates=20,
        score_thresh=0.0,
    )
    detector.transform = SameSize(SIZE, SIZE, image_mean=[0.5] * 3, image_std=[0.25] * 3)
    return detector


class Detection(search.Task):
    """Minibatches are images and, per image, boxes and labels; the network knows its losses."""

    score = search.Score("objects found")
    has_classes = False

    def training_step(self, model: nn.Module, batch: Any) -> Tensor:
        images, targets = batch
        count = len(images)
        each = [{name: values[n] for name, values in targets.items()} for n in range(count)]
        losses: dict[str, Tensor] = model(images, each)
        return torch.stack(list(losses.values())).sum()

    def evaluate(self, model: nn.Module, loader: Loader) -> float:
        """The share of objects whose surest box has their class and lies where they are."""
        model.eval()
        found = total = 0
        with torch.no_grad():
            for images, targets in loader.in_order():
                for number, boxes in enumerate(model(images)):
                    total += 1
                    if len(boxes["scores"]):
                        surest = int(boxes["scores"].argmax())
                        overlap = box_iou(boxes["boxes"][[surest]], targets["boxes"][number])
                        is_named = boxes["labels"][surest] == targets["labels"][number][0]
                        found += int(is_named and overlap[0, 0] > FOUND)
        return found / total


def settings(folder: str) -> search.SearchConfig:
    """A short search: two trials by two criteria, at half of the FLOPs."""
    return search.SearchConfig(
        model="detect_shapes:network",
        data=search.DataConfig("detect_shapes:data"),
        task="detect_shapes:Detection",
        criterion=("taylor", "magnitude-l2"),
        budget=("flops=50%",),
        training=search.TrainingConfig(
            epochs=6,
            fine_tune_epochs=3,
            scratch_epochs=8,
            optimizer="adamw",
            batch_size=16,
            learning_rate=0.002,
        ),
        study=search.StudyConfig(by_products=0, tempered_trials=0),  # or more networks to compare
        trials=2,
        ladder=(1.0,),
        profiles=1,
        equal_compute_pairs=False,
        device="cpu",
        name="detectors",
        runs=folder,
    )


def main(folder: str) -> None:
    """Search, and print what to take and what it costs."""
    os.chdir(Path(__file__).parent)  # where all names above are looked up
    result = search.run(settings(folder), console=Console())
    print(result.verdict)
    for outcome in result.front:
        print(
            f"{outcome.key}: {outcome.flops / 1e6:.2f}M FLOPs, "
            f"{100 * outcome.test_score:.0f} % of the objects found"
        )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(os.path.abspath(sys.argv[1]) if len(sys.argv) > 1 else temporary)
