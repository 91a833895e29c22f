"""Every method, and every kind of gate, through one trial: within target, stored, rebuilt."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from samples import small_config
from torch import nn

import copycat
from copycat import WidthProfile
from pruning.errors import ConfigError, CriterionError, UnreachableBudgetError
from pruning.fvcore_count import measure_cost
from pruning.structure_removal.structures import Structure
from search import models
from search.config.methods import METHODS, granularity, method
from search.config.training_config import TrainingConfig
from search.data.datasets import ImageData
from search.scheduling.from_scratch_jobs import members
from search.storage.layout import SCORES_FILE
from search.trials.from_scratch import train_from_scratch
from search.trials.job_context import JobContext
from search.trials.jobs import EpochRecord, Outcome, TrialJob
from search.trials.preflight import Preflight, check
from search.trials.search_space import Proposal
from search.trials.sparse_training import SparseNetwork
from search.trials.trial import run_trial

VALUES = {"strength": 0.01, "shift": 1.0, "t": 1.2}
TRUST = ("samples",)


def prepared(folder: Path, digits: ImageData, network: str, **changes: Any) -> JobContext:
    config = small_config(
        folder,
        **({"model": f"samples:{network}", "scoring_batches": 2, "ladder": (1.0,)} | changes),
    )
    builder = models.resolve(config.model, num_classes=10, in_channels=1)
    preflight = check(config, builder, digits.sample)
    return JobContext(config, preflight, "cpu")


def proposal(context: JobContext, gate_strength: float = 0.3) -> Proposal:
    (name,), (parts,) = context.config.criterion, context.config.granularity
    settings = {f"{name}.{setting}": VALUES[setting] for setting in METHODS[name].settings}
    gates = {f"{part}.strength": gate_strength for part in parts.split("+") if part != "filter"}
    return Proposal(name, parts, settings | gates, context.preflight.flops_limit)


def all_performed(
    context: JobContext, digits: ImageData, **settings: float
) -> tuple[tuple[Outcome, ...], list[EpochRecord]]:
    records: list[EpochRecord] = []
    job = TrialJob(0, proposal(context, **settings))
    context.checkpoints(job.key).clear()  # another call does it again
    return run_trial(job, context, digits, records.extend), records


def performed(context: JobContext, digits: ImageData, **settings: float) -> Outcome:
    """The trial's own outcome; by-products come after it."""
    return all_performed(context, digits, **settings)[0][0]


@pytest.mark.parametrize("name", METHODS)
def test_every_method_prunes_to_the_target(tmp_path: Path, digits: ImageData, name: str) -> None:
    context = prepared(tmp_path, digits, "small_network", criterion=(name,), budget=("flops=60%",))
    outcomes, records = all_performed(context, digits)
    keys = ["fine-tuned-0"] if name == "snip" else ["fine-tuned-0", "fine-tuned-0-t50"]
    assert [outcome.key for outcome in outcomes] == keys
    first = "training" if name == "snip" else "sparse training"
    assert [record.stage for record in records] == [first, *["fine-tuning"] * len(keys)]
    for outcome, share in zip(outcomes, (1, 0.5), strict=False):
        path = context.config.directory / outcome.path
        limit = share * context.preflight.flops_limit
        assert 0.7 * limit < outcome.flops <= limit
        copycat.verify(path, trust=TRUST)
        assert ("sparsity" in outcome.details) == (name == "rni")
        if METHODS[name].criterion is None:
            assert not (path / SCORES_FILE).exists()
            continue
        kept = json.loads((path / SCORES_FILE).read_text())
        assert kept["criterion"] == name
        assert {group: len(scores) for group, scores in kept["scores"].items()} == {
            group: context.preflight.graph.group(group).width for group in context.preflight.groups
        }


@pytest.mark.parametrize("name", ["rni", "taylor", "scaling-factors"])
@pytest.mark.parametrize(
    "parts", ["branch", "layer", "block", "filter+branch", "filter+layer+branch+block"]
)
def test_structures_go_and_their_shape_is_stored_and_trained_from_scratch(
    tmp_path: Path, digits: ImageData, name: str, parts: str
) -> None:
    context = prepared(
        tmp_path,
        digits,
        "small_residual",
        criterion=(name,),
        granularity=(parts,),
        budget=("flops=70%",),
        profiles=1,
    )
    outcome = performed(context, digits)
    assert outcome.flops <= context.preflight.flops_limit
    architecture = copycat.verify(context.config.directory / outcome.path, trust=TRUST)
    kinds = {structure.kind for structure in architecture.profile.removed}
    assert kinds <= set(parts.split("+"))
    if "filter" not in parts:
        assert kinds
    jobs, notes = members(context.config, context.preflight, [outcome])
    assert notes == []
    pair = next(job for job in jobs if job.origin == "from-scratch")
    assert pair.profile == architecture.profile
    twin = train_from_scratch(pair, context, digits, lambda records: None)
    assert (twin.flops, twin.params) == (outcome.flops, outcome.params)
    copycat.verify(context.config.directory / twin.path, trust=TRUST)


def test_closed_gates_go_and_no_more_of_them_than_the_target_needs(
    tmp_path: Path, digits: ImageData
) -> None:
    changes: dict[str, Any] = {"criterion": ("taylor",), "granularity": ("filter+branch",)}
    training = TrainingConfig(6, 1, 1, batch_size=16)
    tight = prepared(
        tmp_path, digits, "small_residual", budget=("flops=42%",), training=training, **changes
    )
    loose = prepared(
        tmp_path / "loose", digits, "small_residual", budget=("flops=60%",), training=training,
        **changes,
    )  # fmt: skip
    removed = [
        copycat.read(
            context.config.directory / performed(context, digits, gate_strength=strength).path
        ).profile.removed
        for context, strength in ((tight, 3.0), (loose, 3.0), (loose, 0.0))
    ]
    assert [len(structures) for structures in removed] == [2, 1, 0]


def test_where_gates_leave_nothing_to_judge_the_target_must_hold_without(
    tmp_path: Path, digits: ImageData
) -> None:
    """With both branches gone only the stream is left, which is not to be pruned."""
    context = prepared(
        tmp_path,
        digits,
        "small_residual",
        criterion=("taylor",),
        granularity=("filter+branch",),
        budget=("flops=42%",),
        training=TrainingConfig(6, 1, 1, batch_size=16),
    )
    outcome = performed(context, digits, gate_strength=3.0)
    graph = context.preflight.graph_of(
        WidthProfile({}, tuple(Structure("branch", f"blocks.{n}") for n in (0, 1)))
    )
    assert outcome.flops == graph.cost().flops


def test_a_trial_of_a_method_is_the_same_again(tmp_path: Path, digits: ImageData) -> None:
    found = []
    for folder in ("a", "b"):
        context = prepared(
            tmp_path / folder,
            digits,
            "small_residual",
            criterion=("fisher",),
            granularity=("filter+layer",),
            budget=("flops=50%",),
        )
        outcome = performed(context, digits)
        found.append(copycat.load(context.config.directory / outcome.path, trust=TRUST))
    states = [network.state_dict() for network in found]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_scoring_looks_at_training_images_alone(tmp_path: Path, digits: ImageData) -> None:
    """The labels of the other two parts may be anything while channels are judged."""
    context = prepared(
        tmp_path, digits, "small_network", criterion=("taylor",), budget=("flops=60%",)
    )
    first = performed(context, digits)
    profile = copycat.read(context.config.directory / first.path).profile
    others = {
        name: dataclasses.replace(part, labels=torch.zeros_like(part.labels))
        for name, part in (("validation", digits.validation), ("test", digits.test))
    }
    second = performed(context, dataclasses.replace(digits, **others))
    assert copycat.read(context.config.directory / second.path).profile == profile


def test_polarization_keeps_its_scales_between_zero_and_one() -> None:
    norm = nn.BatchNorm2d(3)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([-0.5, 0.5, 1.5]))
    after_step = METHODS["polarization"].after_step
    assert after_step is not None
    after_step(nn.Sequential(norm, nn.BatchNorm2d(2, affine=False)))
    assert norm.weight.tolist() == [0.0, 0.5, 1.0]


@pytest.mark.parametrize("name", [n for n in METHODS if METHODS[n].regularizer is not None])
@pytest.mark.parametrize("granularity", ["filter", "filter+branch"])
def test_a_penalty_is_of_what_is_pruned(
    tmp_path: Path, digits: ImageData, name: str, granularity: str
) -> None:
    """Not of the residual stream, unless that is pruned as well."""
    for prune_residual in (False, True):
        context = prepared(
            *(tmp_path, digits, "small_residual"),
            criterion=(name,),
            granularity=(granularity,),
            prune_residual=prune_residual,
            budget=("flops=90%",),
        )
        proposed, config = proposal(context, gate_strength=0.0), context.config
        sparse = SparseNetwork(
            context.preflight.builder(),
            *(proposed, config, context.preflight),
            seed=0,
            device=torch.device("cpu"),
        )
        names, parameters = zip(*sparse.model.named_parameters(), strict=True)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():  # where all scales are equal DeepHoyer pushes none of them
            for parameter in parameters:
                parameter.add_(torch.rand(parameter.shape, generator=generator))
        found = torch.autograd.grad(
            sparse.penalty(sparse.model), parameters, allow_unused=True, materialize_grads=True
        )
        pushed = [name for name, gradient in zip(names, found, strict=True) if gradient.any()]
        pruned = context.preflight.graph.pruned
        layers = {layer for group in pruned for layer in (*group.producers, *group.layers)}
        assert any(group.residual for group in pruned) == prune_residual
        assert pushed
        for parameter in pushed:
            assert any(parameter.endswith(f"{layer}.weight") for layer in layers), parameter


def no_norm(num_classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)
    )


def refused(folder: Path, digits: ImageData, **changes: Any) -> Preflight:
    return prepared(folder, digits, changes.pop("network", "small_network"), **changes).preflight


@pytest.mark.parametrize("name", [m.name for m in METHODS.values() if m.reads_batchnorm])
def test_a_method_that_reads_batchnorm_needs_some(
    tmp_path: Path, digits: ImageData, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("samples.small_network", no_norm)
    message = f"no prunable channels with batch normalisation, which {name} judges"
    with pytest.raises(CriterionError, match=message):
        refused(tmp_path, digits, criterion=("taylor", name), budget=("flops=60%",))
    refused(tmp_path, digits, criterion=("taylor",), budget=("flops=60%",))


def test_a_granularity_that_the_network_lacks_is_refused_before_training(
    tmp_path: Path, digits: ImageData
) -> None:
    with pytest.raises(CriterionError, match="has no branch that could go: leave branch out"):
        refused(tmp_path, digits, granularity=("filter", "branch"), budget=("flops=60%",))


def test_every_granularity_must_reach_the_budget(tmp_path: Path, digits: ImageData) -> None:
    with pytest.raises(UnreachableBudgetError, match="nearest reachable"):
        refused(
            tmp_path,
            digits,
            network="small_residual",
            granularity=("filter+branch", "branch"),
            budget=("params=20%",),
        )


def test_names_are_looked_up_and_mixtures_put_in_order() -> None:
    assert method("fisher").name == "fisher"
    assert granularity("block+filter") == "filter+block"
    with pytest.raises(ConfigError, match="criterion must be one of rni, slimming"):
        method("nothing")


def test_a_removed_structure_costs_what_fvcore_counts(tmp_path: Path, digits: ImageData) -> None:
    context = prepared(
        tmp_path, digits, "small_residual", granularity=("block",), budget=("flops=70%",)
    )
    outcome = performed(context, digits)
    network = copycat.load(context.config.directory / outcome.path, trust=TRUST)
    cost = measure_cost(network, context.preflight.example_input)
    assert (cost.flops, cost.params) == (outcome.flops, outcome.params)
