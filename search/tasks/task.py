"""The abstract task: loss, score, and what a step of training and a measurement are."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from pruning.cost import called, evaluating
from pruning.errors import ConfigError, DataError, ModelError, TrainingDivergedError
from pruning.networks.nested_tensors import tensors_in
from search.data.data import Batch, Loader, Sample
from search.tasks.score import Score

if TYPE_CHECKING:
    from search.tasks.training_context import TrainingContext


class Metric(Protocol):
    """What accumulates a score over minibatches, such as any metric of torchmetrics."""

    def update(self, outputs: Any, targets: Any, /) -> None:
        """Count one minibatch."""

    def compute(self) -> Any:
        """The score of all minibatches so far, a number or a tensor of one."""


class Task:
    """What is learned: how wrong outputs are, and how good a network is.

    A subclass says its `score`, and gives `loss`, or else `training_step` or `train`; and `metric`,
    or else `evaluate`; `sample_terms`, too, if its score has `sums`.

    score: what a network is chosen by.
    has_classes: whether whole numbers as targets are classes: then there are as many as the highest
        says, where the data do not name them, and parts of the data keep their shares.
    takes_class_shares: whether targets are class numbers (N,), in whose place `loss` also takes the
        share of each class, float (N, classes), as label smoothing, mixup and cutmix make them.
    """

    score: Score
    has_classes: bool = True
    takes_class_shares: bool = False

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """The mean loss of a minibatch, a scalar, from what the network returns for its inputs."""
        raise NotImplementedError

    def metric(self) -> Metric:
        """A fresh metric of the score."""
        raise NotImplementedError

    def sample_terms(self, outputs: Any, targets: Any) -> Tensor:
        """What each sample of a minibatch adds to the score, shape (N, k), see `Score.sums`.

        Where a task gives it, networks are compared on the same samples of the test split.
        """
        raise NotImplementedError

    def check_outputs(self, outputs: Any, sample: Sample) -> None:
        """Raise ModelError if a network that returns this for `sample` cannot learn the task.

        It says what was expected and what was got.
        """

    def check_targets(self, targets: Any, sample: Sample) -> None:
        """Raise DataError if a minibatch of samples with these targets cannot be learned from.

        It says what was expected and what was got.
        """

    def training_step(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mean loss of a minibatch; by default of inputs and targets."""
        inputs, targets = batch
        outputs = called(model, inputs)
        if isinstance(outputs, Tensor):
            outputs = outputs.float()
        return self.loss(outputs, targets)

    def evaluate(self, model: nn.Module, loader: Loader) -> float:
        """The score of `model` on every sample of `loader`, in float32, in evaluation mode.

        Modules are put back in the mode each of them was in.
        """
        return self._evaluate(model, loader, lambda outputs, targets: None)  # noqa: ARG005

    def _evaluate(
        self, model: nn.Module, loader: Loader, also: Callable[[Any, Any], None]
    ) -> float:
        """As `evaluate`; `also` is shown the outputs and targets of each minibatch."""
        metric = self.metric()
        with evaluating(model), torch.no_grad():
            for inputs, targets in loader.in_order():
                outputs = called(model, inputs)
                if isinstance(metric, nn.Module):
                    metric.to(next(tensors_in([outputs, targets])).device)
                metric.update(outputs, targets)
                also(outputs, targets)
        return float(metric.compute())

    def train(self, model: nn.Module, context: TrainingContext) -> None:
        """A training loop of the task's own, in the place of that by `training_step`.

        It trains `model` in place for `context.epochs` epochs and reports each; see
        `TrainingContext`. What it does is all that is done: no autocast, no average of the
        weights (ema_decay), no clipping, label smoothing, mixup, cutmix, crops or other changes of
        images, and no distillation, whose settings are refused with it; optimizer, learning rates
        and schedule are as it makes them, by `context.settings` or not.
        """
        raise NotImplementedError

    def measured(self, model: nn.Module, loader: Loader) -> float:
        """What `evaluate` gives, which has to be a number.

        Raises TrainingDivergedError where it is infinite or not a number.
        """
        return require_number(self.score, self.evaluate(model, loader))

    def measured_by_sample(self, model: nn.Module, loader: Loader) -> tuple[float, Tensor | None]:
        """As `measured`, and the terms of each sample in the loader's order, shape (N, k), on CPU.

        None in their place where the task does not give them.
        """
        if not self.score.sums or not has_own(self, "sample_terms") or has_own(self, "evaluate"):
            return self.measured(model, loader), None
        terms: list[Tensor] = []
        value = self._evaluate(
            model,
            loader,
            lambda outputs, targets: terms.append(self.sample_terms(outputs, targets)),
        )
        return require_number(self.score, value), torch.cat(terms).cpu()


def require_number(score: Score, value: float) -> float:
    """`value`, if it is one that networks can be compared by; TrainingDivergedError otherwise."""
    if not math.isfinite(value):
        raise TrainingDivergedError(
            f"the {score.name} of the network is {value}, which nothing can be chosen by: look at "
            "its outputs, and at what the score is of"
        )
    return float(value)


def has_own(task: Task, method: str) -> bool:
    """Whether a task gives this method, such as train, in place of what every task has."""
    return getattr(type(task), method) is not getattr(Task, method)


def require_task(task: object, name: str) -> Task:
    """`task`, if it is one that says and gives what it has to; ConfigError otherwise.

    name: what it is called in the message.
    """
    if not isinstance(task, Task):
        got = type(task).__name__
        raise ConfigError(f"the task {name} must be a search.Task, got {got}", field="task")
    score = getattr(task, "score", None)
    if not isinstance(score, Score):
        got = "nothing" if score is None else type(score).__name__
        raise ConfigError(
            f"the task {name} must say its score, as in score = search.Score('mean IoU'), "
            f"got {got}",
            field="task",
        )
    for methods in (("loss", "training_step", "train"), ("metric", "evaluate")):
        if not any(has_own(task, method) for method in methods):
            names = " or ".join(methods)
            raise ConfigError(f"the task {name} must give {names}, got none", field="task")
    return task


def words_for(value: Any) -> str:
    """What a value is, for messages: the shape of a tensor, or the name of a type."""
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__


def require_tensor(outputs: Any, shape: tuple[int | None, ...], meaning: str) -> None:
    """ModelError unless `outputs` is a tensor of this shape, which is what `meaning` says.

    The first size is that of the minibatch; None is any size.
    """
    fits = isinstance(outputs, Tensor) and len(outputs.shape) == len(shape)
    if not fits or any(
        want not in (None, got) for want, got in zip(shape, outputs.shape, strict=True)
    ):
        sizes = ", ".join(["batch", *("any" if n is None else str(n) for n in shape[1:])])
        raise ModelError(
            f"must return {meaning} of shape ({sizes}) in eval mode, got {words_for(outputs)} for "
            "one sample"
        )


def require_targets(fits: bool, expected: str, targets: Any) -> None:
    """DataError unless `targets` of a minibatch are what is expected."""
    if not fits:
        got = words_for(targets)
        dtype = f" of {targets.dtype}" if isinstance(targets, Tensor) else ""
        raise DataError(f"expected targets to be {expected}, got {got}{dtype}")
