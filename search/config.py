"""What a search is asked to do: frozen dataclasses, checked on construction.

Every default stands here once. The command line, TOML files and Python all fill these
classes; a field's help text lives in its metadata so that it, too, stands once.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pruning.cost import Budget
from pruning.errors import ConfigError


def _option(default: Any, help_text: str) -> Any:
    return field(default=default, metadata={"help": help_text})


def _require(condition: bool, name: str, expected: str, got: object) -> None:
    if not condition:
        raise ConfigError(f"{name} must be {expected}, got {got!r}")


@dataclass(frozen=True)
class DataConfig:
    """Which images to learn from, and how many of them."""

    source: str = _option(
        "digits", "digits, cifar10, cifar100, mnist, fashion-mnist or imagefolder:PATH"
    )
    root: str = _option(".data", "folder that holds downloaded data sets")
    download: bool = _option(False, "allow torchvision to download the data set")
    image_size: int | None = _option(None, "resize images to this many pixels a side")
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

    SGD with Nesterov momentum 0.9; the learning rate is divided by 10 at 50 % and 75 % of
    the epochs; σBN scales learn 10 times faster and without weight decay.
    """

    epochs: int = _option(160, "epochs of sparse training, before pruning")
    fine_tune_epochs: int = _option(160, "epochs of fine-tuning, after pruning")
    scratch_epochs: int = _option(160, "epochs of training from scratch")
    batch_size: int = _option(64, "images in a minibatch")
    learning_rate: float = _option(0.1, "initial learning rate of SGD")
    weight_decay: float = _option(1e-4, "weight decay of SGD")

    def __post_init__(self) -> None:
        for name in ("epochs", "fine_tune_epochs", "scratch_epochs", "batch_size"):
            _require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        _require(0 < self.learning_rate < math.inf, "learning_rate", "above 0", self.learning_rate)
        _require(0 <= self.weight_decay < math.inf, "weight_decay", "at least 0", self.weight_decay)
