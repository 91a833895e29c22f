"""How the trials of a search are proposed."""

from __future__ import annotations

from typing import Literal

from search.config.settings import option, require, settings


@settings
class StudyConfig:
    """How trials are proposed, cut short and made the most of."""

    sampler: Literal["tpe", "nsga2", "random"] = option(
        "tpe",
        "who proposes trials: tpe (multivariate), nsga2 (a genetic algorithm) or random, by which "
        "further shapes are drawn, too",
    )
    storage: str = option(
        "", "URL of a database for the Optuna study; by default a journal file beside the results"
    )
    early_stopping: bool = option(
        True, "stop trials that too many others beat in both score and FLOPs"
    )
    by_products: int = option(
        1,
        "further networks that each trial is pruned to, at 1/2, 1/4 … of its target",
        ge=0,
        le=1000,
    )
    descend: bool = option(
        False,
        "prune each further network of a trial (by_products, targets) from the fine-tuned one "
        "before it, whose training it so inherits, or from the trial's sparse training (default)",
    )
    tempered_trials: int = option(
        4,
        "how many shapes between two found ones, or a found (ρ = 1) and the uniformly narrowed one "
        "(ρ = 0), are trained from scratch: those that promise the greatest gain in hypervolume",
        ge=0,
        le=1000,
    )
    candidate_epochs: int = option(
        0,
        "epochs of fine-tuning by which each further shape that a trial has found on its way, for "
        "every rung of the ladder, is judged before any of them is trained from scratch; with 0 "
        "(default) as it is with new statistics of batch normalisation",
        ge=0,
    )

    def __post_init__(self) -> None:
        is_url = not self.storage or "://" in self.storage
        require(is_url, "storage", "a URL such as sqlite:///study.db", self.storage)
