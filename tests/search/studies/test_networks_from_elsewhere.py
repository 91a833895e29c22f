"""Searches of one short trial on networks of others, with all that belongs to a search."""

from __future__ import annotations

from pathlib import Path

import pytest
from samples import quick_config

import search
from search.config.data_config import DataConfig
from search.config.study_config import StudyConfig
from search.config.training_config import TrainingConfig


@pytest.mark.parametrize(
    ("model", "criterion"),
    [
        ("timm:resnet10t", "rni"),
        ("timm:mobilenetv3_small_050", "rni"),
        ("timm:efficientnet_lite0", "slimming"),
        ("timm:convnext_atto", "taylor"),  # it has no batch norms
    ],
)
def test_networks_of_timm_go_through_a_search(
    tmp_path: Path, workers: object, model: str, criterion: str
) -> None:
    """Trained, pruned, fine-tuned, stored, certified, and compared with uniform narrowing."""
    pytest.importorskip("timm")
    config = quick_config(
        tmp_path,
        model=model,
        model_arg=("drop_rate=0.1",),
        criterion=(criterion,),
        exact=criterion != "taylor",
        budget=("flops=70%",),
        ladder=(1.0,),
        trials=1,
        data=DataConfig(limit_train=48, image_size=32),
        training=TrainingConfig(1, 1, 1, batch_size=16),
        study=StudyConfig(by_products=0, tempered_trials=0),
        equal_compute_pairs=False,
    )
    result = search.run(config)
    origins = {outcome.origin for outcome in result.everything}
    assert {"fine-tuned", "uniform"} <= origins
    assert all(outcome.flops <= 0.7 * result.base.flops for outcome in result.everything)
