"""What is refused of how trials are made: targets, sparse training alone, fixed settings."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from pruning.cost import Budget
from pruning.errors import ConfigError
from search.config.iterative_config import ITERATIVE_SETTINGS
from search.config.methods import method, ranks_channels
from search.config.settings import require, require_defaults

if TYPE_CHECKING:
    from search.config.search_config import SearchConfig

MOST_TARGETS = 1000
"""Of each trial: as many networks are trained."""


def require_targets_that_fit(config: SearchConfig) -> None:
    """Targets in closed forms, and nothing beside them that they take the place of."""
    if not config.targets:
        return
    for bound in config.target_bounds:
        if bound.quantity in Budget.MEASURED:
            raise ConfigError(
                f"a search prunes by closed forms ({', '.join(Budget.QUANTITIES)}), got the "
                f"target {str(bound)!r}",
                field="targets",
            )
    why = "where targets say what each trial is pruned to"
    require_defaults(config.study, ("by_products",), why)
    count = len(config.target_bounds)
    require(count <= MOST_TARGETS, "targets", f"at most {MOST_TARGETS:,} targets", count)
    for name in config.criteria:
        if method(name).prunes_untrained and count > 1:
            raise ConfigError(
                f"{name} prunes before training, so that one training comes to one target: "
                "leave it out, or all targets but one",
                field="targets",
            )


def require_descent_that_fits(config: SearchConfig) -> None:
    """Where networks descend from each other: further ones, smaller each, by scores of channels."""
    if not config.study.descend:
        return
    bounds = config.target_bounds
    if config.gates.gate_thresholds or not (
        len(bounds) > 1 if bounds else config.study.by_products
    ):
        why = "where trials come to one network each (by_products, targets)"
        require_defaults(config.study, ("descend",), why)
    if "iterative" in config.schedules:
        why = "with the schedule iterative, whose networks follow from each other anyway"
        require_defaults(config.study, ("descend",), why)
    for name, mixture in itertools.product(config.criteria, config.granularities):
        if method(name).prunes_untrained or not ranks_channels(name, mixture):
            why = f"with {name} for {mixture}, which ranks no channels of a trained network"
            require_defaults(config.study, ("descend",), why)
    for first, second in itertools.pairwise(bounds):
        is_smaller = first.value > second.value
        if (first.quantity, first.is_share) != (second.quantity, second.is_share) or not is_smaller:
            raise ConfigError(
                "each target must be below the one before it, of the same quantity, where networks "
                f"descend from each other: {second} follows {first}",
                field="targets",
            )


def require_nothing_but_training(config: SearchConfig) -> None:
    """What nothing but sparse training takes: no word of what is pruned, and no gates."""
    if not config.train_only:
        return
    why = "where nothing is pruned (train_only)"
    names = ("budget", "targets", "schedule", "cost_exponent", "ladder", "profiles")
    require_defaults(config, names, why)
    require_defaults(config.study, ("by_products", "descend", "tempered_trials"), why)
    if not config.training.epochs:
        raise ConfigError("epochs must be at least 1 where nothing but training is done, got 0")
    for name in config.criteria:
        if method(name).prunes_untrained or method(name).criterion is None:
            raise ConfigError(
                f"{name} trains no network that could be pruned later: leave it out, or train_only",
                field="train_only",
            )
    if config.granularities != ("filter",):
        raise ConfigError(
            "gates of structures are lost where nothing is pruned: leave train_only out, or "
            f"every granularity but filter, got {', '.join(config.granularities)}",
            field="train_only",
        )


def require_settings_that_fit(config: SearchConfig) -> None:
    """Fixed settings that something of the search has, and no more of them than trials."""
    if not config.set:
        return
    fixed = config.fixed
    fixed.require_known(config.choices)
    learned = [name for name in fixed.settings if name not in ITERATIVE_SETTINGS]
    if learned and not config.training.epochs:
        raise ConfigError(
            f"set has no effect on {learned[0]} without sparse training (epochs 0): leave it out",
            field="set",
        )
    if fixed.target_flops and (config.targets or config.train_only):
        why = "nothing is pruned" if config.train_only else "targets are given"
        raise ConfigError(f"set has no effect on target_flops where {why}", field="set")
    if config.is_grid and config.num_points > config.trials:
        raise ConfigError(
            f"set makes a grid of {config.num_points:,} combinations, more than trials "
            f"({config.trials:,}): raise trials, or leave values out",
            field="set",
        )
