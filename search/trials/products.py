"""A network that comes of a trial's training and is still to be fine-tuned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from search.trials.sparse_training import Pruning


@dataclass
class Product:
    """A network that one sparse training gives rise to; `weights` are those to fine-tune.

    images, compute: that its training took up to there, as in Outcome.
    epochs: of those of fine-tuning, what iterative pruning has used up.
    inherited_epochs: after the first pruning, of the fine-tuned networks that it descends from.
    is_settled: whether `weights` are those of the smaller network, and not yet those of the network
        with its gates at 0 or 1.
    trajectory: the shapes that it went through, see `trajectory_rows`; none of one-shot pruning.
    """

    key: str
    pruning: Pruning
    details: dict[str, float]
    weights: Mapping[str, Tensor]
    images: int = 0
    compute: float = 0.0
    epochs: int = 0
    inherited_epochs: int = 0
    is_settled: bool = True
    trajectory: list[dict[str, Any]] = field(default_factory=list)

    def to_state(self) -> dict[str, Any]:
        """For a checkpoint."""
        kept = {name: value for name, value in vars(self).items() if name != "pruning"}
        pruning, scores = self.pruning.to_mapping(), dict(self.pruning.scores)
        return {**kept, "weights": dict(self.weights), "pruning": pruning, "scores": scores}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Product:
        """The inverse of `to_state`."""
        rest = {name: value for name, value in state.items() if name not in ("pruning", "scores")}
        return cls(pruning=Pruning.from_mapping(state["pruning"], state["scores"]), **rest)
