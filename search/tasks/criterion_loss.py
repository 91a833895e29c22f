"""The loss of a task, as criteria are given it."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from pruning.criteria import BatchLoss, Loss
from pruning.errors import CriterionError
from pruning.networks.nested_tensors import num_samples
from search.data.data import Batch
from search.tasks.task import Task, has_own


def criterion_loss(task: Task) -> Loss | BatchLoss:
    """Of outputs and targets where the task gives that, else of whole minibatches.

    Of a task that gives neither, as one with a training loop of its own may, it raises
    CriterionError when it is asked for.
    """
    if has_own(task, "loss"):
        return task.loss
    if has_own(task, "training_step"):
        return BatchLoss(task.training_step, num_samples)
    return BatchLoss(_missing(task), num_samples)


def _missing(task: Task) -> Callable[[nn.Module, Batch], Tensor]:
    def step(model: nn.Module, batch: Batch) -> Tensor:  # noqa: ARG001 - neither is of use
        raise CriterionError(
            f"{type(task).__name__} gives neither loss nor training_step, by which this criterion "
            "judges: give one, or choose a criterion of weights or scales"
        )

    return step
