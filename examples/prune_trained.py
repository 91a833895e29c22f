"""Make a trained network smaller: how small can it get, and what does that cost?

    python examples/prune_trained.py

A VGG learns scikit-learn's handwritten digits in a loop of its own, and its state dict goes into a
file. A search starts from it: without sparse training (epochs=0), three methods judge its filters
as they are, prune them at once, and fine-tune what is left. The first line tells the score of the
trained network, and every other network is held against it. The same on the command line:

    espalier search --weights trained.pt --epochs 0 --fine-tune-epochs 6 --scratch-epochs 12 \\
        --criterion taylor,slimming,rni --budget flops=25%

It takes about a minute on two cores, and downloads nothing.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console

import search
from search.config.data_config import DataConfig
from search.config.search_config import SearchConfig
from search.config.study_config import StudyConfig
from search.config.training_config import TrainingConfig
from search.data import datasets
from search.models import digits_vgg


def main(arguments: list[str] | None = None) -> search.SearchResult:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", default="espalier-runs", help="folder of searches and records")
    parser.add_argument("--epochs", type=int, default=6, help="of training, and of fine-tuning")
    options = parser.parse_args(arguments)
    weights = Path(options.runs) / "trained.pt"
    weights.parent.mkdir(parents=True, exist_ok=True)
    if not weights.exists():  # stopped, the same command goes on with these very weights
        torch.save(trained_state(options.epochs), weights)
    result = search.run(search_of(weights, options.epochs, options.runs), console=Console())
    print(result.verdict)
    return result


def trained_state(epochs: int) -> dict[str, torch.Tensor]:
    """The state dict of a network that was trained as one trains networks."""
    torch.manual_seed(0)
    data, model = datasets.load(DataConfig("digits"), seed=0), digits_vgg()
    loader = data.loader("train", device=torch.device("cpu"), batch_size=64)
    generator = torch.Generator().manual_seed(0)
    steps = epochs * -(-data.count("train") // 64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(epochs):
        for images, labels in loader.shuffled(generator):
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
            schedule.step()
    return model.state_dict()


def search_of(weights: Path, epochs: int, runs: str) -> SearchConfig:
    """Three methods, each at two sizes, all from these weights."""
    return SearchConfig(
        model="digits-vgg",
        weights=str(weights),
        budget=("flops=25%",),
        criterion=("taylor", "slimming", "rni"),
        training=TrainingConfig(
            epochs=0,
            fine_tune_epochs=epochs,
            scratch_epochs=2 * epochs,  # as the given network and its fine-tuning together
            learning_rate=0.02,
        ),
        study=StudyConfig(tempered_trials=0),
        trials=3,
        ladder=(1.0, 0.5),
        profiles=1,
        equal_compute_pairs=False,
        device="cpu",
        name="prune-trained",
        runs=runs,
    )


if __name__ == "__main__":
    main()
