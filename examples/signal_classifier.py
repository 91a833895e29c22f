"""Search for smaller networks that read signals: a Dataset and a 1-d network of one's own.

    python examples/signal_classifier.py [FOLDER]

Nothing here is an image, and nothing is Espalier's: `data` below returns the Datasets, `network`
the network, and the search is told both by their names. The same from the command line, in the
folder of this file:

    espalier search --data signal_classifier:data --model signal_classifier:network \
        --budget flops=25%

Signals are made at random, a sine, a square or a saw of any pitch and phase, in noise. It takes
about half a minute on two cores.
"""

from __future__ import annotations

import math
import os
import sys
import tempfile
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import Dataset

import search

LENGTH = 128
SHAPES = ("sine", "square", "saw")


class Signals(Dataset[tuple[Tensor, int]]):
    """Signals of one channel, 1×LENGTH, each with the number of its shape.

    seed: another one makes other signals.
    """

    classes = SHAPES  # the names in reports and in the stored networks

    def __init__(self, count: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.targets = torch.arange(count) % len(SHAPES)  # spares a pass over the data
        self._pitches = 3 + 5 * torch.rand(count, generator=generator)
        self._phases = torch.rand(count, generator=generator)
        self._noise = 0.9 * torch.randn(count, 1, LENGTH, generator=generator)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        place = torch.linspace(0, 1, LENGTH) * self._pitches[index] + self._phases[index]
        label = int(self.targets[index])
        sine = torch.sin(2 * math.pi * place)
        shape = (sine, sine.sign(), 2 * (place % 1) - 1)[label]
        return shape + self._noise[index], label


def data() -> search.DataSplits:
    """What `--data signal_classifier:data` calls; a validation part is held out of `train`."""
    return search.DataSplits(train=Signals(900, seed=0), test=Signals(300, seed=1))


def network(num_classes: int) -> nn.Module:
    """What `--model signal_classifier:network` calls, told how many classes there are."""
    layers: list[nn.Module] = []
    channels = 1
    for width in (32, 64, 64):
        layers += [nn.Conv1d(channels, width, 7, stride=2, padding=3, bias=False)]
        layers += [nn.BatchNorm1d(width), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(64, num_classes))


def settings(folder: str) -> search.SearchConfig:
    """A short search: two trials, at a quarter of the FLOPs and at an eighth."""
    return search.SearchConfig(
        model="signal_classifier:network",
        data=search.DataConfig("signal_classifier:data"),
        training=search.TrainingConfig(
            epochs=4, fine_tune_epochs=3, scratch_epochs=4, batch_size=32, learning_rate=0.05
        ),
        budget=("flops=25%",),
        study=search.StudyConfig(by_products=0, tempered_trials=0),  # or more networks to compare
        trials=2,
        ladder=(1.0, 0.5),
        profiles=1,
        equal_compute_pairs=False,
        device="cpu",
        name="signals",
        runs=folder,
    )


def main(folder: str) -> None:
    """Search, and print what to take and what it costs."""
    os.chdir(Path(__file__).parent)  # where both names above are looked up
    result = search.run(settings(folder), console=Console())
    print(result.verdict)
    for outcome in result.front:
        print(
            f"{outcome.key}: {outcome.flops / 1e3:,.0f}k FLOPs, "
            f"{100 * outcome.test_score:.1f} % of the test signals right"
        )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(os.path.abspath(sys.argv[1]) if len(sys.argv) > 1 else temporary)
