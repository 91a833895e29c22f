"""Layers that stay whole, and shares that others keep: in trials, families and what is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from samples import espalier, small_config, stored_outcome

import copycat
from copycat import WidthProfile
from pruning.errors import ConfigError, UnreachableBudgetError
from search import models
from search.config.training_config import TrainingConfig
from search.data.datasets import ImageData
from search.scheduling.from_scratch_jobs import members
from search.trials.job_context import JobContext
from search.trials.jobs import TrialJob
from search.trials.preflight import Preflight, check
from search.trials.search_space import SearchSpace
from search.trials.trial import perform

RESTRICTED = {"ignore": ("features.conv2",), "max_removed": ("features.conv4=25%", "*.conv5=50%")}
"""Of digits-vgg, whose convolutions have 32, 32, 64, 64, 128 and 128 channels."""


def vgg_preflight(folder: Path, digits: ImageData, **changes: object) -> Preflight:
    config = small_config(folder, **({"budget": ("flops=70%",)} | RESTRICTED | changes))
    builder = models.resolve(config.model, num_classes=10, in_channels=1)
    return check(config, builder, digits.sample)


def assert_kept(widths: dict[str, int], whole: Preflight) -> None:
    full = whole.graph.widths
    width = {**full, **widths}
    assert (width["features.conv1"], width["features.conv2"]) == (32, 32)
    assert width["features.conv4"] >= 48
    assert width["features.conv5"] >= full["features.conv5"] // 2


def test_caps_and_what_is_ignored_are_part_of_the_reachable_range(
    tmp_path: Path, digits: ImageData, preflight: Preflight
) -> None:
    restricted = vgg_preflight(tmp_path, digits)
    assert set(preflight.groups) - set(restricted.groups) == {"features.conv1", "features.conv2"}
    least = {"features.conv3": 3, "features.conv4": 48, "features.conv6": 3}
    half = preflight.graph.group("features.conv5").width // 2
    assert restricted.floor == preflight.graph.cost({**least, "features.conv5": half})
    budget = (f"flops={restricted.floor.flops - 1}",)
    with pytest.raises(
        UnreachableBudgetError, match=f"nearest reachable: {restricted.floor.flops:,}"
    ):
        vgg_preflight(tmp_path, digits, budget=budget)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ignore": ("features.conv9",)}, r"ignore names 'features\.conv9'.* did you mean feat"),
        ({"max_removed": ("x*=5%",)}, r"max_removed names 'x\*', which is no layer with channels"),
    ],
)
def test_what_fits_no_layer_is_refused(
    tmp_path: Path, digits: ImageData, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        vgg_preflight(tmp_path, digits, **changes)


def mildest(preflight: Preflight, name: str, granularity: str, percent: int) -> TrialJob:
    flops = preflight.base.flops
    space = SearchSpace(1.0, (float(preflight.floor.flops), float(flops)))
    proposal = space.mildest(name, granularity)
    target = preflight.floor.flops + (flops - preflight.floor.flops) * percent // 100
    return TrialJob(0, dataclasses.replace(proposal, target_flops=target))


@pytest.mark.parametrize("name", ["rni", "taylor", "magnitude-l2", "snip", "scaling-factors"])
def test_trials_keep_to_them_by_every_kind_of_method(
    tmp_path: Path, digits: ImageData, name: str
) -> None:
    restricted = vgg_preflight(tmp_path, digits, criterion=(name,))
    training = TrainingConfig(1, 1, 1, batch_size=32)
    config = small_config(
        tmp_path, **RESTRICTED, budget=("flops=70%",), criterion=(name,), training=training
    )
    context = JobContext(config, restricted, "cpu")
    outcomes = perform(mildest(restricted, name, "filter", 2), context, digits, lambda _: None)
    assert outcomes
    for outcome in outcomes:
        assert_kept(dict(copycat.read(config.directory / outcome.path).profile.widths), restricted)


def test_structures_with_a_layer_that_stays_are_no_part_of_the_range(
    tmp_path: Path, digits: ImageData
) -> None:
    builder = models.resolve("digits-resnet", num_classes=10, in_channels=1)

    def floor(**changes: object) -> int:
        config = small_config(tmp_path, budget=("flops=99%",), granularity=("branch",), **changes)
        return check(config, builder, digits.sample).floor.flops

    assert floor(ignore=("stage1.*",)) > floor()
    assert floor(max_removed=("stage1.block0.conv1=50%",)) > floor()
    assert floor(max_removed=("stage1.*=100%",)) == floor()


def test_families_keep_to_them(tmp_path: Path, digits: ImageData) -> None:
    """Copycats, uniform and random shapes on every rung, and from scratch as the trial was."""
    restricted = vgg_preflight(tmp_path, digits)
    config = small_config(
        tmp_path, **RESTRICTED, budget=("flops=70%",), ladder=(1.0, 0.9, 0.8), random_widths=True
    )
    narrow = {"features.conv3": 20, "features.conv4": 50, "features.conv5": 70}
    trial = stored_outcome(config, restricted, 0, {**narrow, "features.conv6": 16}, 0.9)
    jobs, _ = members(config, restricted, [trial])
    assert {job.origin for job in jobs} >= {"copycat", "uniform", "random", "from-scratch"}
    for job in jobs:
        assert_kept(dict(job.widths), restricted)


def test_a_profile_is_fitted_to_them_in_a_ladder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("p.json").write_text(WidthProfile({"features.conv1": 5, "features.conv4": 8}).to_json())
    flags = ("--model=digits-vgg", "--input=1x8x8", "--budgets=flops=95%", "--kinds=copycat")
    flags += ("--ignore=features.conv1", "--max-removed=features.conv4=25%", "--json")
    shown = espalier("family", "p.json", *flags)
    assert shown.status == 0, shown.err
    (row,) = json.loads(shown.out)
    assert row["widths"].get("features.conv1", 32) == 32
    assert row["widths"]["features.conv4"] >= 48
    refused = espalier("family", "p.json", *flags[:4], "--ignore=features.cnv1")
    assert (refused.status, refused.err.count("\n")) == (2, 1)
    assert "ignore names 'features.cnv1'" in refused.err


def test_inspect_shows_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shown = espalier(
        *("inspect", "digits-vgg", "--input=1x8x8"),
        *("--ignore=features.conv2", "--max-removed=features.conv4=25%"),
    )
    assert shown.status == 0, shown.err
    lines = {line.split()[0]: line for line in shown.out.splitlines() if line}
    assert lines["features.conv2"].endswith("no: ignored (features.conv2)")
    assert lines["features.conv4"].endswith(
        "yes, at least 48 channels: at most 25% of its 64 may go (max_removed features.conv4)"
    )
    content = json.loads(
        espalier(
            *("inspect", "digits-vgg", "--input=1x8x8", "--json"),
            *("--ignore=features.conv2", "--max-removed=features.conv4=25%"),
        ).out
    )
    groups = {group["name"]: group for group in content["groups"]}
    assert groups["features.conv2"]["pinned"] == "ignored (features.conv2)"
    assert groups["features.conv4"]["min_width"] == 48
    refused = espalier("inspect", "digits-vgg", "--input=1x8x8", "--ignore=nothing")
    assert (refused.status, refused.out, refused.err.count("\n")) == (2, "", 1)


def test_inspect_makes_a_network_with_arguments() -> None:
    plain = espalier("inspect", "torchvision:mobilenet_v2", "--input=3x32x32", "--json")
    slim = espalier(
        *("inspect", "torchvision:mobilenet_v2", "--input=3x32x32", "--json"),
        "--model-arg=width_mult=0.5",
    )
    assert plain.status == slim.status == 0, slim.err
    params = [json.loads(shown.out)["base"]["params"] for shown in (slim, plain)]
    assert params[0] < params[1] / 2
