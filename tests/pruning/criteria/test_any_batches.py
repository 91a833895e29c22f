"""Minibatches and outputs of any kind: what counts is what the loss makes of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from networks import randomised
from torch import Tensor, nn
from torch.nn import functional as F

import pruning
from pruning.criteria import Criterion, Fisher, Obd, Oracle, Snip, Taylor, TaylorSecondOrder
from pruning.errors import CriterionError

CRITERIA: dict[str, Callable[[Any], Criterion]] = {
    "Taylor": Taylor,
    "Fisher": lambda loss: Fisher(loss=loss),
    "Snip": Snip,
    "Obd": Obd,
    "TaylorSecondOrder": TaylorSecondOrder,
    "Oracle": Oracle,
}


@dataclass
class Answer:
    """An output as some networks have it."""

    logits: Tensor
    more: dict[str, Tensor]


class Network(nn.Module):
    """Reads two tensors; `wrap` makes its output of logits and of a further tensor."""

    def __init__(self, wrap: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.first = nn.Conv1d(2, 6, 3)
        self.second = nn.Conv1d(6, 5, 3)
        self.head = nn.Linear(5 + 3, 4)
        self.wrap = wrap

    def forward(self, signal: Tensor, row: Tensor) -> Any:
        hidden = self.second(self.first(signal).tanh()).tanh().mean(2)
        logits = self.head(torch.cat([hidden, row], 1))
        return self.wrap(logits, logits.square().mean())


KINDS: dict[str, tuple[Callable[[Tensor, Tensor], Any], Callable[[Any], Tensor]]] = {
    "dict": (lambda y, z: {"out": y, "aux": z}, lambda o: o["out"]),
    "tuple": (lambda y, z: (y, [z]), lambda o: o[0]),
    "dataclass": (lambda y, z: Answer(y, {"aux": z}), lambda o: o.logits),
}


def data() -> list[tuple[Tensor, Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(4)
    return [
        (
            torch.randn(n, 2, 9, generator=generator),
            torch.randn(n, 3, generator=generator),
            torch.randint(4, (n,), generator=generator),
        )
        for n in (3, 2)
    ]


def of_tensor(name: str) -> dict[str, Tensor]:
    """The scores with plain tensors, of which everything else is only another form."""
    net = randomised(Network(lambda y, _: y), seed=1)
    graph = pruning.trace(net, (torch.zeros(1, 2, 9), torch.zeros(1, 3)))
    batches = [((signal, row), labels) for signal, row, labels in data()]
    return CRITERIA[name](F.cross_entropy).score(net, graph, batches)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CRITERIA)
def test_scores_are_those_of_plain_tensors(name: str, kind: str) -> None:
    wrap, logits = KINDS[kind]
    net = randomised(Network(wrap), seed=1)
    example = {"signal": torch.zeros(1, 2, 9), "row": torch.zeros(1, 3)}
    graph = pruning.trace(net, example)

    def loss(outputs: Any, targets: Any) -> Tensor:
        return F.cross_entropy(logits(outputs), targets["labels"][0])

    batches = [
        [{"signal": signal, "row": row}, {"labels": [labels]}] for signal, row, labels in data()
    ]
    scores = CRITERIA[name](loss).score(net, graph, batches)  # type: ignore[arg-type]
    expected = of_tensor(name)
    assert scores.keys() == expected.keys()
    for group, values in scores.items():
        torch.testing.assert_close(values, expected[group])


@pytest.mark.parametrize("name", CRITERIA)
def test_a_network_is_pruned_by_them_in_one_call(name: str) -> None:
    wrap, logits = KINDS["dataclass"]
    net = randomised(Network(wrap), seed=1)
    smaller = pruning.prune(
        net,
        (torch.zeros(1, 2, 9), torch.zeros(1, 3)),
        "params=70%",
        criterion=CRITERIA[name](lambda outputs, labels: F.cross_entropy(logits(outputs), labels)),
        batches=[((signal, row), labels) for signal, row, labels in data()],
    )
    signal, row, _ = data()[0]
    assert smaller(signal, row).logits.shape == (3, 4)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (((), torch.zeros(2)), "the inputs of batch 0, of type tuple holds no tensor"),
        (({"x": None}, torch.zeros(2)), "the inputs of batch 0, of type dict holds no tensor"),
        ((torch.zeros(0, 2, 9), torch.zeros(0)), "batch 0 has no sample"),
        ((torch.zeros(2, 2, 9), None), "batch 0 is not a pair of inputs and targets"),
    ],
)
def test_batches_that_are_none_are_refused(batch: Any, message: str) -> None:
    net = randomised(Network(lambda y, _: y), seed=1)
    graph = pruning.trace(net, (torch.zeros(1, 2, 9), torch.zeros(1, 3)))
    with pytest.raises(CriterionError, match=message):
        Taylor().score(net, graph, [batch])
