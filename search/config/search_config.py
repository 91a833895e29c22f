"""What a search is asked to do: frozen dataclasses, checked on construction.

Every default stands here once. The command line, TOML files and Python all fill these
classes; a field's help text lives in its metadata so that it, too, stands once.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pruning.cost import Budget
from pruning.errors import ConfigError
from search.config.methods import granularity, method, parts_of
from search.config.options import option as _option
from search.config.options import require as _require
from search.config.options import tables
from search.config.resources_config import ResourcesConfig, StudyConfig


@dataclass(frozen=True)
class DataConfig:
    """Which images to learn from, and how many of them."""

    source: str = _option(
        "digits", "digits, cifar10, cifar100, mnist, fashion-mnist or imagefolder:PATH"
    )
    root: str = _option(".data", "folder that holds downloaded data sets")
    download: bool = _option(False, "allow torchvision to download the data set")
    image_size: int | None = _option(None, "resize images to this many pixels a side")
    flip: bool | None = _option(
        None, "mirror training images at random; by default only photographs"
    )
    limit_train: int | None = _option(None, "use at most this many training images")
    validation_fraction: float = _option(
        0.2, "share of the training images held out; it drives every choice"
    )

    def __post_init__(self) -> None:
        _require(bool(self.source), "data", "the name of a data set", self.source)
        _require(
            0 < self.validation_fraction < 1,
            "validation_fraction",
            "between 0 and 1",
            self.validation_fraction,
        )
        for name in ("image_size", "limit_train"):
            value = getattr(self, name)
            _require(value is None or value >= 1, name, "at least 1", value)


@dataclass(frozen=True)
class TrainingConfig:
    """How each network is trained (settings of the RNI authors' experiments by default).

    SGD with momentum 0.9, Nesterov's by default; the learning rate falls by the schedule; σBN
    scales learn 10 times faster and without weight decay. `RECIPES` holds the settings of papers.

    Training from scratch at equal epochs is the default: scratch_epochs becomes the sum of epochs
    and fine_tune_epochs, which a fine-tuned network has behind it, on construction; give it anew
    to `dataclasses.replace` along with those. At equal compute it lasts scratch_epochs × base
    FLOPs / FLOPs of the network, at most scratch_epochs × compute_limit: Liu et al., "Rethinking
    the Value of Network Pruning", §3, who at most double the epochs (Scratch-B). The schedule
    stretches with them. It may also learn from a trained network (distillation).
    """

    epochs: int = _option(160, "epochs of sparse training, before pruning")
    fine_tune_epochs: int = _option(160, "epochs of fine-tuning, after pruning")
    scratch_epochs: int = _option(
        None,
        "epochs of training from scratch; by default as many as sparse training and fine-tuning "
        "have together, or as one of them in `espalier family`",
    )
    batch_size: int = _option(64, "images in a minibatch")
    learning_rate: float = _option(0.1, "initial learning rate of SGD")
    weight_decay: float = _option(1e-4, "weight decay of SGD")
    schedule: str = _option(
        "rni",
        "fall of the learning rate: rni (divided by 10 at 50 % and 75 % of the epochs), "
        "copycat (divided by 5 every 30 %, as every 60 of 200 epochs) or constant",
    )
    fine_tune_learning_rate: float | None = _option(
        None, "initial learning rate of fine-tuning; by default that of training"
    )
    fine_tune_schedule: str | None = _option(
        None, "fall of the learning rate in fine-tuning; by default as in training"
    )
    nesterov: bool = _option(True, "Nesterov's momentum (default), or the classical one")
    equal_compute: bool = _option(
        False,
        "train from scratch for as many more epochs as the network costs fewer FLOPs than the "
        "base network",
    )
    compute_limit: float = _option(
        2.0, "most that equal compute multiplies the epochs of training from scratch by"
    )
    distill_from: str = _option(
        "", "folder of a trained architecture whose outputs training from scratch imitates"
    )
    distill_temperature: float = _option(
        4.0, "temperature that softens outputs; has no effect without --distill-from"
    )
    distill_weight: float = _option(
        0.9, "weight of imitation, 0 to 1, labels have the rest; no effect without --distill-from"
    )

    def __post_init__(self) -> None:
        if vars(self)["scratch_epochs"] is None:  # as it is given, before it is resolved
            object.__setattr__(self, "scratch_epochs", self.epochs + self.fine_tune_epochs)
        for name in ("epochs", "fine_tune_epochs", "scratch_epochs", "batch_size"):
            _require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        _require(0 < self.learning_rate < math.inf, "learning_rate", "above 0", self.learning_rate)
        _require(0 <= self.weight_decay < math.inf, "weight_decay", "at least 0", self.weight_decay)
        names, again = f"one of {', '.join(SCHEDULES)}", self.fine_tune_learning_rate
        _require(self.schedule in SCHEDULES, "schedule", names, self.schedule)
        _require(again is None or 0 < again < math.inf, "fine_tune_learning_rate", "above 0", again)
        later = self.fine_tune_schedule
        _require(later is None or later in SCHEDULES, "fine_tune_schedule", names, later)
        limit, heat, weight = self.compute_limit, self.distill_temperature, self.distill_weight
        _require(1 <= limit < math.inf, "compute_limit", "at least 1", limit)
        _require(0 < heat < math.inf, "distill_temperature", "above 0", heat)
        _require(0 <= weight <= 1, "distill_weight", "from 0 to 1", weight)

    def for_fine_tuning(self) -> TrainingConfig:
        """These settings with the learning rate of fine-tuning."""
        return dataclasses.replace(
            self,
            learning_rate=self.fine_tune_learning_rate or self.learning_rate,
            schedule=self.fine_tune_schedule or self.schedule,
        )

    def epochs_from_scratch(self, flops: int, base_flops: int) -> int:
        """Epochs that a network of `flops` trains from scratch, below a base of `base_flops`.

        At equal compute rounded down, so that nobody trains with more than the base network.
        """
        if not self.equal_compute:
            return self.scratch_epochs
        most = math.floor(self.scratch_epochs * self.compute_limit)
        return max(1, min(self.scratch_epochs * base_flops // flops, most))


SCHEDULES = ("rni", "copycat", "constant")

RECIPES: Mapping[str, Mapping[str, Any]] = {
    "rni": {},
    "copycat": {
        "epochs": 200,
        "fine_tune_epochs": 200,
        "batch_size": 128,
        "learning_rate": 0.1,
        "weight_decay": 5e-4,
        "schedule": "copycat",
        "fine_tune_learning_rate": 8e-4,
        "fine_tune_schedule": "constant",
        "nesterov": False,
    },
}
"""Settings of TrainingConfig by which papers trained, beside its defaults.

rni: "Receding Neuron Importances for Structured Pruning", the defaults: on CIFAR, fine-tuning
repeats the schedule of training; on ImageNet it starts at a tenth of its learning rate (§5.1).
copycat: Crowley et al., "Pruning neural networks: is it time to nip it in the bud?", implementation
details: fine-tuning at the lowest learning rate that training reached, 0.1 / 5³.
"""


@dataclass(frozen=True)
class SearchConfig:
    """One budget-constrained search: what `espalier search` and `search.run` take.

    Construction checks every value and raises ConfigError or BudgetError.
    """

    model: str = _option(
        "digits-vgg", "a network of the zoo, torchvision:NAME, or module:callable of your own"
    )
    budget: tuple[str, ...] = _option(
        ("flops=10%",),
        "upper bound such as flops=25%, flops=30M, params=300k, weight_bytes=1MB or "
        "peak_activation_bytes=50%; repeatable",
    )
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    study: StudyConfig = field(default_factory=StudyConfig)
    resources: ResourcesConfig = field(default_factory=ResourcesConfig)
    criterion: tuple[str, ...] = _option(
        ("rni",), "pruning methods to try, joined by commas, such as rni,taylor,fisher"
    )
    count_attention: bool = _option(
        False,
        "bound (in `espalier inspect`, show) all multiply-adds in the place of FLOPs: also those "
        "that fvcore leaves out, of attention, deformable convolutions, recurrent layers …",
    )
    granularity: tuple[str, ...] = _option(
        ("filter",),
        "what to prune, to try in turn: filter, branch … joined by commas; together: filter+branch",
    )
    trials: int = _option(8, "how many proposals (method, its settings, target FLOPs) are tried")
    ladder: tuple[float, ...] = _option(
        (1.0, 0.5, 0.25), "fractions of the budget at which families are compared"
    )
    profiles: int = _option(2, "how many shapes of the front are rescaled over the ladder")
    seeds: int = _option(
        1, "how often each network that the verdict compares is trained, with other seeds"
    )
    equal_compute_pairs: bool = _option(
        True, "also train the shapes of fine-tuned networks from scratch at equal compute"
    )
    random_widths: bool = _option(
        False, "also compare shapes drawn at random within each rung of the ladder"
    )
    min_channels: int = _option(3, "channels that stay in every layer, or all if it has fewer")
    divisor: int = _option(
        1, "channels of a layer that loses some are left with a multiple of this (8, 16 …)"
    )
    scoring_batches: int = _option(
        30, "minibatches of training images that a criterion which needs data looks at"
    )
    prune_residual: bool = _option(False, "also prune channels that residual branches share")
    exact: bool = _option(
        True,
        "leave alone channels whose removal changes what a normalisation, softmax or mean over "
        "channels makes of the others (default), or take those, too, where shapes stay consistent",
    )
    seed: int = _option(0, "seed of data splits, weights, batches and proposals")
    concurrency: int | None = _option(
        None, "trials at once; by default one per CPU core, or one on a GPU"
    )
    device: str = _option("auto", "auto, cpu or cuda")
    name: str = _option("", "name of the search; by default made of model, data and budget")
    runs: str = _option("espalier-runs", "folder that holds all searches and the MLflow store")
    mlflow_url: str = _option("", "MLflow server to log to; by default the store under --runs")
    register: str = _option(
        "", "name under which MLflow's registry takes the front, the most accurate as `best`"
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "budget", tuple(self.budget))
        object.__setattr__(self, "ladder", tuple(float(part) for part in self.ladder))
        for bound in self.bounds.bounds:
            if bound.quantity in Budget.MEASURED:
                raise ConfigError(
                    f"a search prunes by closed forms ({', '.join(Budget.QUANTITIES)}) and cannot "
                    f"measure every candidate, got {str(bound)!r}: search without it, then "
                    f"`espalier family SEARCH/NAME --budgets {bound}` fits the shape to it",
                    field="budget",
                )
        for name in ("criterion", "granularity"):
            _require(bool(getattr(self, name)), name, "at least one name", getattr(self, name))
            object.__setattr__(self, name, _listed(getattr(self, name)))
        mixtures = dict.fromkeys(granularity(text) for text in self.granularity)
        object.__setattr__(self, "granularity", tuple(mixtures))
        for name in self.criterion:
            if method(name).prunes_untrained and mixtures.keys() != {"filter"}:
                raise ConfigError(
                    f"{name} prunes before training, when gates have learned nothing: "
                    "leave it out, or every granularity but filter"
                )
            by_gates = method(name).criterion is None
            if self.divisor > 1 and by_gates and any("filter" in parts_of(m) for m in mixtures):
                raise ConfigError(
                    f"{name} removes channels one by one, by their gates: it knows no divisor; "
                    "leave it out, or --divisor"
                )
        counts = ("trials", "profiles", "seeds", "min_channels", "divisor", "scoring_batches")
        for name in counts:
            _require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        _require(self.trials < MOST_TRIALS, "trials", f"below {MOST_TRIALS:,}", self.trials)
        _require(0 <= self.seed < 2**32, "seed", "from 0 to 2³² − 1", self.seed)
        _require(
            bool(self.ladder) and all(0 < part <= 1 for part in self.ladder),
            "ladder",
            "fractions above 0 and at most 1",
            self.ladder,
        )
        _require(
            self.concurrency is None or self.concurrency >= 1,
            "concurrency",
            "at least 1",
            self.concurrency,
        )
        _require(self.device in DEVICES, "device", f"one of {', '.join(DEVICES)}", self.device)
        if not self.name:
            object.__setattr__(self, "name", self._default_name())
        _require(
            re.fullmatch(r"[A-Za-z0-9][\w.+-]*", self.name) is not None,
            "name",
            "letters, digits and . _ + - only",
            self.name,
        )

    @property
    def directory(self) -> Path:
        """The folder of this search."""
        return Path(self.runs) / self.name

    @property
    def bounds(self) -> Budget:
        """The budget, with what its FLOPs are to mean."""
        budget = Budget.parse(*self.budget)
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

    def _default_name(self) -> str:
        parts = [self.model, Path(self.data.source).name, *self.budget]
        return re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(parts)).strip("-.")


DEVICES = ("auto", "cpu", "cuda")

MOST_TRIALS = 2**20
"""Of a search: each has seeds of its own."""


def _listed(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Names given one by one or joined by commas, each once, in order."""
    names = (name.strip() for text in texts for name in text.split(","))
    return tuple(dict.fromkeys(names))


_TABLES = tables(SearchConfig)


def from_mapping(content: Mapping[str, Any], origin: str = "the configuration") -> SearchConfig:
    """SearchConfig from nested mappings, such as a TOML file's; ConfigError for unknown keys."""
    config: SearchConfig = _fill(SearchConfig, content, origin, "")
    return config


def from_toml(path: str | Path) -> SearchConfig:
    """SearchConfig from a TOML file with the tables [data] and [training].

    In [training], `recipe` names the RECIPES that the other settings are laid over.
    """
    return from_mapping(read_toml(path), str(path))


def read_toml(path: str | Path) -> dict[str, Any]:
    """The content of a TOML file; ConfigError if it is missing or malformed."""
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error


def to_mapping(config: SearchConfig) -> dict[str, Any]:
    """The inverse of `from_mapping`; JSON-able."""
    return dataclasses.asdict(config)


def _fill(cls: type[Any], content: Mapping[str, Any], origin: str, prefix: str) -> Any:
    known = {f.name: f for f in dataclasses.fields(cls)}
    values: dict[str, Any] = {}
    if cls is TrainingConfig:
        content = _with_recipe(content, f"{origin}: {prefix}recipe")
    for key, value in content.items():
        if key not in known:
            close = difflib.get_close_matches(key, known, n=3)
            hint = f"did you mean {', '.join(close)}?" if close else f"known: {', '.join(known)}"
            raise ConfigError(
                f"{origin} has an unknown key {prefix + key!r}: {hint}", field=prefix + key
            )
        if not prefix and key in _TABLES:
            if not isinstance(value, Mapping):
                raise ConfigError(f"{origin}: {key!r} must be a table, got {value!r}", field=key)
            values[key] = _fill(_TABLES[key], value, origin, f"{key}.")
        else:
            values[key] = _typed(known[key], value, origin, prefix + key)
    try:
        return cls(**values)
    except ConfigError as error:
        if error.field:
            error.field = prefix + error.field
        raise


def _with_recipe(content: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Settings of training on top of those of the recipe that is named among them."""
    rest = dict(content)
    name = rest.pop("recipe", "rni")
    is_known = isinstance(name, str) and name in RECIPES
    _require(is_known, where, f"one of {', '.join(RECIPES)}", name)
    return {**RECIPES[name], **rest}


_NAMES_OF_TYPES: dict[str, tuple[Any, str]] = {
    "str": (str, "a text"),
    "str | None": (str, "a text"),
    "int": (int, "a whole number"),
    "int | None": (int, "a whole number"),
    "float": ((int, float), "a number"),
    "float | None": ((int, float), "a number"),
    "bool": (bool, "true or false"),
    "bool | None": (bool, "true or false"),
    "tuple[str, ...]": ((list, tuple), "a list of texts"),
    "tuple[float, ...]": ((list, tuple), "a list of numbers"),
}


def _typed(option: dataclasses.Field[Any], value: Any, origin: str, key: str) -> Any:
    if value is None and option.default is None:
        return None
    expected, words = _NAMES_OF_TYPES[str(option.type)]
    is_right = isinstance(value, expected) and isinstance(value, bool) == (expected is bool)
    if is_right and expected == (list, tuple):
        inner: Any = str if "str" in str(option.type) else (int, float)
        is_right = all(isinstance(i, inner) and not isinstance(i, bool) for i in value)
    if not is_right:
        raise ConfigError(f"{origin}: {key} must be {words}, got {value!r}", field=key)
    return value
