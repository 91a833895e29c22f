"""What a search is asked to do."""

from __future__ import annotations

import dataclasses
import itertools
import re
from dataclasses import field
from pathlib import Path
from typing import Any

from pruning.cost import Bound, Budget
from pruning.errors import ConfigError
from pruning.restrictions import Restrictions
from pruning.rules import Offered, Rules, Scope
from search.config.data_config import DataConfig
from search.config.fixed_settings import Choice, FixedSettings, owned_by
from search.config.gates_config import GatesConfig
from search.config.iterative_config import ITERATIVE_SETTINGS, IterativeConfig
from search.config.method_checks import (
    require_exponents_that_fit,
    require_methods_that_fit,
    require_schedules_that_fit,
)
from search.config.methods import gated_parts, granularity, method, ranks_channels
from search.config.model_arguments import model_arguments
from search.config.resources_config import ResourcesConfig
from search.config.settings import (
    Device,
    listed,
    option,
    require,
    require_defaults,
    settings,
)
from search.config.study_config import StudyConfig
from search.config.training_config import TrainingConfig
from search.config.trial_checks import (
    require_descent_that_fits,
    require_nothing_but_training,
    require_settings_that_fit,
    require_targets_that_fit,
)

BUILDER, TORCHVISION, TIMM = "builder", "torchvision:", "timm:"
"""Weights that are in no file: those that the network's builder returns, and torchvision's."""

SCHEDULES = ("one-shot", "iterative")
"""When to prune: all at once after sparse training, or step by step."""

UNBOUNDED = ("flops=100%",)
"""The budget of a search that prunes nothing."""

MOST_TRIALS = 2**20
"""Of a search: each has seeds of its own."""


@settings
class SearchConfig:
    """One budget-constrained search: what `espalier search` and `search.run` take.

    Construction checks every value and raises ConfigError or BudgetError.
    """

    model: str = option(
        "digits-vgg",
        "a network of the zoo, torchvision:NAME, timm:NAME, or module:callable of your own",
    )
    model_arg: tuple[str, ...] = option(
        (), "argument NAME=VALUE that the network is made with, such as depth=20; repeatable"
    )
    weights: str = option(
        "",
        "trained weights to start from: a file (safetensors, or a state dict of torch.save), "
        "torchvision:IMAGENET1K_V2 …, timm:a1_in1k …, or builder for those that the model's own "
        "builder returns",
    )
    weights_digest: str = option(
        "", "SHA-256 of the weights, as a search stores it: others of the same name are refused"
    )
    budget: tuple[str, ...] = option(
        ("flops=10%",),
        "upper bound such as flops=25%, flops=30M, params=300k, weight_bytes=1MB, "
        "peak_activation_bytes=50%, channels=50% (of the filters of the layers that are pruned) or "
        "channels=500 (so many of them may stay); repeatable",
    )
    data: DataConfig = field(default_factory=DataConfig)
    task: str = option(
        "classification",
        "what is learned: classification, multilabel, segmentation, regression, or "
        "module:callable of a search.Task of your own",
    )
    training: TrainingConfig = field(default_factory=TrainingConfig)
    gates: GatesConfig = field(default_factory=GatesConfig)
    iterative: IterativeConfig = field(default_factory=IterativeConfig)
    study: StudyConfig = field(default_factory=StudyConfig)
    resources: ResourcesConfig = field(default_factory=ResourcesConfig)
    criterion: tuple[str, ...] = option(
        ("rni",), "pruning methods to try, joined by commas, such as rni,taylor,fisher"
    )
    count_attention: bool = option(
        False,
        "bound (in `espalier inspect`, show) all multiply-adds in the place of FLOPs: also those "
        "that fvcore leaves out, of attention, deformable convolutions, recurrent layers …",
    )
    granularity: tuple[str, ...] = option(
        ("filter",),
        "what to prune, to try in turn: filter, branch … joined by commas; together: filter+branch",
    )
    schedule: tuple[str, ...] = option(
        ("one-shot",),
        "when to prune, to try in turn, joined by commas: one-shot, all at once after sparse "
        "training; iterative, step by step with training in between",
    )
    cost_exponent: tuple[float, ...] = option(
        (0.0,),
        "power from 0 to 1: channels go by their scores divided by what they cost in the budget's "
        "own quantity, to this power; 0 ranks by scores alone; repeatable, to try several in turn",
    )
    targets: tuple[str, ...] = option(
        (),
        "what each trial is pruned to, in place of target FLOPs that are searched: several from "
        "one sparse training, such as flops=10%:90%:10% or params=300k; the first is what trials "
        "are compared by; repeatable",
    )
    train_only: bool = option(
        False,
        "only train sparsely: each trial's network is stored as it is, with what its method finds "
        "of its channels, to be pruned later (--weights FILE --epochs 0)",
    )
    trials: int = option(
        8,
        "how many proposals (method, its settings, target FLOPs) are tried; where nothing is left "
        "to be searched, each of them once, and no more than so many",
        ge=1,
        lt=MOST_TRIALS,
    )
    set: tuple[str, ...] = option(
        (),
        "NAME=VALUE that fixes what is searched otherwise, such as rni.strength=1e-3, "
        "branch.strength=0.01 or target_flops=25%, or that iterative pruning has, such as "
        "iterative.units=10; several values (rni.shift=0,3) make a grid, of which every "
        "combination is tried once; repeatable",
    )
    ladder: tuple[float, ...] = option(
        (1.0, 0.5, 0.25), "fractions of the budget at which families are compared"
    )
    profiles: int = option(
        2,
        "how many shapes of the front are rescaled over the ladder; with 0 nothing is trained but "
        "trials and the base network",
        ge=0,
    )
    seeds: int = option(
        1, "how often each network that the verdict compares is trained, with other seeds", ge=1
    )
    equal_compute_pairs: bool = option(
        True, "also train the shapes of fine-tuned networks from scratch at equal compute"
    )
    random_widths: bool = option(
        False, "also compare shapes drawn at random within each rung of the ladder"
    )
    ignore: tuple[str, ...] = option(
        (),
        "pattern of names of layers, such as layer4.* or *.downsample.*, that stay as they are: "
        "all channels that they produce or read are kept; repeatable",
    )
    only: tuple[str, ...] = option(
        (),
        "pattern of names of layers, such as *.conv1 for what lies between the two convolutions of "
        "a block: channels go that these layers produce, and no others; repeatable",
    )
    max_removed: tuple[str, ...] = option(
        (),
        "PATTERN=SHARE such as layer3.*=50%: so much at the most may go of what these layers "
        "produce; repeatable",
    )
    min_channels: int = option(3, "channels that stay in every layer, or all if it has fewer", ge=1)
    divisor: int = option(
        1, "channels of a layer that loses some are left with a multiple of this (8, 16 …)", ge=1
    )
    scope: Scope = option(
        "global",
        "which channels go: the least important of all layers together (global), or of every layer "
        "the same share (uniform, as the method ucs has it whatever is said here)",
    )
    scoring_batches: int = option(
        30, "minibatches of training images that a criterion which needs data looks at", ge=1
    )
    prune_residual: bool = option(False, "also prune channels that residual branches share")
    exact: bool = option(
        True,
        "leave alone channels whose removal changes what a normalisation, softmax or mean over "
        "channels makes of the others (default), or take those, too, where shapes stay consistent",
    )
    whole_heads: bool = option(
        False, "of attention remove whole heads, where the code allows it, not places of all heads"
    )
    seed: int = option(0, "seed of data splits, weights, batches and proposals", ge=0, lt=2**32)
    concurrency: int | None = option(
        None, "trials at once; by default one on every GPU, or per CPU core", ge=1
    )
    device: Device = option("auto", "auto, cpu or cuda")
    name: str = option("", "name of the search; by default made of model, data and budget")
    runs: str = option("espalier-runs", "folder that holds all searches and the MLflow store")
    mlflow_url: str = option("", "MLflow server to log to; by default the store under --runs")
    register: str = option(
        "", "name under which MLflow's registry takes the front, the best of them as `best`"
    )

    def __post_init__(self) -> None:
        self._require_closed_forms()
        for name in ("criterion", "granularity", "schedule"):
            require(bool(getattr(self, name)), name, "at least one name", getattr(self, name))
        for name in self.schedules:
            expected = f"some of {', '.join(SCHEDULES)} (training.schedule is the learning rate's)"
            require(name in SCHEDULES, "schedule", expected, name)
        require_methods_that_fit(self)
        require_exponents_that_fit(self)
        self.gates.require_gated(self.gated)
        if self.gates.gate_thresholds:
            require_defaults(self, ("targets",), "with gate_thresholds, which know no target")
        if "iterative" in self.schedules:
            why = "with the schedule iterative, which begins once gates have gone"
            require_defaults(self.gates, ("settle_epochs",), why)
        require_schedules_that_fit(self)
        require_targets_that_fit(self)
        require_descent_that_fits(self)
        require_nothing_but_training(self)
        require_settings_that_fit(self)
        is_fraction = bool(self.ladder) and all(0 < part <= 1 for part in self.ladder)
        require(is_fraction, "ladder", "fractions above 0 and at most 1", self.ladder)
        is_name = re.fullmatch(r"[A-Za-z0-9][\w.+-]*", self.study_name) is not None
        require(is_name, "name", "letters, digits and . _ + - only", self.study_name)
        self._require_training()
        _ = self.restrictions, self.model_arguments  # they say what does not fit
        if not (self.equal_compute_pairs or self.training.equal_compute):
            require_defaults(self.training, ("compute_limit",), "where nothing is at equal compute")

    def _require_closed_forms(self) -> None:
        for bound in self.bounds.bounds:
            if bound.quantity in Budget.MEASURED:
                raise ConfigError(
                    f"a search prunes by closed forms ({', '.join(Budget.QUANTITIES)}) and cannot "
                    f"measure every candidate, got {str(bound)!r}: search without it, then "
                    f"`espalier family SEARCH/NAME --budgets {bound}` fits the shape to it",
                    field="budget",
                )

    def _require_training(self) -> None:
        """What no sparse training (epochs 0) takes: weights or a descent, and no gates to learn."""
        if not self.weights:
            require_defaults(self, ("weights_digest",), "without weights")
        if self.training.epochs:
            return
        if not self.weights and not self.study.descend:
            raise ConfigError(
                "epochs must be at least 1, got 0: only a network with trained --weights can be "
                "pruned without training, or one whose smaller networks --descend from each other",
                field="training.epochs",
            )
        gated = [name for name in self.criteria if method(name).criterion is None]
        gated += [mixture for mixture in self.granularities if mixture != "filter"]
        if gated:
            raise ConfigError(
                f"epochs must be at least 1 for {gated[0]}, whose gates sparse training opens and "
                "closes, got 0",
                field="training.epochs",
            )

    @property
    def study_name(self) -> str:
        """The name of the search: made of model, data and budget, if none was given."""
        aims = ("train-only",) if self.train_only else (*self.budget, *self.targets)
        return self.name or folder_name([self.model, Path(self.data.source).name, *aims])

    @property
    def model_arguments(self) -> dict[str, Any]:
        """What the network is made with, beside what the data say."""
        return model_arguments(self.model_arg)

    @property
    def offered(self) -> Offered:
        """Which channels a trace offers for removal."""
        return Offered(self.exact, self.whole_heads)

    @property
    def restrictions(self) -> Restrictions:
        """What may not be pruned, or only in part."""
        return Restrictions.parse(self.ignore, self.max_removed, self.only)

    @property
    def rules(self) -> Rules:
        """What may go of the channels, in what steps; uniformly if every method takes them so."""
        is_uniform = all(self._scope_of(name) == "uniform" for name in self.criteria)
        scope: Scope = "uniform" if is_uniform else "global"
        return Rules(self.min_channels, self.divisor, scope, self.prune_residual)

    def rules_of(self, criterion: str) -> Rules:
        """The rules of the trials of a method, which may have a scope of its own."""
        return dataclasses.replace(self.rules, scope=self._scope_of(criterion))

    def _scope_of(self, criterion: str) -> Scope:
        return method(criterion).scope or self.scope

    @property
    def criteria(self) -> tuple[str, ...]:
        """The names of the pruning methods, each once."""
        return listed(self.criterion)

    @property
    def granularities(self) -> tuple[str, ...]:
        """What to prune, to try in turn: each mixture once, in its canonical form."""
        return tuple(dict.fromkeys(granularity(text) for text in listed(self.granularity)))

    @property
    def gated(self) -> dict[str, frozenset[str]]:
        """What has learnable gates with some of the methods, per mixture of granularities."""
        return {
            mixture: frozenset[str]().union(*(gated_parts(name, mixture) for name in self.criteria))
            for mixture in self.granularities
        }

    @property
    def num_tempered(self) -> int:
        """Shapes between a found one and the uniformly narrowed that are tried; see `profiles`."""
        return self.study.tempered_trials if self.profiles else 0

    @property
    def schedules(self) -> tuple[str, ...]:
        """When to prune, to try in turn, each once."""
        return listed(self.schedule)

    @property
    def cost_exponents(self) -> tuple[float, ...]:
        """By what powers of their costs scores are divided, to try in turn, each once."""
        return tuple(dict.fromkeys(map(float, self.cost_exponent)))

    @property
    def target_bounds(self) -> tuple[Bound, ...]:
        """What each trial is pruned to, each target once; none where target FLOPs are searched.

        In the order given, a range from its smallest on.
        """
        texts = listed(self.targets)
        budgets = [budget for text in texts for budget in Budget.parse_ladder(text)]
        if self.count_attention:
            budgets = [budget.counting_attention() for budget in budgets]
        return tuple(dict.fromkeys(bound for budget in budgets for bound in budget.bounds))

    @property
    def fixed(self) -> FixedSettings:
        """The dimensions that are not searched, with their values."""
        return FixedSettings.parse(self.set)

    @property
    def is_grid(self) -> bool:
        """Whether every combination of what is given is tried: of several values, or of all."""
        return self.fixed.has_several_values or self._is_all_fixed

    @property
    def num_trials(self) -> int:
        """How many trials are made: no more than there are, where nothing is left to be searched.

        They would repeat each other, as `seeds` does.
        """
        return min(self.trials, self.num_points) if self._is_all_fixed else self.trials

    @property
    def compares_all_trials(self) -> bool:
        """Whether all trials are made with every seed, not only those that the verdict compares."""
        return self.is_grid or self.train_only

    @property
    def rungs(self) -> tuple[float, ...]:
        """Fractions of the budget at which networks are compared."""
        return (1.0,) if self.train_only else self.ladder

    @property
    def _is_all_fixed(self) -> bool:
        fixed = self.fixed
        is_target_fixed = bool(self.targets or fixed.target_flops or self.train_only)
        is_trained = self.training.epochs > 0
        return is_target_fixed and not any(
            is_trained and fixed.leaves(criterion, granularity)
            for criterion, granularity, _ in self.choices
        )

    @property
    def num_points(self) -> int:
        """Combinations of what is given: choices, exponents and fixed values."""
        return sum(
            self.fixed.num_points([choice])
            * (len(self.cost_exponents) if ranks_channels(*choice[:2]) else 1)
            for choice in self.choices
        )

    @property
    def choices(self) -> list[Choice]:
        """Every method with every granularity and schedule."""
        return list(itertools.product(self.criteria, self.granularities, self.schedules))

    @property
    def iterative_settings(self) -> list[IterativeConfig]:
        """Of iterative pruning: as given, or those of every combination of what `set` fixes."""
        return [
            self.iterative.with_values(owned_by("iterative", point))
            for point in self.fixed.combinations(ITERATIVE_SETTINGS)
        ]

    @property
    def directory(self) -> Path:
        """The folder of this search."""
        return Path(self.runs) / self.study_name

    @property
    def bounds(self) -> Budget:
        """The budget, with what its FLOPs are to mean."""
        budget = Budget.parse(*(UNBOUNDED if self.train_only else self.budget))
        return budget.counting_attention() if self.count_attention else budget

    def seed_of(self, number: int, repeat: int = 0) -> int:
        """The seed of weights and batches of a trial and its shape; each repetition's own.

        A repetition has the seeds that a search with a `seed` higher by `repeat` gives. The next
        seed above is taken too: by fine-tuning. No two of them are equal for fewer than
        MOST_TRIALS trials, which makes seeds below 2⁵³, exact in JSON.
        """
        return 2 * ((self.seed + repeat) * MOST_TRIALS + number)

    def fine_tuning_seed_of(self, number: int, repeat: int = 0) -> int:
        """The seed of a trial's batches after pruning."""
        return self.seed_of(number, repeat) + 1

    def resolved(self) -> SearchConfig:
        """The same settings with what follows from others written out, as they are stored."""
        return dataclasses.replace(
            self,
            name=self.study_name,
            criterion=self.criteria,
            granularity=self.granularities,
            schedule=self.schedules,
            cost_exponent=self.cost_exponents,
            training=self.training.resolved(),
        )


def folder_name(parts: list[str]) -> str:
    """A name for a folder, made of these texts."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(parts)).strip("-.")
