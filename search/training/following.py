"""What every process of a data-parallel training but the first does: it takes the same steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from search.data.data import Data
from search.training.data_parallel import Ranks
from search.training.trainer import Trainer


class Follower:
    """Takes the steps of trainings that the first process goes through."""

    def __init__(self, ranks: Ranks, data: Data) -> None:
        self._ranks, self._data = ranks, data
        self._trainer: Trainer | None = None

    def begin(self, training: Mapping[str, Any]) -> None:
        """Make a trainer like that of the first process.

        training: "model", "state" of that trainer, and "arguments" that it was made with; all sent
        at once, so that what they share, such as the network that a penalty is of, is shared here.
        """
        arguments = {**training["arguments"], "ranks": self._ranks}
        self._trainer = Trainer(training["model"], self._data, **arguments)
        self._trainer.load_state_dict(training["state"])

    def epoch(self, number: int) -> None:
        """Take the steps of this epoch, counted from 0, with all other processes."""
        assert self._trainer is not None
        self._trainer.take_steps(number)
