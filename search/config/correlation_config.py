"""What a correlation study is asked to do."""

from __future__ import annotations

import dataclasses
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pruning.errors import ConfigError
from search.config.data_config import DataConfig
from search.config.methods import METHODS
from search.config.resources_config import ResourcesConfig
from search.config.search_config import SearchConfig, folder_name
from search.config.settings import (
    Device,
    listed,
    option,
    require,
    require_defaults,
    same_option,
    settings,
)
from search.config.training_config import TrainingConfig

if TYPE_CHECKING:
    from pruning.criteria import Criterion

ORACLE = "oracle"
"""What all criteria are held against."""

UNUSED_TRAINING = (
    *("fine_tune_epochs", "fine_tune_learning_rate", "fine_tune_schedule"),
    *("fine_tune_warmup_epochs", "scratch_epochs", "scratch_learning_rate"),
    *("equal_compute", "compute_limit"),
    *("distill", "distill_from", "distill_temperature", "distill_weight"),
)
"""Settings of training that a study, which trains one network once, has no use for."""

UNUSED_RESOURCES = ("cpus_per_trial", "gpus_per_trial", "ray_address", "trial_timeout")
"""Settings of resources that a study, which runs in its own process, has no use for."""


@settings
class CorrelationConfig:
    """One correlation study: what `espalier correlate` takes.

    Construction checks every value and raises ConfigError.
    """

    model: str = same_option(SearchConfig, "model")
    model_arg: tuple[str, ...] = same_option(SearchConfig, "model_arg")
    data: DataConfig = field(default_factory=DataConfig)
    task: str = same_option(SearchConfig, "task")
    training: TrainingConfig = field(default_factory=TrainingConfig)
    resources: ResourcesConfig = field(default_factory=ResourcesConfig)
    criterion: tuple[str, ...] = option(
        (),
        "criteria to hold against the oracle, joined by commas, such as taylor,fisher; by default "
        "all that can judge a plainly trained network",
    )
    scoring_batches: int = same_option(
        SearchConfig,
        "scoring_batches",
        "minibatches of training images that criteria and oracle look at",
    )
    prune_residual: bool = same_option(
        SearchConfig, "prune_residual", "also judge channels that residual branches share"
    )
    gates_per: Literal["stream", "convolution"] = option(
        "stream",
        "whose importance it is: of a channel of a residual stream as a whole, or of each "
        "convolution's part in it; with --prune-residual",
    )
    exact: bool = same_option(SearchConfig, "exact")
    whole_heads: bool = same_option(SearchConfig, "whole_heads")
    seed: int = same_option(SearchConfig, "seed", "seed of data splits, weights and batches")
    device: Device = same_option(SearchConfig, "device")
    name: str = option("", "name of the study; by default made of model and data")
    runs: str = same_option(
        SearchConfig, "runs", "folder that holds all studies and the MLflow store"
    )
    mlflow_url: str = same_option(SearchConfig, "mlflow_url")

    def __post_init__(self) -> None:
        why = "in a correlation study, which trains one network once"
        require_defaults(self.training, UNUSED_TRAINING, why)
        require_defaults(
            self.resources, UNUSED_RESOURCES, "in a correlation study, which runs here"
        )
        require(self.training.epochs > 0, "epochs", "at least 1", self.training.epochs)
        self.as_search()
        if not self.prune_residual:
            require_defaults(self, ("gates_per",), "without prune_residual: streams are left out")
        for name in self.criteria:
            if METHODS[name].tries_every_unit:
                raise ConfigError(
                    f"criterion must not be {name}: all others are held against it",
                    field="criterion",
                )
            if METHODS[name].criterion is None:
                raise ConfigError(
                    f"criterion must not be {name}, which judges by gates that are trained with "
                    "the network",
                    field="criterion",
                )

    @property
    def criteria(self) -> tuple[str, ...]:
        """The names that were given, each once; none for all that can judge."""
        return listed(self.criterion)

    @property
    def study_name(self) -> str:
        """The name of the study: made of model and data, if none was given."""
        return self.name or folder_name([self.model, Path(self.data.source).name, "correlation"])

    @property
    def directory(self) -> Path:
        """The folder of this study."""
        return Path(self.runs) / self.study_name

    def as_search(self) -> SearchConfig:
        """A search with these settings whose budget is no bound."""
        shared = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        del shared["gates_per"]
        training = dataclasses.replace(self.training, scratch_epochs=self.training.epochs)
        shared |= {"criterion": self.criterion or (ORACLE,), "name": self.study_name}
        shared |= {"training": training}
        return SearchConfig(budget=("flops=100%",), **shared)

    def resolved(self) -> CorrelationConfig:
        """The same settings with what follows from others written out, as they are stored."""
        return dataclasses.replace(self, name=self.study_name, criterion=self.criteria)


def criterion_of(name: str) -> Criterion:
    """The criterion of a method that has one."""
    make = METHODS[name].criterion
    assert make is not None, name
    return make({})


def candidates() -> tuple[str, ...]:
    """Methods whose criterion can judge a plainly trained network, each criterion once.

    The oracle is not among them, nor what judges before training, needs σBN or is a fixed one.
    Of methods that share a criterion the one without a penalty stands for it.
    """
    names: dict[tuple[type, str], str] = {}
    for method in sorted(METHODS.values(), key=lambda method: method.regularizer is not None):
        is_apart = method.uses_sigmoid or method.prunes_untrained or method.tries_every_unit
        if not is_apart and method.criterion is not None:
            criterion = criterion_of(method.name)
            if not criterion.is_fixed:
                names.setdefault((type(criterion), repr(vars(criterion))), method.name)
    return tuple(names.values())
