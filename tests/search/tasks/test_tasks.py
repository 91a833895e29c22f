"""The tasks of this package in closed form, and what they refuse."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics
from torch import Tensor, nn
from torch.nn import functional as F

from pruning.errors import ConfigError, DataError, ModelError, TrainingDivergedError
from search.data.data import Sample
from search.tasks import registry
from search.tasks.classification import Classification
from search.tasks.multilabel import Multilabel
from search.tasks.regression import Regression
from search.tasks.score import Score
from search.tasks.segmentation import Segmentation
from search.tasks.task import Metric, Task, require_task

GENERATOR = torch.Generator()


@pytest.fixture(autouse=True)
def _same_numbers() -> None:
    GENERATOR.manual_seed(0)


def normal(*sizes: int) -> Tensor:
    return torch.randn(sizes, generator=GENERATOR)


def whole(below: int, *sizes: int) -> Tensor:
    return torch.randint(below, sizes, generator=GENERATOR)


def in_two_parts(metric: Metric, outputs: Any, targets: Tensor) -> float:
    """The score of all samples, which come in minibatches of unequal sizes."""
    for part in (slice(0, 3), slice(3, None)):
        cut = {n: v[part] for n, v in outputs.items()} if isinstance(outputs, dict) else None
        metric.update(outputs[part] if cut is None else cut, targets[part])
    return float(metric.compute())


# ---- scores


def test_mean_average_precision_is_that_of_scikit_learn() -> None:
    """Also of logits so large or so much in [0, 1] that a sigmoid in float32 would mislead."""
    targets = whole(2, 40, 5)
    for scale, shift in ((1.0, 0.0), (0.01, 0.5), (1.0, 25.0)):
        logits = normal(40, 5) * scale + shift
        logits[:3] = logits[:3].abs()  # a minibatch without a negative one
        expected = metrics.average_precision_score(targets, logits, average="macro")
        measured = in_two_parts(Multilabel().metric(), logits, targets)
        assert measured == pytest.approx(expected, abs=1e-6)


def test_labels_that_no_sample_has_are_left_out() -> None:
    targets = whole(2, 20, 3)
    targets[:, 1] = 0
    logits = normal(20, 3)
    expected = metrics.average_precision_score(targets[:, [0, 2]], logits[:, [0, 2]])
    assert in_two_parts(Multilabel().metric(), logits, targets) == pytest.approx(expected, abs=1e-6)
    assert in_two_parts(Multilabel().metric(), logits, torch.zeros_like(targets)) == 0


@pytest.mark.parametrize("as_torchvision", [False, True])
def test_mean_iou_is_that_of_all_pixels_that_count(as_torchvision: bool) -> None:
    """Class 3 of four is neither there nor predicted."""
    predicted, targets = whole(3, 6, 5, 4), whole(3, 6, 5, 4)
    targets[whole(4, 6, 5, 4) == 0] = 255
    logits = F.one_hot(predicted, 4).permute(0, 3, 1, 2).float()
    counted = targets != 255
    ious = []
    for number in range(3):
        ours, theirs = (predicted == number) & counted, targets == number
        ious.append(float((ours & theirs).sum() / (ours | theirs).sum()))
    outputs = {"out": logits, "aux": -logits} if as_torchvision else logits
    measured = in_two_parts(Segmentation().metric(), outputs, targets)
    assert measured == pytest.approx(np.mean(ious), abs=1e-6)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("shape", [(30,), (30, 1), (30, 3)])
def test_r2_is_that_of_scikit_learn(shape: tuple[int, ...], scale: float) -> None:
    """Also of targets that are small, or far from zero."""
    targets = (normal(*shape) + 100).double() * scale
    outputs = targets + normal(*shape) * scale / 2
    expected = metrics.r2_score(targets, outputs)
    measured = in_two_parts(Regression().metric(), outputs.reshape(30, -1), targets)
    assert measured == pytest.approx(expected, rel=1e-9)


def test_targets_that_are_all_the_same_give_no_r2() -> None:
    assert in_two_parts(Regression().metric(), normal(5), torch.ones(5)) == 0


@pytest.mark.parametrize("task", [Classification, Multilabel, Segmentation, Regression])
def test_every_score_rises_with_what_it_calls_good(task: type[Task]) -> None:
    assert task.score.direction == "maximize"
    assert task.score.is_share == (task is not Regression)


# ---- losses


def test_losses_are_means_over_samples() -> None:
    logits, labels = normal(4, 3), whole(2, 4, 3)
    expected = -(labels * F.logsigmoid(logits) + (1 - labels) * F.logsigmoid(-logits)).mean()
    assert Multilabel().loss(logits, labels).isclose(expected)
    numbers = normal(4)
    assert Regression().loss(numbers[:, None], torch.zeros(4)).isclose(numbers.square().mean())
    assert Regression().loss(numbers, torch.zeros(4, 1)).isclose(numbers.square().mean())
    assert Regression().loss(numbers, torch.zeros(4, dtype=torch.float64)).dtype == torch.float32


def test_pixels_that_are_ignored_have_no_loss() -> None:
    logits, targets = normal(2, 3, 4, 4), whole(3, 2, 4, 4)
    targets[0] = 255
    only = F.cross_entropy(logits[1:], targets[1:])
    assert Segmentation().loss(logits, targets).isclose(only)
    targets[1] = 255
    assert Segmentation().loss(logits, targets) == 0


def test_auxiliary_logits_weigh_as_in_torchvisions_reference() -> None:
    logits, other, targets = normal(2, 3, 4, 4), normal(2, 3, 4, 4), whole(3, 2, 4, 4)
    parts = [F.cross_entropy(part, targets) for part in (logits, other)]
    both = Segmentation().loss({"out": logits, "aux": other}, targets)
    assert both.isclose(parts[0] + 0.4 * parts[1])


# ---- what does not fit

CLASSES = tuple("abc")
IMAGE = torch.zeros(1, 3, 8, 8)
SAMPLES = {
    "multilabel": Sample(IMAGE, CLASSES, torch.zeros(1, 3)),
    "segmentation": Sample(IMAGE, CLASSES, torch.zeros(1, 8, 8, dtype=torch.int64)),
    "regression": Sample(IMAGE, (), torch.zeros(1, 2)),
    "regression of one": Sample(IMAGE, (), torch.zeros(1)),
}


@pytest.mark.parametrize(
    ("name", "outputs"),
    [
        ("multilabel", torch.zeros(1, 3)),
        ("segmentation", torch.zeros(1, 3, 8, 8)),
        ("segmentation", {"out": torch.zeros(1, 3, 8, 8)}),
        ("regression", torch.zeros(1, 2)),
        ("regression of one", torch.zeros(1)),
        ("regression of one", torch.zeros(1, 1)),
    ],
)
def test_outputs_that_fit(name: str, outputs: Any) -> None:
    registry.resolve(name.split(maxsplit=1)[0]).check_outputs(outputs, SAMPLES[name])


@pytest.mark.parametrize(
    ("name", "outputs", "message"),
    [
        ("multilabel", torch.zeros(1, 4), r"logits of shape \(batch, 3\) .*got \(1, 4\)"),
        ("multilabel", [torch.zeros(1, 3)], "got list"),
        ("segmentation", torch.zeros(1, 3, 4, 4), r"\(batch, 3, 8, 8\) .*got \(1, 3, 4, 4\)"),
        ("segmentation", {"aux": torch.zeros(1, 3, 8, 8)}, "got NoneType"),
        ("regression", torch.zeros(1), r"numbers of shape \(batch, 2\) .*got \(1,\)"),
        ("regression of one", torch.zeros(1, 2), r"\(batch, 1\)"),
    ],
)
def test_outputs_that_do_not(name: str, outputs: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        registry.resolve(name.split(maxsplit=1)[0]).check_outputs(outputs, SAMPLES[name])


@pytest.mark.parametrize(
    ("name", "targets", "message"),
    [
        ("multilabel", torch.zeros(2, 4), r"zeros and ones \(batch, 3\), got \(2, 4\)"),
        ("multilabel", torch.full((2, 3), 0.5), "zeros and ones"),
        ("segmentation", torch.zeros(2, 8, 8), r"int64 .*got \(2, 8, 8\) of torch.float32"),
        ("segmentation", torch.full((2, 8, 8), 3), "class numbers below 3 or 255"),
        ("segmentation", torch.zeros(2, dtype=torch.int64), r"got \(2,\)"),
        ("regression", torch.tensor([math.nan]), "finite numbers"),
        ("regression", "12", "got str"),
    ],
)
def test_targets_that_do_not_fit(name: str, targets: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        registry.resolve(name).check_targets(targets, SAMPLES[name])


@pytest.mark.parametrize("name", SAMPLES)
def test_targets_that_fit(name: str) -> None:
    targets = SAMPLES[name].targets
    registry.resolve(name.split(maxsplit=1)[0]).check_targets(
        torch.cat([targets, targets]), SAMPLES[name]
    )


# ---- tasks of one's own


class Whole(Task):
    """A task that lacks nothing."""

    score = Score("closeness", is_share=False)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).abs().mean()

    def evaluate(self, model: nn.Module, loader: Any) -> float:
        return math.nan


class Scoreless(Whole):
    score = None  # type: ignore[assignment]


class NamedOnly(Whole):
    score = "closeness"  # type: ignore[assignment]


class Lossless(Task):
    score = Score("accuracy")

    def metric(self) -> Any:
        return Classification().metric()


class Unmeasured(Task):
    score = Score("accuracy")

    def training_step(self, model: nn.Module, batch: Any) -> Tensor:
        return model(batch)


def raising() -> Task:
    raise RuntimeError("no\nluck")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Scoreless, "must say its score, .* got nothing"),
        (NamedOnly, "must say its score, .* got str"),
        (Lossless, "must give loss or training_step or train, got none"),
        (Unmeasured, "must give metric or evaluate, got none"),
        (lambda: "accuracy", "must be a search.Task, got str"),
    ],
)
def test_a_task_that_lacks_something(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        require_task(make(), "own:Task")
    assert refused.value.field == "task"


def test_a_score_that_is_no_number_is_refused() -> None:
    with pytest.raises(TrainingDivergedError, match="the closeness of the network is nan"):
        Whole().measured(nn.Identity(), None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("segmentatoin", "did you mean segmentation"),
        ("ranking", "there are classification, multilabel, segmentation, regression"),
        ("nowhere_at_all:Task", "cannot import 'nowhere_at_all'"),
        (f"{__name__}:Nothing", "no attribute 'Nothing'"),
        (f"{__name__}:raising", "failed: RuntimeError: no luck"),
        (f"{__name__}:Scoreless", "must say its score"),
        ("python:mine.Task", "given in Python: go on there with search.run"),
    ],
)
def test_names_that_make_no_task(name: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _importable(monkeypatch)
    with pytest.raises(ConfigError, match=message) as refused:
        registry.resolve(name)
    assert refused.value.field == "task"
    assert "\n" not in str(refused.value)


def test_a_task_is_found_by_the_name_of_its_class(monkeypatch: pytest.MonkeyPatch) -> None:
    _importable(monkeypatch)
    assert type(registry.resolve(f"{__name__}:Whole")).__name__ == "Whole"


@pytest.mark.parametrize(
    ("name", "module"),
    [("segmentation", ""), ("python:mine.Task", ""), ("mine.tasks:Task", "mine.tasks")],
)
def test_whose_code_a_task_is(name: str, module: str) -> None:
    assert registry.own_module(name) == module
    registry.require_trusted(name, ("mine",), "search.json")
    if module:
        with pytest.raises(ModelError, match=r"search\.json names the task mine\.tasks:Task"):
            registry.require_trusted(name, (), "search.json")


def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType(__name__)
    module.__dict__.update(globals())
    monkeypatch.setitem(sys.modules, __name__, module)
