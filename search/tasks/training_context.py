"""What a training loop of a task's own is told, and what it tells."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from search.config.training_config import TrainingConfig
from search.data.data import Batch, Data, Loader


@dataclass(frozen=True)
class ReportedEpoch:
    """What a loop says of an epoch; None is what is worked out in its place."""

    train_loss: float
    penalty: float
    validation_score: float | None
    learning_rate: float | None


@dataclass
class TrainingContext:
    """One stage of training, for `Task.train`: a loop of one's own goes by it.

        optimizer = torch.optim.SGD(model.parameters(), lr=context.settings.learning_rate)
        if state := context.load():
            optimizer.load_state_dict(state["optimizer"])
        for _ in context.epochs_left:
            for batch in context.batches():
                loss = … + context.penalty(model)
                …
                context.after_step(model)
            context.save({"optimizer": optimizer.state_dict()})
            context.report(train_loss=…)

    stage: such as "sparse training", "fine-tuning" or "from scratch".
    epochs: how many it has; each must be reported.  epochs_done: those that were.
    settings: of the training, such as learning_rate, weight_decay and batch_size.
    seed: of this training.  device: where the model and the minibatches are.
    data: all parts; the test part is not to be looked at.
    penalty: what the pruning method adds to the loss of every step, a scalar; zero for none.
    after_step: is to be called with the model after every update of the weights.

    Torch's global random generators start each epoch from a seed of it.
    """

    stage: str
    epochs: int
    epochs_done: int
    settings: TrainingConfig
    seed: int
    device: torch.device
    data: Data
    penalty: Callable[[nn.Module], Tensor]
    after_step: Callable[[nn.Module], None]
    fetching: Callable[[Iterable[Batch]], Iterator[Batch]] = field(repr=False)
    order_of: Callable[[int], torch.Generator] = field(repr=False)
    on_report: Callable[[ReportedEpoch], None] = field(repr=False)
    saved: Mapping[str, Any] | None = field(default=None, repr=False)

    @property
    def epochs_left(self) -> range:
        """The numbers of the epochs that are to be trained, from 0."""
        return range(self.epochs_done, self.epochs)

    @property
    def validation(self) -> Loader:
        """The samples that are measured after each epoch."""
        return self.data.loader("validation", device=self.device)

    def batches(self) -> Iterator[Batch]:
        """The minibatches of the present epoch, in an order of its own."""
        loader = self.data.loader("train", batch_size=self.settings.batch_size, device=self.device)
        return self.fetching(loader.shuffled(self.order_of(self.epochs_done)))

    def report(
        self,
        *,
        train_loss: float,
        penalty: float = 0.0,
        validation_score: float | None = None,
        learning_rate: float | None = None,
    ) -> None:
        """Say that an epoch is over: weights, and what was saved before, are stored with it.

        train_loss: its mean, without the penalty.  validation_score: by default measured here.
        learning_rate: of the last step, by default that of the settings.
        May raise to stop the training, which is to be let through.
        """
        self.on_report(ReportedEpoch(train_loss, penalty, validation_score, learning_rate))

    def save(self, state: Mapping[str, Any]) -> None:
        """Keep this with the epoch that is reported next, beside the weights of the model.

        state: tensors, numbers, texts and containers of them, such as an optimizer's.
        """
        self.saved = dict(state)

    def load(self) -> Mapping[str, Any] | None:
        """What was saved with the last epoch that was reported; None in the first.

        The model has its weights of then already.
        """
        return self.saved
