"""What several GPUs cannot train together."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from samples import small_config
from torch import nn

from pruning.errors import ConfigError, DataError
from search.config.resources_config import ResourcesConfig
from search.config.search_config import SearchConfig
from search.config.training_config import TrainingConfig
from search.data.datasets import ImageData
from search.tasks.classification import Classification
from search.tasks.task import Task
from search.tasks.training_context import TrainingContext
from search.training.data_parallel import check_several_gpus


class OwnLoop(Classification):
    def train(self, model: nn.Module, context: TrainingContext) -> None:
        raise AssertionError


class Boxes:
    """Data whose minibatches have more boxes than images."""

    def few(self, count: int) -> Boxes:
        return self

    def loader(self, part: str, *, device: torch.device, batch_size: int) -> Any:
        batch = (torch.zeros(batch_size, 3), torch.zeros(5, 4))
        return SimpleNamespace(in_order=lambda: iter([batch]))


@pytest.mark.parametrize(
    ("settings", "task", "message"),
    [
        ({}, OwnLoop(), "OwnLoop trains in a loop of its own, on one GPU"),
        ({"schedule": ("iterative",)}, Classification(), "the schedule iterative takes channels"),
        (
            {"training": TrainingConfig(batch_size=3)},
            Classification(),
            "gpus_per_trial must be at most 1, got 4: minibatches of 3 leave some of them",
        ),
    ],
    ids=["own loop", "iterative", "small minibatches"],
)
def test_what_several_gpus_cannot_train_is_refused(
    digits: ImageData, settings: dict[str, Any], task: Task, message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        check_several_gpus(asking_for(4.0, **settings), digits, task)
    assert refused.value.field == "resources.gpus_per_trial"
    check_several_gpus(asking_for(1.0, **settings), digits, task)
    check_several_gpus(asking_for(4.0), digits, Classification())


def asking_for(gpus: float, **settings: Any) -> SearchConfig:
    return small_config(Path(), resources=ResourcesConfig(gpus_per_trial=gpus), **settings)


def test_minibatches_that_cannot_be_sliced_are_refused() -> None:
    data: Any = Boxes()
    with pytest.raises(DataError, match="a part of length 5, which cannot be split among several"):
        check_several_gpus(asking_for(2.0), data, Classification())
