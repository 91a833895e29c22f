"""What a search may use up."""

from __future__ import annotations

import re

from search.config.settings import option, require, settings

_UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86400}
_PERIOD = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|h|d)")


@settings
class ResourcesConfig:
    """What a search may use: of the machine for each trial, and of time over all.

    None of these changes what is searched for; they may differ when a search is continued.
    """

    cpus_per_trial: int | None = option(
        None, "CPU cores, and torch threads, of a trial; by default the cores shared evenly", ge=1
    )
    gpus_per_trial: float | None = option(
        None,
        "GPUs of a trial, a share of one such as 0.25, or several that train it together; by "
        "default one, shared only by a --concurrency above the number of GPUs",
        ge=0,
        le=1024,
    )
    ray_address: str = option(
        "", "Ray cluster to run on, such as 10.0.0.1:6379; by default one started for the search"
    )
    trial_timeout: str = option(
        "",
        "start a trial again from its last checkpoint if no epoch ends for so long, such as 30min",
    )
    checkpoint_every: str = option(
        "30s", "training that a trial may have to do again when its process dies, such as 5min"
    )
    time_budget: str = option(
        "",
        "working time of the search in all its processes, such as 2h; it ends with what it has",
    )
    max_train_images: int | None = option(
        None, "training images that all networks may see together, repetitions counted", ge=1
    )
    memory_gb: float | None = option(
        None, "memory that the preflight, and each trial, may take, in GB; by default any", ge=1
    )

    def __post_init__(self) -> None:
        gpus = self.gpus_per_trial or 0.0
        is_possible = gpus <= 1 or gpus.is_integer()
        expected = "a share of a GPU up to 1, or a whole number"
        require(is_possible, "gpus_per_trial", expected, gpus)
        seconds("trial_timeout", self.trial_timeout)
        seconds("time_budget", self.time_budget)
        require(
            seconds("checkpoint_every", self.checkpoint_every) is not None,
            "checkpoint_every",
            "a period such as 30s or 5min",
            self.checkpoint_every,
        )

    @property
    def timeout_seconds(self) -> float | None:
        """How long a trial may go without an epoch; None for any time."""
        return seconds("trial_timeout", self.trial_timeout)

    @property
    def checkpoint_seconds(self) -> float:
        """How much training a job may have to do again."""
        return seconds("checkpoint_every", self.checkpoint_every) or 0.0

    @property
    def budget_seconds(self) -> float | None:
        """Working time of the search; None for any time."""
        return seconds("time_budget", self.time_budget)


def seconds(name: str, text: str) -> float | None:
    """The length of a period such as 90s, 30min, 2h or 1d; None for an empty text.

    name: of the setting, for ConfigError.
    """
    if not text:
        return None
    match = _PERIOD.fullmatch(text.strip())
    value = 0.0 if match is None else float(match[1]) * _UNITS[match[2]]
    require(value > 0, name, "a period such as 90s, 30min, 2h or 1d", text)
    return value
