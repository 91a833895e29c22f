"""What `espalier family` is asked to do."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

from pruning.cost import Budget
from pruning.errors import ConfigError
from search.config.data_config import DataConfig
from search.config.resources_config import ResourcesConfig
from search.config.search_config import SearchConfig, folder_name
from search.config.settings import (
    Device,
    listed,
    option,
    recipe_of,
    require,
    require_defaults,
    same_option,
    settings,
)
from search.config.training_config import TrainingConfig

UNUSED_TRAINING = (
    *("epochs", "fine_tune_epochs", "scratch_learning_rate", "distill"),
    *("fine_tune_learning_rate", "fine_tune_schedule", "fine_tune_warmup_epochs"),
)
"""Settings of training that a family study, which trains from scratch alone, has no use for."""

KINDS = (
    *("copycat", "copycat-all", "tempered:RHO", "uniform", "width", "wrn", "bottleneck", "depth"),
    *("mobilenetv2", "from-scratch"),
)
"""uniform narrows what the profile narrows, as the uniform network of a search and tempered:0 do;
width narrows all that can be narrowed, residual streams included: the usual width multiplier."""
_KIND = re.compile(r"([a-z0-9-]+?)(?::([0-9.]+))?")


@settings
class FamilyConfig:
    """A ladder of families, and maybe its training: what `espalier family` takes.

    source: a profile (JSON file) or an architecture (folder or SEARCH/NAME), of which NAME@POINT
        is the shape at a point of its trajectory.
    Construction checks every value and raises ConfigError or BudgetError.
    """

    source: str = field(
        metadata={"description": "architecture whose shape is rescaled, as SEARCH/NAME"}
    )
    budgets: tuple[str, ...] = option(
        (), "budgets of the ladder, such as params=200k:2M:100k or flops=25%; repeatable"
    )
    kinds: tuple[str, ...] = option(
        ("copycat", "uniform"),
        f"what to compare, joined by commas: {', '.join(KINDS)}; uniform narrows the profile's "
        "layers by one factor, width all that can be narrowed, residual streams included",
    )
    seeds: int = option(3, "how often each network is trained, with seeds 0, 1, 2 …", ge=1)
    include: tuple[str, ...] = option(
        (),
        "searches whose fine-tuned networks are shown too, their shapes being trained from "
        "scratch; repeatable, best the same search at several seeds",
    )
    count_attention: bool = same_option(SearchConfig, "count_attention")
    exact: bool = same_option(SearchConfig, "exact")
    whole_heads: bool = same_option(SearchConfig, "whole_heads")
    divisor: int = option(1, "widths of members are multiples of this", ge=1)
    ignore: tuple[str, ...] = same_option(
        SearchConfig,
        "ignore",
        "pattern of names of layers, such as layer4.*, that are as wide as in the base network; "
        "repeatable",
    )
    max_removed: tuple[str, ...] = same_option(SearchConfig, "max_removed")
    only: tuple[str, ...] = same_option(
        SearchConfig,
        "only",
        "pattern of names of layers, such as *.conv1: these alone are narrowed; repeatable",
    )
    model: str = option("", "base network; needed for a profile, which does not name it")
    model_arg: tuple[str, ...] = same_option(SearchConfig, "model_arg")
    trust: tuple[str, ...] = option((), "module whose builder may run, for a folder's network")
    data: DataConfig = field(default_factory=DataConfig)
    task: str = same_option(SearchConfig, "task")
    training: TrainingConfig = field(default_factory=TrainingConfig)
    resources: ResourcesConfig = field(default_factory=ResourcesConfig)
    seed: int = same_option(SearchConfig, "seed", "seed of data splits")
    concurrency: int | None = same_option(SearchConfig, "concurrency", "networks trained at once")
    device: Device = same_option(SearchConfig, "device")
    name: str = option("", "name of the study; by default made of source and data")
    runs: str = same_option(SearchConfig, "runs")
    mlflow_url: str = same_option(SearchConfig, "mlflow_url")

    def __post_init__(self) -> None:
        require(bool(self.kinds), "kinds", "at least one name", self.kinds)
        for name in self.kind_names:
            kind_and_number(name)
        why = "in a family study, which trains every network from scratch"
        require_defaults(self.training, UNUSED_TRAINING, why)
        if not self.training.equal_compute:
            require_defaults(self.training, ("compute_limit",), "without equal_compute")
        self.ladder()
        self.as_search()
        if not self.model:
            require_defaults(self, ("model_arg",), "without --model")

    @property
    def kind_names(self) -> tuple[str, ...]:
        """What to compare, each once."""
        return listed(self.kinds)

    @property
    def study_name(self) -> str:
        """The name of the study: made of source and data, if none was given."""
        source = self.source.removesuffix(".json").strip("/").split("/")[-2:]
        return self.name or folder_name([*source, Path(self.data.source).name, "family"])

    @property
    def directory(self) -> Path:
        """The folder of this study."""
        return Path(self.runs) / self.study_name

    @property
    def scratch_training(self) -> TrainingConfig:
        """How each network is trained: by default for the epochs of one stage of a search."""
        epochs = self.training.scratch_epochs or TrainingConfig.epochs
        return dataclasses.replace(self.training, scratch_epochs=epochs)

    def ladder(self) -> tuple[Budget, ...]:
        """The budgets, the smallest first where they are a range; each rung has one bound."""
        rungs = (rung for text in self.budgets for rung in Budget.parse_ladder(text))
        return tuple(rung.counting_attention() if self.count_attention else rung for rung in rungs)

    def as_search(self, model: str = "") -> SearchConfig:
        """A search with these settings whose budget is no bound; its jobs need one."""
        return SearchConfig(
            model=model or self.model or SearchConfig.model,
            budget=("flops=100%",),
            model_arg=self.model_arg,
            exact=self.exact,
            whole_heads=self.whole_heads,
            ignore=self.ignore,
            max_removed=self.max_removed,
            only=self.only,
            data=self.data,
            task=self.task,
            training=self.scratch_training,
            resources=self.resources,
            seed=self.seed,
            concurrency=self.concurrency,
            device=self.device,
            name=self.study_name,
            runs=self.runs,
            mlflow_url=self.mlflow_url,
        )

    def resolved(self) -> FamilyConfig:
        """The same settings with what follows from others written out, as they are stored."""
        return dataclasses.replace(
            self, name=self.study_name, kinds=self.kind_names, training=self.scratch_training
        )


def over_recipe(content: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as a file has them, their training laid over the recipe that it names, if any."""
    training = content.get("training", {})
    if not isinstance(training, Mapping):
        return dict(content)
    own = {name: value for name, value in training.items() if name != "recipe"}
    return {**content, "training": {**_recipe_of_family(training.get("recipe", "rni")), **own}}


def _recipe_of_family(name: object) -> dict[str, Any]:
    """A paper's settings of training for networks that train from scratch, in one stage."""
    recipe = recipe_of(TrainingConfig, name, "training.recipe")
    used = {key: value for key, value in recipe.items() if key not in UNUSED_TRAINING}
    if "scratch_learning_rate" in recipe:
        used["learning_rate"] = recipe["scratch_learning_rate"]
    return ({"scratch_epochs": recipe["epochs"]} if "epochs" in recipe else {}) | used


def kind_and_number(name: str) -> tuple[str, float | None]:
    """The name of a kind and ρ, as in tempered:0.5; ConfigError for anything else."""
    match = _KIND.fullmatch(name)
    known = {kind.partition(":")[0] for kind in KINDS}
    if match is None or match[1] not in known:
        listed_kinds = ", ".join(KINDS)
        raise ConfigError(f"kinds must be some of {listed_kinds}, got {name!r}", field="kinds")
    if (match[1] == "tempered") != (match[2] is not None):
        why = "tempered takes its ρ as in tempered:0.5, other kinds none"
        raise ConfigError(f"{why}: {name!r}", field="kinds")
    try:
        return match[1], None if match[2] is None else float(match[2])
    except ValueError:
        raise ConfigError(f"ρ must be a number, got {name!r}", field="kinds") from None
