"""Shapes that one training finds for every rung of the ladder, each judged by a short one.

Nested rankings of the channels of one network, and the trajectory of an iteratively pruned one, say
more than the one network that is fine-tuned to the end. What each shape is worth then is no more
than a hint: whoever chooses what is trained from scratch learns what to make of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from copycat.width_profile import WidthProfile
from pruning.errors import ProfileError
from pruning.rules import Rules
from search.config.search_config import SearchConfig
from search.storage.layout import CANDIDATES_FILE

UNIFORM, TRAJECTORY = "uniform", "trajectory"
"""What channels went by that were a share of each layer, and those that went step by step."""


@dataclass(frozen=True)
class Candidate:
    """A shape, and what a short training from the trial's weights made of it.

    rung: fraction of the budget of the search that it is within.
    ranking: what channels went by: score, score/cost^0.5 …, uniform or trajectory.
    score: on validation data, in the unit of the task.
    """

    rung: float
    ranking: str
    profile: WidthProfile
    flops: int
    params: int
    score: float

    def to_mapping(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "rung": self.rung,
            "ranking": self.ranking,
            "flops": self.flops,
            "params": self.params,
            "score": self.score,
            **self.profile.to_mapping(),
        }

    @classmethod
    def from_mapping(cls, content: Mapping[str, Any]) -> Candidate:
        """The inverse of `to_mapping`; LookupError, TypeError or ProfileError if it is none."""
        return cls(
            float(content["rung"]),
            str(content["ranking"]),
            WidthProfile.from_mapping(content),
            int(content["flops"]),
            int(content["params"]),
            float(content["score"]),
        )


def candidate_rankings(config: SearchConfig) -> dict[str, Rules]:
    """What channels go by in the candidates of one training, and the rules of each ranking.

    None where nothing is chosen among candidates.
    """
    if not config.num_tempered:
        return {}
    uniform = {UNIFORM: replace(config.rules, scope="uniform")}
    if config.rules.scope == "uniform":
        return uniform
    by_score = {
        f"score/cost^{power:g}" if power else "score": replace(config.rules, cost_exponent=power)
        for power in config.cost_exponents
    }
    return by_score | uniform


def epochs_of_candidates(config: SearchConfig) -> int:
    """The most epochs that judging the candidates of a trial takes."""
    epochs = min(config.study.candidate_epochs, config.training.fine_tune_epochs)
    return len(config.ladder) * len(candidate_rankings(config)) * epochs


def stored_candidates(folder: Path) -> Sequence[Candidate]:
    """Those beside an architecture; none where there are none, or they cannot be read.

    They are hints for the choice of shapes, without which a search goes on.
    """
    try:
        content = json.loads((folder / CANDIDATES_FILE).read_text(encoding="utf-8"))
        return [Candidate.from_mapping(each) for each in content]
    except (OSError, ValueError, LookupError, TypeError, RecursionError, ProfileError):
        return []
