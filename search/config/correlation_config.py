"""What a correlation study is asked to do."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pruning.criteria import Criterion
from pruning.errors import ConfigError
from search.config.methods import METHODS
from search.config.search_config import DataConfig, SearchConfig, TrainingConfig

ORACLE = "oracle"
"""What all criteria are held against."""

UNUSED_TRAINING = (
    "fine_tune_epochs",
    "scratch_epochs",
    "equal_compute",
    "compute_limit",
    "distill_from",
    "distill_temperature",
    "distill_weight",
)
"""Settings of training that a study, which trains one network once, has no use for."""

_OF_A_SEARCH = {field.name: field for field in dataclasses.fields(SearchConfig)}


def _as_in_a_search(name: str, help_text: str = "") -> Any:
    """A field with the default and the help text that a search has."""
    of_search = _OF_A_SEARCH[name]
    metadata = {"help": help_text} if help_text else of_search.metadata
    return field(default=of_search.default, metadata=metadata)


@dataclass(frozen=True)
class CorrelationConfig:
    """One correlation study: what `espalier correlate` takes.

    Construction checks every value and raises ConfigError.
    """

    model: str = _as_in_a_search("model")
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    criterion: tuple[str, ...] = field(
        default=(),
        metadata={
            "help": "criteria to hold against the oracle, joined by commas, such as "
            "taylor,fisher; by default all that can judge a plainly trained network"
        },
    )
    scoring_batches: int = _as_in_a_search(
        "scoring_batches", "minibatches of training images that criteria and oracle look at"
    )
    prune_residual: bool = _as_in_a_search(
        "prune_residual", "also judge channels that residual branches share"
    )
    exact: bool = _as_in_a_search("exact")
    seed: int = _as_in_a_search("seed", "seed of data splits, weights and batches")
    device: str = _as_in_a_search("device")
    name: str = field(
        default="", metadata={"help": "name of the study; by default made of model and data"}
    )
    runs: str = _as_in_a_search("runs", "folder that holds all studies and the MLflow store")
    mlflow_url: str = _as_in_a_search("mlflow_url")

    def __post_init__(self) -> None:
        if not self.name:
            named = f"{self.model}-{Path(self.data.source).name}-correlation"
            object.__setattr__(self, "name", re.sub(r"[^A-Za-z0-9.]+", "-", named).strip("-."))
        checked = self.as_search()
        object.__setattr__(self, "criterion", checked.criterion if self.criterion else ())
        for name in self.criterion:
            if name == ORACLE:
                raise ConfigError("criterion must not be oracle: all others are held against it")
            if METHODS[name].criterion is None:
                raise ConfigError(
                    f"criterion must not be {name}, which judges by gates that are trained with "
                    "the network"
                )

    @property
    def directory(self) -> Path:
        """The folder of this study."""
        return Path(self.runs) / self.name

    def as_search(self) -> SearchConfig:
        """A search with these settings whose budget is no bound."""
        shared = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        shared["criterion"] = self.criterion or (ORACLE,)
        return SearchConfig(budget=("flops=100%",), **shared)


def criterion_of(name: str) -> Criterion:
    """The criterion of a method that has one."""
    make = METHODS[name].criterion
    assert make is not None, name
    return make({})


def candidates() -> tuple[str, ...]:
    """Methods whose criterion can judge a plainly trained network, each criterion once.

    The oracle is not among them, nor what judges before training or needs σBN.
    """
    found: dict[tuple[type, str], str] = {}
    for method in METHODS.values():
        is_apart = method.uses_sigmoid or method.prunes_untrained or method.name == ORACLE
        if not is_apart and method.criterion is not None:
            criterion = criterion_of(method.name)
            found.setdefault((type(criterion), repr(vars(criterion))), method.name)
    return tuple(found.values())
