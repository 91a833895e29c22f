"""The abstract task: loss, score, and what a step of training and a measurement are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pruning.cost import call_arguments, evaluating
from pruning.errors import DataError, ModelError
from search.data.data import Batch, Loader, Sample
from search.tasks.score import Score


class Metric(Protocol):
    """What accumulates a score over minibatches, such as any metric of torchmetrics."""

    def update(self, outputs: Any, targets: Any, /) -> None:
        """Count one minibatch."""

    def compute(self) -> Any:
        """The score of all minibatches so far, a number or a tensor of one."""


class Task(ABC):
    """What is learned: how wrong outputs are, and how good a network is.

    score: what a network is chosen by.
    has_classes: whether whole numbers as targets are classes: then there are as many as the highest
        says, where the data do not name them, and parts of the data keep their shares.
    """

    score: Score
    has_classes: bool = True

    @abstractmethod
    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """The mean loss of a minibatch, a scalar, from what the network returns for its inputs."""

    @abstractmethod
    def metric(self) -> Metric:
        """A fresh metric of the score."""

    def check_outputs(self, outputs: Any, sample: Sample) -> None:  # noqa: B027 - anything may do
        """Raise ModelError if a network that returns this for `sample` cannot learn the task.

        It says what was expected and what was got.
        """

    def check_targets(self, targets: Any, sample: Sample) -> None:  # noqa: B027 - anything may do
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
        metric = self.metric()
        with evaluating(model), torch.no_grad():
            for inputs, targets in loader.in_order():
                outputs = called(model, inputs)
                if isinstance(metric, nn.Module) and isinstance(outputs, Tensor):
                    metric.to(outputs.device)
                metric.update(outputs, targets)
        return float(metric.compute())


def called(model: nn.Module, inputs: Any) -> Any:
    """What `model` returns for inputs: one tensor, a tuple of arguments or a mapping of them."""
    args, kwargs = call_arguments(inputs)
    return model(*args, **kwargs)


def words_for(value: Any) -> str:
    """What a value is, for messages: the shape of a tensor, or the name of a type."""
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__


def require_tensor(outputs: Any, shape: tuple[int, ...], meaning: str) -> None:
    """ModelError unless `outputs` is a tensor of this shape, which is what `meaning` says."""
    if not isinstance(outputs, Tensor) or tuple(outputs.shape) != shape:
        sizes = ", ".join(["batch", *map(str, shape[1:])])
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
