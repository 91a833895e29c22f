"""Statistics of batch normalisation, estimated again where a network has changed."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from pruning.cost import called
from search.data.data import Batch
from search.tasks.task import Task, has_own


def estimate_statistics(
    model: nn.Module, batches: Iterable[Batch], task: Task, device: torch.device
) -> None:
    """Replace the running statistics by the means over these minibatches, in training mode.

    The network runs as in a step of the task's training, so that whatever a minibatch is, and
    whatever the network reads, will do. Random numbers, also those of `device`, are left alone.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        update_bn(((batch,) for batch in batches), _Steps(model, task))


class _Steps(nn.Module):
    """A network that is called with whole minibatches."""

    def __init__(self, model: nn.Module, task: Task) -> None:
        super().__init__()
        self.model, self._task = model, task

    def forward(self, batch: Batch) -> None:
        if has_own(self._task, "train") and not has_own(self._task, "training_step"):
            called(self.model, batch[0] if isinstance(batch, tuple | list) else batch)
        else:
            self._task.training_step(self.model, batch)
