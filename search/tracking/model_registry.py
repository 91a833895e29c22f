"""Stored architectures become models of MLflow's registry."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import mlflow_server
from copycat.architecture import load, read
from copycat.export import random_inputs
from copycat.input_shape import InputForm, InputShape, shape_text
from mlflow_server.registry import Registered
from pruning.errors import ConfigError
from pruning.sigmoid_batchnorm import fold
from search.config.search_config import SearchConfig
from search.storage.layout import ARCHITECTURES_FOLDER
from search.tracking.mlflow_record import architecture_key
from search.trials.jobs import Outcome

BEST = "best"
"""Alias of the network of the best score of a front."""


def register_front(
    config: SearchConfig, front: Sequence[Outcome], trust: Sequence[str]
) -> list[Registered]:
    """Every network of the front as a version of `config.register`, each under its own key.

    The one of the best score, the last, has the alias `best` as well. TrackingError as for
    mlflow_server.register.
    """
    asked = [(outcome.key, outcome.key) for outcome in front]
    if front:
        asked.append((front[-1].key, BEST))
    return [register_one(config, key, config.register, alias, trust) for key, alias in asked]


def require_registrable(shape: InputShape) -> None:
    """ConfigError for a network that reads anything but one tensor in the dtype of its weights."""
    if isinstance(shape, InputForm):
        raise ConfigError(
            "register is for networks that read one tensor in the dtype of their weights, which is "
            f"what MLflow can serve, not {shape_text(shape)}: leave it out, and export instead",
            field="register",
        )


def register_one(
    config: SearchConfig, key: str, name: str, alias: str, trust: Sequence[str]
) -> Registered:
    """One architecture of a search as a version of the model `name`, under `alias`.

    trust: modules whose builders may run, beside copycat.TRUSTED_BUILDERS. Raises ConfigError for
    a network that reads more than one tensor.
    """
    folder = config.directory / ARCHITECTURES_FOLDER / key
    stored = read(folder)
    require_registrable(stored.input_shape)
    model = fold(load(folder, trust=trust)).eval()
    return mlflow_server.register(
        config.mlflow_url or mlflow_server.store_uri(Path(config.runs)),
        config.study_name,
        architecture_key(key),
        model,
        random_inputs(stored.example_input, 2),
        name=name,
        alias=alias,
    )
