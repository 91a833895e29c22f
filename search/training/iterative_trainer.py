"""A training in which channels go on the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Unpack

from torch import Tensor, nn

from pruning.iterative import IterativePruner
from pruning.networks.nested_tensors import num_samples
from search.data.data import Batch, Data
from search.training.optimizers import Stepper
from search.training.trainer import Trainer, TrainingArguments


class IterativeTrainer(Trainer):
    """Trains the network of a pruner until its budgets are met, or for all epochs.

    on_pruned: called after every pruning step, before training goes on.
    images: that it has looked at so far, repetitions counted.
    compute: Σ over them of the FLOPs of the network at the time, one forward run each; channels
        that are gated count as gone.
    A running average of the weights, which would be of other shapes, is not kept: `ema_decay` of
    the settings must be 0.
    """

    def __init__(
        self,
        pruner: IterativePruner,
        data: Data,
        on_pruned: Callable[[], None],
        **arguments: Unpack[TrainingArguments],
    ) -> None:
        assert not arguments["config"].ema_decay
        arguments["after_step"] = self._prune
        super().__init__(pruner.network, data, **arguments)
        self._pruner, self._on_pruned = pruner, on_pruned
        self.images = self.compute = 0

    @property
    def is_finished(self) -> bool:
        """Whether the budgets are met, or all epochs have run."""
        return self._pruner.is_finished or super().is_finished

    @property
    def epoch(self) -> int:
        """The one that is gone through, from 1."""
        return len(self.reports) + 1

    def state_dict(self) -> dict[str, Any]:
        counts = {"images": self.images, "compute": self.compute}
        return super().state_dict() | {"pruner": self._pruner.state_dict(), "counts": counts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._pruner.load_state_dict(state["pruner"])  # which gives the network its shapes
        self._stepper = Stepper(self._model, self._config)
        super().load_state_dict(state)
        self.images, self.compute = state["counts"]["images"], state["counts"]["compute"]

    def _not_captured(self) -> str:
        return "channels go while the network trains"

    def _gradients(self, batch: Batch) -> Tensor:
        size = num_samples(batch)
        with self._pruner.watching(size):
            loss = super()._gradients(batch)
        self.images += size
        self.compute += size * self._pruner.cost.flops
        return loss

    def _prune(self, network: nn.Module) -> None:  # noqa: ARG002 - the pruner has it
        if self._pruner.after_step(self._stepper.optimizer):
            self._on_pruned()
