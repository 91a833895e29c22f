"""Searches of one short trial on networks of others, with all that belongs to a search."""

from __future__ import annotations

from pathlib import Path

import pytest
from samples import quick_config

import copycat
import search
from search.config.data_config import DataConfig
from search.config.study_config import StudyConfig
from search.config.training_config import TrainingConfig


@pytest.mark.parametrize(
    ("model", "criterion"),
    [
        ("timm:resnet10t", "rni"),
        pytest.param("timm:mobilenetv3_small_050", "rni", marks=pytest.mark.slow),
        pytest.param("timm:efficientnet_lite0", "slimming", marks=pytest.mark.slow),
        pytest.param("timm:convnext_atto", "taylor", marks=pytest.mark.slow),  # no batch norms
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
    results = search.run(config).results
    origins = {outcome.origin for outcome in results.everything}
    assert {"fine-tuned", "uniform"} <= origins
    assert all(outcome.flops <= 0.7 * results.base.flops for outcome in results.everything)


def test_what_is_restricted_stays_so_to_the_end_of_a_search(
    tmp_path: Path, workers: object
) -> None:
    config = quick_config(
        tmp_path,
        model="timm:resnet10t",
        ignore=("layer4.*",),
        max_removed=("layer3.*=25%",),
        criterion=("slimming",),
        budget=("flops=85%",),
        ladder=(1.0,),
        trials=1,
        data=DataConfig(limit_train=48, image_size=32),
        training=TrainingConfig(1, 1, 1, batch_size=16),
        study=StudyConfig(by_products=0, tempered_trials=1),
        equal_compute_pairs=False,
    )
    results = search.run(config).results
    assert len(results.everything) >= 4
    for outcome in results.everything:
        widths = copycat.read(config.directory / outcome.path).profile.widths
        full = results.base_widths
        assert not any(name.startswith("layer4.") for name in full)
        assert widths.keys() <= full.keys()
        narrowed = {name: width / full[name] for name, width in widths.items()}
        assert all(part >= 0.75 for name, part in narrowed.items() if name.startswith("layer3."))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large"])
def test_segmentation_networks_of_torchvision_go_through_a_search(
    tmp_path: Path, workers: object, name: str
) -> None:
    """They return dicts, with auxiliary outputs or without; the score is the mean IoU."""
    config = quick_config(
        tmp_path,
        model=f"torchvision:{name}",
        task="segmentation",
        criterion=("slimming",),
        budget=("flops=80%",),
        ladder=(1.0,),
        trials=1,
        data=DataConfig("data_of_users:masks", validation_fraction=0.25),
        training=TrainingConfig(1, 1, 1, batch_size=6),
        study=StudyConfig(by_products=0, tempered_trials=0),
        equal_compute_pairs=False,
    )
    results = search.run(config).results
    assert {"fine-tuned", "uniform"} <= {outcome.origin for outcome in results.everything}
    assert results.score.name == "mean IoU"
    for outcome in results.everything:
        assert outcome.flops <= 0.8 * results.base.flops
        copycat.verify(config.directory / outcome.path)
