"""Make a trained network smaller inside a training loop of one's own, in three ways.

    python examples/own_loop.py [FOLDER]

There is no search here, and nothing of Espalier around the loop: `train` below could be anybody's.
A small residual network learns to read digits. Then it is pruned at once (`pruning.prune`), while
its batch norms learn which channels recede (`pruning.parameter_groups`, `carry_over`), and bit by
bit (`pruning.IterativePruner`), each time to 40 % of its FLOPs. What is left is stored in FOLDER
and read again, without anybody knowing but this file what makes the network.
It takes about 20 seconds on two cores.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import copycat
import pruning
from copycat import WidthProfile
from pruning import Budget, IterativePruner, Pace, criteria, regularizers

IMAGE = torch.zeros(1, 1, 8, 8)
BUDGET = "flops=40%"
NUM_TEST = 500


class Block(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, inner, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))


class Network(nn.Module):
    """A stem, two blocks and a classifier; it returns more than logits, as many networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1)
        self.blocks = nn.Sequential(Block(16, 32), nn.MaxPool2d(2), Block(16, 48))
        self.head = nn.Linear(16, 10)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = self.blocks(F.relu(self.stem(images))).mean((2, 3))
        return {"logits": self.head(features), "norm": features.norm()}


def loss_of(outputs: dict[str, Tensor], labels: Tensor) -> Tensor:
    return F.cross_entropy(outputs["logits"], labels)


def digits() -> tuple[Tensor, Tensor]:
    """1,797 images N×1×8×8 and their labels, in a random order."""
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    grey = torch.tensor(images).float().reshape(-1, 1, 8, 8) / 16
    return grey[order], torch.tensor(labels)[order]


IMAGES, LABELS = digits()


def minibatches(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch of the training images."""
    order = torch.randperm(len(LABELS) - NUM_TEST, generator=torch.Generator().manual_seed(seed))
    for chosen in (order + NUM_TEST).split(64):
        yield IMAGES[chosen], LABELS[chosen]


def accuracy(model: nn.Module) -> float:
    with torch.no_grad():
        logits = model.eval()(IMAGES[:NUM_TEST])["logits"]
    return float((logits.argmax(1) == LABELS[:NUM_TEST]).float().mean())


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    epochs: int,
    penalty: Callable[[nn.Module], Tensor] | None = None,
    pruner: IterativePruner | None = None,
) -> None:
    """The loop; what pruning adds to it is the penalty and the pruner."""
    for epoch in range(epochs):
        model.train()
        for images, labels in minibatches(epoch):
            if pruner is None:
                loss = loss_of(model(images), labels)
                loss = loss if penalty is None else loss + penalty(model)
                loss.backward()
            else:
                with pruner.watching(len(images)):
                    loss_of(model(images), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
            if pruner is not None:
                pruner.after_step(optimizer)


def sgd(model: nn.Module, lr: float = 0.05) -> torch.optim.Optimizer:
    """σBN scales, where there are any, learn ten times faster and do not decay."""
    groups = pruning.parameter_groups(model, lr=lr, weight_decay=1e-4)
    return torch.optim.SGD(groups, momentum=0.9)


def at_once(net: nn.Module) -> nn.Module:
    """Judge, remove, fine-tune. The stem keeps all its channels, with all that is added to them."""
    smaller = pruning.prune(
        net,
        IMAGE,
        BUDGET,
        criterion=criteria.Taylor(loss=loss_of),
        batches=list(minibatches(0))[:8],
        ignore=["stem"],
        max_removed={"blocks.*.conv1": 0.8},
    )
    train(smaller, sgd(smaller), epochs=4)
    return smaller


def by_receding_scales(net: nn.Module) -> nn.Module:
    """Sparse training with sigmoid batch norm; the same optimizer goes on with what is left."""
    model = pruning.to_sigmoid_batchnorm(net)
    optimizer = sgd(model)
    train(model, optimizer, epochs=4, penalty=regularizers.RNI(0.002))
    graph = pruning.trace(model, IMAGE)
    scores = criteria.SigmoidScale().score(model, graph)
    plan = pruning.select(scores, graph, Budget.parse(BUDGET))
    smaller = pruning.remove_channels(model, graph, plan)
    pruning.carry_over(optimizer, model, smaller, graph, plan)  # momentum and all
    train(smaller, optimizer, epochs=6)
    return pruning.fold(smaller)


def bit_by_bit(net: nn.Module) -> nn.Module:
    """A few channels after every few minibatches, while the network trains."""
    pruner = IterativePruner(
        net,
        IMAGE,
        criteria.Taylor(loss=loss_of),
        Budget.parse(BUDGET),
        Pace(units=4, minibatches=4),
    )
    optimizer = sgd(pruner.network, lr=0.02)
    train(pruner.network, optimizer, epochs=8, pruner=pruner)
    return pruner.finish(optimizer)


def main(folder: Path) -> dict[str, dict[str, Any]]:
    """Test accuracy and share of the FLOPs of the network and of what three ways make of it."""
    torch.manual_seed(0)
    net = Network()
    train(net, sgd(net), epochs=8)
    graph, base = pruning.trace(net, IMAGE), pruning.measure_cost(net, IMAGE)
    rows = {"base": {"accuracy": accuracy(net), "flops": 1.0}}
    for way in (at_once, by_receding_scales, bit_by_bit):
        smaller = way(net)
        profile = WidthProfile.of_network(smaller, IMAGE, graph)
        copycat.save(folder / way.__name__, profile, smaller, example_input=IMAGE)
        again = copycat.load(folder / way.__name__, model=Network())
        flops = pruning.measure_cost(again, IMAGE).flops / base.flops
        rows[way.__name__] = {"accuracy": accuracy(again), "flops": flops}
    return rows


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="own-loop-"))
    for name, row in main(target).items():
        right, flops = row["accuracy"], row["flops"]
        print(f"{name:20} {right:.1%} of {NUM_TEST} test images, {flops:.1%} of the FLOPs")
    print(f"stored in {target}")
