"""What `espalier family` is asked to do."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pruning.cost import Budget
from pruning.errors import ConfigError
from search.config.resources_config import ResourcesConfig
from search.config.search_config import DataConfig, SearchConfig, TrainingConfig

UNUSED_TRAINING = (
    *("epochs", "fine_tune_epochs"),
    *("fine_tune_learning_rate", "fine_tune_schedule"),
)
"""Settings of training that a family study, which trains from scratch, has no use for."""

WITHOUT_RESOURCES = ("time_budget", "max_train_images")
"""Settings of resources that no family study has."""

KINDS = (
    *("copycat", "copycat-all", "tempered:RHO", "uniform", "width", "wrn", "bottleneck", "depth"),
    *("mobilenetv2", "from-scratch"),
)
"""uniform narrows what the profile narrows, as the uniform network of a search and tempered:0 do;
width narrows all that can be narrowed, residual streams included: the usual width multiplier."""
_KIND = re.compile(r"([a-z0-9-]+?)(?::([0-9.]+))?")

_OF_A_SEARCH = {field.name: field for field in dataclasses.fields(SearchConfig)}


def _option(default: Any, help_text: str) -> Any:
    return field(default=default, metadata={"help": help_text})


def _as_in_a_search(name: str, help_text: str = "") -> Any:
    """A field with the default and the help text that a search has."""
    of_search = _OF_A_SEARCH[name]
    metadata = {"help": help_text} if help_text else of_search.metadata
    return field(default=of_search.default, metadata=metadata)


def training_of(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe for networks that have no sparse training behind them: they train for one stage."""
    return {"scratch_epochs": recipe.get("epochs", TrainingConfig.epochs), **recipe}


@dataclass(frozen=True)
class FamilyConfig:
    """A ladder of families, and maybe its training: what `espalier family` takes.

    source: a profile (JSON file) or an architecture (folder or SEARCH/NAME).
    Construction checks every value and raises ConfigError or BudgetError.
    """

    source: str
    budgets: tuple[str, ...] = _option(
        (), "budgets of the ladder, such as params=200k:2M:100k or flops=25%; repeatable"
    )
    kinds: tuple[str, ...] = _option(
        ("copycat", "uniform"),
        f"what to compare, joined by commas: {', '.join(KINDS)}; uniform narrows the profile's "
        "layers by one factor, width all that can be narrowed, residual streams included",
    )
    seeds: int = _option(3, "how often each network is trained, with seeds 0, 1, 2 …")
    include: tuple[str, ...] = _option(
        (),
        "searches whose fine-tuned networks are shown too, their shapes being trained from "
        "scratch; repeatable, best the same search at several seeds",
    )
    count_attention: bool = _as_in_a_search("count_attention")
    exact: bool = _as_in_a_search("exact")
    divisor: int = _option(1, "widths of members are multiples of this")
    model: str = _option("", "base network; needed for a profile, which does not name it")
    trust: tuple[str, ...] = _option((), "module whose builder may run, for a folder's network")
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    resources: ResourcesConfig = field(default_factory=ResourcesConfig)
    seed: int = _as_in_a_search("seed", "seed of data splits")
    concurrency: int | None = _as_in_a_search("concurrency", "networks trained at once")
    device: str = _as_in_a_search("device")
    name: str = _option("", "name of the study; by default made of source and data")
    runs: str = _as_in_a_search("runs", "folder that holds all searches and the MLflow store")
    mlflow_url: str = _as_in_a_search("mlflow_url")

    def __post_init__(self) -> None:
        if not self.name:
            source = re.sub(r"\.json$", "", self.source).strip("/").split("/")[-2:]
            text = "-".join([*source, Path(self.data.source).name, "family"])
            object.__setattr__(self, "name", re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-."))
        listed = (name.strip() for text in self.kinds for name in text.split(","))
        object.__setattr__(self, "kinds", tuple(dict.fromkeys(listed)))
        if not self.kinds:
            raise ConfigError("kinds must be at least one name, got ()")
        for name in self.kinds:
            kind_and_number(name)
        for name in ("seeds", "divisor"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in WITHOUT_RESOURCES:
            if (given := getattr(self.resources, name)) not in ("", None):
                raise ConfigError(
                    f"a family study trains every network that was asked for and knows no {name}, "
                    f"got {given!r}: leave it out, or ask for fewer --seeds, --kinds or --budgets"
                )
        self.ladder()
        self.as_search()

    @property
    def directory(self) -> Path:
        """The folder of this study."""
        return Path(self.runs) / self.name

    def ladder(self) -> tuple[Budget, ...]:
        """The budgets, the smallest first where they are a range; each rung has one bound."""
        rungs = (rung for text in self.budgets for rung in Budget.parse_ladder(text))
        return tuple(rung.counting_attention() if self.count_attention else rung for rung in rungs)

    def as_search(self, model: str = "") -> SearchConfig:
        """A search with these settings whose budget is no bound; its jobs need one."""
        return SearchConfig(
            model=model or self.model or "digits-vgg",
            budget=("flops=100%",),
            exact=self.exact,
            data=self.data,
            training=self.training,
            resources=self.resources,
            seed=self.seed,
            concurrency=self.concurrency,
            device=self.device,
            name=self.name,
            runs=self.runs,
            mlflow_url=self.mlflow_url,
        )


def kind_and_number(name: str) -> tuple[str, float | None]:
    """The name of a kind and ρ, as in tempered:0.5; ConfigError for anything else."""
    match = _KIND.fullmatch(name)
    known = {kind.partition(":")[0] for kind in KINDS}
    if match is None or match[1] not in known:
        raise ConfigError(f"kinds must be some of {', '.join(KINDS)}, got {name!r}")
    if (match[1] == "tempered") != (match[2] is not None):
        raise ConfigError(f"tempered takes its ρ as in tempered:0.5, other kinds none: {name!r}")
    try:
        return match[1], None if match[2] is None else float(match[2])
    except ValueError:
        raise ConfigError(f"ρ must be a number, got {name!r}") from None
