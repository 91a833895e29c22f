"""Search for smaller networks of two inputs that return a number: regression, scored by R².

    python examples/two_inputs.py [FOLDER]

A damped oscillation is seen as a noisy signal, and what is known of the sensor as three numbers;
the network returns the frequency in hertz. Its inputs are a mapping: it is called with
`signal=…` and `sensor=…`. The same from the command line, in the folder of this file:

    espalier search --data two_inputs:data --model two_inputs:network \
        --task regression --budget flops=25%

It takes about half a minute on two cores.
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

LENGTH = 96


class Oscillations(Dataset[tuple[dict[str, Tensor], Tensor]]):
    """Signals 1×LENGTH with rate, gain and offset of their sensors, and frequencies.

    seed: another one makes other signals.
    """

    def __init__(self, count: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        share = torch.rand(count, 4, generator=generator)
        rate, gain, offset = 50 + 50 * share[:, 0], 0.5 + share[:, 1], share[:, 2] - 0.5
        self._frequencies = 2 + 6 * share[:, 3]
        seconds = torch.arange(LENGTH) / rate[:, None]
        clean = torch.sin(2 * math.pi * self._frequencies[:, None] * seconds) * (-seconds).exp()
        noise = 0.1 * torch.randn(count, LENGTH, generator=generator)
        self._signals = (gain[:, None] * clean + offset[:, None] + noise)[:, None]
        self._sensors = torch.stack([rate / 50 - 1.5, gain - 1, offset], 1)

    def __len__(self) -> int:
        return len(self._frequencies)

    def __getitem__(self, index: int) -> tuple[dict[str, Tensor], Tensor]:
        inputs = {"signal": self._signals[index], "sensor": self._sensors[index]}
        return inputs, self._frequencies[index]


def data() -> search.DataSplits:
    """What `--data two_inputs:data` calls; a validation part is held out of `train`."""
    return search.DataSplits(train=Oscillations(1500, seed=0), test=Oscillations(400, seed=1))


class TwoInputs(nn.Module):
    """A convolutional network for the signal, whose features meet those of the sensor."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in ((1, 32), (32, 64), (64, 64)):
            layers += [nn.Conv1d(inputs, outputs, 7, stride=2, padding=3, bias=False)]
            layers += [nn.BatchNorm1d(outputs), nn.ReLU()]
        self.of_signal = nn.Sequential(*layers)
        self.of_sensor = nn.Sequential(nn.Linear(3, 32), nn.ReLU())
        self.joined = nn.Sequential(nn.Linear(64 + 32, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, signal: Tensor, sensor: Tensor) -> Tensor:
        features = self.of_signal(signal).mean(2)
        number: Tensor = self.joined(torch.cat([features, self.of_sensor(sensor)], 1))
        return 5 + number[:, 0]  # hertz, in the middle of what there is


def network() -> nn.Module:
    """What `--model two_inputs:network` calls."""
    return TwoInputs()


def settings(folder: str) -> search.SearchConfig:
    """A short search: two trials, at a quarter of the FLOPs and at an eighth."""
    return search.SearchConfig(
        model="two_inputs:network",
        data=search.DataConfig(source="two_inputs:data"),
        task="regression",
        budget=("flops=25%",),
        criterion=("taylor", "magnitude-l2"),
        training=search.TrainingConfig(
            epochs=6, fine_tune_epochs=3, scratch_epochs=4, batch_size=30, learning_rate=0.01
        ),
        study=search.StudyConfig(by_products=0, tempered_trials=0),  # or more networks to compare
        trials=2,
        ladder=(1.0, 0.5),
        profiles=1,
        equal_compute_pairs=False,
        concurrency=2,
        device="cpu",
        name="oscillations",
        runs=folder,
    )


def main(folder: str) -> None:
    """Search, and print what to take and what it costs."""
    os.chdir(Path(__file__).parent)  # where both names above are looked up
    result = search.run(settings(folder), console=Console())
    print(result.verdict)
    for outcome in result.front:
        print(f"{outcome.key}: {outcome.flops / 1e6:.2f}M FLOPs, R² {outcome.test_score:.3f}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(os.path.abspath(sys.argv[1]) if len(sys.argv) > 1 else temporary)
