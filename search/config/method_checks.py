"""What is refused of how channels are judged: methods, granularities, exponents, schedules."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from pruning.errors import ConfigError
from search.config.methods import method, parts_of, ranks_channels
from search.config.settings import require, require_defaults

if TYPE_CHECKING:
    from search.config.search_config import SearchConfig


def require_methods_that_fit(config: SearchConfig) -> None:
    """Methods that take the granularities, the scope and the divisor of the search."""
    parts = [parts_of(mixture) for mixture in config.granularities]
    for name in config.criteria:
        if method(name).prunes_untrained and parts != [("filter",)]:
            raise ConfigError(
                f"{name} prunes before training, when gates have learned nothing: "
                "leave it out, or every granularity but filter"
            )
        by_gates = method(name).criterion is None
        if config.divisor > 1 and by_gates and any("filter" in mixture for mixture in parts):
            raise ConfigError(
                f"{name} removes channels one by one, by their gates: it knows no divisor; "
                "leave it out, or --divisor"
            )
        if config.scope != "global" and by_gates:
            raise ConfigError(
                f"{name} removes channels one by one, by their gates: it knows no scope; "
                "leave it out, or --scope",
                field="scope",
            )
    for mixture in config.granularities:
        if config.scope != "global" and "filter" not in parts_of(mixture):
            raise ConfigError(
                f"scope {config.scope} removes a share of every layer's channels, and "
                f"granularity {mixture} removes none: leave it out, or --scope",
                field="scope",
            )


def require_exponents_that_fit(config: SearchConfig) -> None:
    """Exponents of costs from 0 to 1, where there are scores of channels that they weigh."""
    exponents = config.cost_exponent
    are_powers = bool(exponents) and all(0 <= power <= 1 for power in exponents)
    require(are_powers, "cost_exponent", "powers from 0 to 1", exponents)
    if not any(exponents):
        return
    uniform = [f"scope {config.scope}"] if config.scope != "global" else []
    uniform += [name for name in config.criteria if method(name).scope == "uniform"]
    if uniform:
        raise ConfigError(
            f"cost_exponent weighs scores of all layers together, and {uniform[0]} ranks "
            "those of each layer alone: leave one of them out",
            field="cost_exponent",
        )
    if not any(ranks_channels(*choice[:2]) for choice in config.choices):
        raise ConfigError(
            "cost_exponent weighs the scores of channels, and nothing that the search tries "
            "has any: leave it out",
            field="cost_exponent",
        )


def require_schedules_that_fit(config: SearchConfig) -> None:
    """Methods and granularities that the schedule iterative takes, within the epochs there are."""
    if "iterative" not in config.schedules:
        names = [field.name for field in dataclasses.fields(config.iterative)]
        require_defaults(config.iterative, names, "without the schedule iterative")
        return
    for name in config.criteria:
        if method(name).criterion is None:
            raise ConfigError(
                f"{name} opens and closes gates while it trains, with no score that channels "
                "could go by step by step: leave it out, or the schedule iterative",
                field="schedule",
            )
    for mixture in config.granularities:
        if "filter" not in parts_of(mixture):
            raise ConfigError(
                f"the schedule iterative takes channels step by step, and {mixture} prunes "
                f"none: leave iterative out, or prune filter+{mixture}",
                field="schedule",
            )
    fixed = [name.partition(".")[2] for name in config.fixed.settings]
    require_defaults(config.iterative, fixed, "where set gives it, too")
    most = config.training.fine_tune_epochs
    for iterative in config.iterative_settings:
        epochs = iterative.epochs
        if epochs is not None and epochs > most:
            raise ConfigError(
                f"iterative epochs are of those of fine-tuning, which are {most}, got {epochs}",
                field="iterative.epochs",
            )
