"""What trials are pruned to, and what the networks that come of it are called."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
from pathlib import Path

import pytest
from samples import small_config, trial_job
from torch import nn

import copycat
from pruning import Bound, Budget, measure_cost, prune
from pruning.criteria import WeightMagnitude
from search import models
from search.config.search_config import SearchConfig
from search.config.study_config import StudyConfig
from search.config.training_config import TrainingConfig
from search.data.datasets import ImageData
from search.trials.artifacts import stored_curve
from search.trials.job_context import JobContext
from search.trials.jobs import TrialJob, job_from_mapping, job_to_mapping
from search.trials.preflight import Preflight, check
from search.trials.search_space import Proposal
from search.trials.starting_weights import starting_weights
from search.trials.targets import product_suffixes, targets_of
from search.trials.trial import perform

TRAIN_ONLY: dict[str, object] = {
    **{"train_only": True, "budget": SearchConfig.budget, "ladder": SearchConfig.ladder},
    "study": StudyConfig(),
}
PROPOSAL = Proposal("magnitude-l1", "filter", {}, None)


def test_a_trial_of_its_own_target_has_by_products_by_halves(preflight: Preflight):
    config = small_config(Path())
    targets = targets_of(trial_job(target_flops=100_001).proposal, config, preflight)
    assert [t.suffix for t in targets] == product_suffixes(config) == ["", "-t50"]
    assert [str(t.limits) for t in targets] == ["flops=100k", "flops=50k"]
    assert targets[1].limits.limit("flops") == 50_000


def test_the_targets_of_a_search_are_shares_of_its_base_network(tmp_path, preflight: Preflight):
    config = small_config(
        tmp_path,
        budget=("flops=90%",),
        targets=("flops=25%:75%:25%", "params=12345", "params=3k", "flops=12.5%"),
    )
    wide = check(config, preflight.builder, preflight.sample)
    targets = targets_of(PROPOSAL, config, wide)
    assert [t.name for t in targets[2:4]] == ["flops=75%", "params=12345"]
    assert [t.suffix for t in targets] == [
        *("-flops-25pct", "-flops-50pct", "-flops-75pct"),
        *("-params-12345", "-params-3k", "-flops-12_5pct"),
    ]
    base, most = wide.base.flops, wide.limits.limit("flops")
    limits = [(t.limits.limit("flops"), t.limits.limit("params")) for t in targets]
    assert limits == [
        *((base * quarters // 4, None) for quarters in (1, 2, 3)),
        *((most, 12345), (most, 3000), (base // 8, None)),
    ]


@pytest.mark.parametrize(("scope", "channels"), [("global", 45), ("uniform", 48)])
def test_a_share_of_channels_is_each_layers_own_in_uniform_scope(
    preflight: Preflight, scope: str, channels: int
):
    """Of 32, 64 and 128 channels, twice each, a tenth are 4, 7 and 13; of 448 they are 45."""
    config = small_config(Path(), targets=("channels=10%",), scope=scope)
    (target,) = targets_of(PROPOSAL, config, preflight)
    assert target.suffix == "-channels-10pct"
    assert target.limits.limit("channels") == channels


def test_ucs_is_a_method_beside_others(tmp_path, digits: ImageData):
    """It comes to the network that --scope uniform comes to; others take channels of all layers."""
    found = {}
    for criteria, scope in ((("magnitude-l1", "ucs"), "global"), (("magnitude-l1",), "uniform")):
        config = small_config(
            tmp_path / scope,
            **{"criterion": criteria, "scope": scope, "budget": ("flops=100%",)},
            targets=("channels=50%",),
        )
        builder = models.resolve("digits-vgg", num_classes=10, in_channels=1)
        context = JobContext(config, check(config, builder, digits.sample), "cpu")
        for name in criteria:
            job = TrialJob(0, Proposal(name, "filter", {}, None))
            (outcome,) = perform(job, context, digits, lambda _: None)
            stored = copycat.read(config.directory / outcome.path)
            found[name, scope] = (stored.profile.widths, outcome.flops, outcome.validation_score)
            shutil.rmtree(config.directory)
    assert found["ucs", "global"] == found["magnitude-l1", "uniform"]
    assert [*found["ucs", "global"][0].values()] == [16, 16, 32, 32, 64, 64]
    assert found["magnitude-l1", "global"][0] != found["ucs", "global"][0]


def test_the_budget_holds_beside_a_target_above_it(preflight: Preflight):
    limit = preflight.limits.limit("flops")
    proposal = dataclasses.replace(PROPOSAL, target_flops=int(2 * limit))
    own, _ = targets_of(proposal, small_config(Path()), preflight)
    assert own.limits == preflight.limits


def test_each_target_comes_to_a_network_of_one_sparse_training(
    tmp_path, preflight: Preflight, digits: ImageData
):
    config = small_config(tmp_path, budget=("flops=80%",), targets=("flops=20%:60%:20%",))
    wide = check(config, preflight.builder, preflight.sample)
    context, records = JobContext(config, wide, "cpu"), []
    found = perform(TrialJob(2, PROPOSAL), context, digits, records.extend)
    assert [o.key for o in found] == [f"fine-tuned-2-flops-{p}pct" for p in (20, 40, 60)]
    for outcome, share in zip(found, (0.2, 0.4, 0.6), strict=True):
        assert 0.85 * share < outcome.flops / wide.base.flops <= share
        assert copycat.load(config.directory / outcome.path) is not None
        assert (outcome.target, outcome.tried) == (f"flops={100 * share:g}%", "magnitude-l1")
    assert [r.stage for r in records] == ["sparse training", *["fine-tuning"] * 3]
    assert {r.num_steps for r in records} == {4}
    assert len({o.details["score_before_pruning"] for o in found}) == 1


def test_networks_that_descend_are_pruned_from_what_the_last_one_has_learned(
    tmp_path, preflight: Preflight, digits: ImageData
):
    """And have all of its training behind them; the first is pruned from sparse training."""
    config = small_config(
        tmp_path,
        **{"budget": ("flops=80%",), "targets": ("flops=60%", "flops=40%", "flops=20%")},
        criterion=("magnitude-l1",),
        study=StudyConfig(tempered_trials=0, descend=True),
    )
    wide = check(config, preflight.builder, preflight.sample)
    context, records = JobContext(config, wide, "cpu"), []
    found = perform(TrialJob(2, PROPOSAL), context, digits, records.extend)
    assert [o.key for o in found] == [f"fine-tuned-2-flops-{p}pct" for p in (60, 40, 20)]
    assert [r.stage for r in records] == ["sparse training", *["fine-tuning"] * 3]
    assert {r.num_steps for r in records} == {4}
    networks = [copycat.load(config.directory / outcome.path) for outcome in found]
    own = records[0].images
    for (first, second), network in zip(itertools.pairwise(found), networks, strict=False):
        share = float(second.target.removeprefix("flops=").removesuffix("%")) / 100
        target = Budget((Bound("flops", int(share * wide.base.flops)),))
        pruned = prune(network, digits.sample.inputs, target, criterion=WeightMagnitude(1))
        assert measure_cost(pruned, digits.sample.inputs).flops == second.flops < first.flops
        score = context.score(pruned, "validation", digits)
        assert second.details["score_after_pruning"] == score
        assert second.details["score_before_pruning"] == first.validation_score
        assert second.images == first.images + own
        assert second.compute == first.compute + own * second.flops
    for count, outcome in enumerate(found, 2):
        curve = stored_curve(config.directory / outcome.path)
        assert [r.images for r in curve] == [r.images for r in records[:count]]
        assert curve[-1].images == outcome.images
        copycat.verify(config.directory / outcome.path)


def test_networks_may_descend_from_one_that_has_learned_nothing(
    tmp_path, preflight: Preflight, digits: ImageData
):
    """No training is that of a network which is larger than the first target."""
    config = small_config(
        tmp_path,
        **{"budget": ("flops=60%",), "targets": ("flops=60%", "flops=20%")},
        criterion=("magnitude-l1",),
        training=TrainingConfig(0, 2, batch_size=32),
        study=StudyConfig(tempered_trials=0, descend=True),
    )
    wide = check(config, preflight.builder, preflight.sample)
    context, records = JobContext(config, wide, "cpu"), []
    first, second = perform(TrialJob(2, PROPOSAL), context, digits, records.extend)
    assert [r.stage for r in records] == ["fine-tuning"] * 4
    assert first.compute == first.images * first.flops
    assert second.images == 2 * first.images
    assert second.compute == first.compute + first.images * second.flops
    untrained = context.first_network(config.seed_of(2))
    score = context.score(untrained, "validation", digits)
    assert first.details["score_before_pruning"] == score
    assert second.details["score_before_pruning"] == first.validation_score


def test_sparse_training_alone_stores_the_network_and_what_the_method_finds(
    tmp_path, digits: ImageData
):
    config = small_config(tmp_path, **TRAIN_ONLY)
    builder = models.resolve("digits-vgg", num_classes=10, in_channels=1)
    preflight = check(config, builder, digits.sample)
    context, records = JobContext(config, preflight, "cpu"), []
    proposal = Proposal("rni", "filter", {"rni.strength": 0.0, "rni.shift": 0.0}, None)
    (found,) = perform(TrialJob(2, proposal, 1), context, digits, records.extend)
    assert (found.key, found.network, found.origin) == ("sparse-2-s1", "sparse-2", "sparse")
    assert (found.flops, found.params) == (preflight.base.flops, preflight.base.params)
    assert [(r.stage, r.num_steps) for r in records] == [("sparse training", 1)]
    assert found.validation_score == records[-1].validation_score
    assert found.details == {"sparsity": records[-1].sparsity}
    folder = config.directory / found.path
    network, stored = copycat.load(folder), json.loads((folder / "scores.json").read_text())
    assert stored["criterion"] == "rni"
    assert {n: len(v) for n, v in stored["scores"].items()} == {
        name: preflight.graph.group(name).width for name in preflight.groups
    }
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    scales = [scale for norm in norms for scale in norm.weight.tolist()]
    scores = [score for values in stored["scores"].values() for score in values]
    assert sorted(scales) == pytest.approx(sorted(scores))


def test_what_was_trained_sparsely_is_pruned_from_its_weights(tmp_path, digits: ImageData):
    """The scales of the stored network are what a search that begins with it judges by."""
    config = small_config(tmp_path, **TRAIN_ONLY)
    builder = models.resolve("digits-vgg", num_classes=10, in_channels=1)
    context = JobContext(config, check(config, builder, digits.sample), "cpu")
    proposal = Proposal("rni", "filter", {"rni.strength": 0.1, "rni.shift": 0.0}, None)
    (found,) = perform(TrialJob(0, proposal), context, digits, lambda _: None)
    folder = config.directory / found.path
    later = small_config(
        tmp_path,
        name="later",
        weights=str(folder / "weights.safetensors"),
        training=TrainingConfig(0, 1, 1, batch_size=32),
    )
    preflight = check(later, builder, digits.sample)
    after = JobContext(later, preflight, "cpu", weights=starting_weights(later, preflight))
    job = TrialJob(0, Proposal("rni", "filter", {}, 200_000))
    pruned, *_ = perform(job, after, digits, lambda _: None)
    before, now = (
        json.loads((place / "scores.json").read_text())["scores"]
        for place in (folder, later.directory / pruned.path)
    )
    assert now.keys() == before.keys()
    for name, values in now.items():
        assert values == pytest.approx(before[name], abs=1e-4)


def test_a_method_that_prunes_first_comes_to_its_first_target(preflight: Preflight):
    config = small_config(Path(), targets=("flops=5%",), criterion=("snip",))
    (target,) = targets_of(dataclasses.replace(PROPOSAL, criterion="snip"), config, preflight)
    assert target.limits == Budget.parse("flops=5%").absolute(preflight.base)


def test_a_job_goes_through_json_with_its_schedule_and_without_a_target():
    job = TrialJob(1, dataclasses.replace(PROPOSAL, schedule="iterative"), 2)
    assert job_from_mapping(job_to_mapping(job)) == job


def test_targets_in_channels_are_shares_of_each_group_where_the_scope_is_uniform(digits: ImageData):
    given = {"budget": ("flops=100%",), "targets": ("channels=10%:90%:40%",)}
    builder = models.resolve("digits-vgg", num_classes=10, in_channels=1)
    counts = {}
    for scope in ("global", "uniform"):
        config = small_config(Path(), scope=scope, **given)
        targets = targets_of(PROPOSAL, config, check(config, builder, digits.sample))
        assert [t.suffix for t in targets] == [f"-channels-{p}pct" for p in (10, 50, 90)]
        counts[scope] = [t.limits.limit("channels") for t in targets]
    whole = check(config, builder, digits.sample).base.channels
    assert counts["global"] == [-(-whole * percent // 100) for percent in (10, 50, 90)]
    assert all(a <= b for a, b in zip(counts["global"], counts["uniform"], strict=True))
