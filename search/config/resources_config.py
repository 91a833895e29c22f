"""How a search proposes trials, and what it may use up: frozen dataclasses, checked."""

from __future__ import annotations

from dataclasses import dataclass

from search.config.options import option, require, seconds

SAMPLERS = ("tpe", "nsga2", "random")


@dataclass(frozen=True)
class StudyConfig:
    """How trials are proposed, cut short and made the most of."""

    sampler: str = option(
        "tpe", "who proposes trials: tpe (multivariate), nsga2 (a genetic algorithm) or random"
    )
    storage: str = option(
        "", "URL of a database for the Optuna study; by default a journal file beside the results"
    )
    early_stopping: bool = option(
        True, "stop trials that too many others beat in both accuracy and FLOPs"
    )
    by_products: int = option(
        1, "further networks that each trial is pruned to, at 1/2, 1/4 … of its target"
    )
    tempered_trials: int = option(
        4,
        "how many shapes between a found one (ρ = 1) and the uniformly narrowed (ρ = 0) are "
        "trained from scratch",
    )

    def __post_init__(self) -> None:
        require(self.sampler in SAMPLERS, "sampler", f"one of {', '.join(SAMPLERS)}", self.sampler)
        is_url = not self.storage or "://" in self.storage
        require(is_url, "storage", "a URL such as sqlite:///study.db", self.storage)
        for name in ("by_products", "tempered_trials"):
            value = getattr(self, name)
            require(0 <= value <= 1000, name, "from 0 to 1000", value)


@dataclass(frozen=True)
class ResourcesConfig:
    """What a search may use: of the machine for each trial, and of time over all.

    None of these changes what is searched for; they may differ when a search is continued.
    """

    cpus_per_trial: int | None = option(
        None, "CPU cores, and torch threads, of a trial; by default the cores shared evenly"
    )
    gpus_per_trial: float | None = option(
        None, "GPUs of a trial, such as 0.25; by default a GPU shared evenly by --concurrency"
    )
    ray_address: str = option(
        "", "Ray cluster to run on, such as 10.0.0.1:6379; by default one started for the search"
    )
    trial_timeout: str = option(
        "", "start a trial again from its last epoch if none ends for so long, such as 30min"
    )
    time_budget: str = option(
        "",
        "working time of the search in all its processes, such as 2h; it ends with what it has",
    )
    max_train_images: int | None = option(
        None, "training images that all networks may see together, repetitions counted"
    )

    memory_gb: float | None = option(
        None,
        "memory that the preflight, and each trial, may take, in GB; by default any",
    )

    def __post_init__(self) -> None:
        cpus, gpus, images = self.cpus_per_trial, self.gpus_per_trial, self.max_train_images
        require(cpus is None or cpus >= 1, "cpus_per_trial", "at least 1", cpus)
        require(gpus is None or 0 <= gpus <= 1024, "gpus_per_trial", "from 0 to 1024", gpus)
        require(images is None or images >= 1, "max_train_images", "at least 1", images)
        memory = self.memory_gb
        require(memory is None or memory >= 1, "memory_gb", "at least 1", memory)
        seconds("trial_timeout", self.trial_timeout)
        seconds("time_budget", self.time_budget)

    @property
    def timeout_seconds(self) -> float | None:
        """How long a trial may go without an epoch; None for any time."""
        return seconds("trial_timeout", self.trial_timeout)

    @property
    def budget_seconds(self) -> float | None:
        """Working time of the search; None for any time."""
        return seconds("time_budget", self.time_budget)
