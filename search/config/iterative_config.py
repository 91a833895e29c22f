"""How iterative pruning goes: channels taken bit by bit while the network trains."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from pruning.errors import ConfigError
from search.config.settings import option, settings, type_of


@settings
class IterativeConfig:
    """What `schedule` iterative does between sparse training and fine-tuning.

    It takes its epochs from those of fine-tuning, which has the rest: every trial trains for as
    long, whatever its schedule.
    Sources: Molchanov et al., "Importance Estimation for Neural Network Pruning", §3.1 and §3.2,
    whose 10 minibatches and moving average of 0.9 are the defaults; Crowley et al., "Pruning neural
    networks: is it time to nip it in the bud?", §3: units 1, minibatches 100, score_momentum 0.
    """

    epochs: int | None = option(
        None,
        "of the epochs of fine-tuning, those in which iterative pruning has to be over; by "
        "default half of them",
        ge=1,
    )
    units: int | None = option(
        None,
        "channels (or units of channels that go together) that go at a time; by default as few as "
        "are surely enough within the epochs",
        ge=1,
    )
    minibatches: int = option(10, "minibatches of training between two removals", ge=1)
    surgery_every: int = option(
        10,
        "removals by a gate of zero between two by surgery, which takes time; the result is the "
        "same",
        ge=1,
    )
    score_momentum: float = option(
        0.9, "momentum of the moving average of scores over removals; 0 for none", ge=0, lt=1
    )
    learning_rate: float | None = option(
        None, "learning rate while channels go; by default a tenth of that of training", gt=0
    )
    flops_penalty: float = option(
        0.0, "β: taken from the score of a channel per FLOP that its removal saves", ge=0
    )
    reset_momentum: bool = option(
        False,
        "the optimizer begins anew after each removal, or goes on with its momentum (default)",
    )
    score_every: int = option(
        0,
        "removals between two that the network is measured after, on validation data; 0: only at "
        "the end of each epoch",
        ge=0,
    )

    def with_values(self, values: Mapping[str, float]) -> IterativeConfig:
        """With these settings, as `--set` has them: numbers, and 0 and 1 for no and yes.

        Raises ConfigError for a value that a setting cannot have.
        """
        changes: dict[str, Any] = {
            name: _of_its_type(name, value) for name, value in values.items()
        }
        return dataclasses.replace(self, **changes)

    def params(self) -> dict[str, Any]:
        """Those of these settings that have a value, as a record has them."""
        named = dataclasses.asdict(self).items()
        return {f"iterative_{name}": value for name, value in named if value is not None}


ITERATIVE_SETTINGS = tuple(
    f"iterative.{field.name}" for field in dataclasses.fields(IterativeConfig)
)
"""Their names in `--set`."""


def _of_its_type(name: str, value: float) -> float | bool:
    """The number as the setting has it; it is checked when the settings are made."""
    kind, _ = type_of(IterativeConfig, name)
    if kind is float:
        return value
    if not value.is_integer() or (kind is bool and value not in (0, 1)):
        expected = "0 or 1" if kind is bool else "a whole number"
        raise ConfigError(f"{name} must be {expected}, got {value:g}", field=name)
    return bool(value) if kind is bool else int(value)
