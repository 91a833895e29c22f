"""Trials by learnable gates in every form, from training to what is stored."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from samples import small_config
from torch import nn
from torch.nn import functional as F

import copycat
from pruning.errors import CriterionError, ModelError, UnreachableBudgetError
from pruning.structure_removal.structures import Structure
from search import models
from search.config.gates_config import GatesConfig
from search.config.training_config import TrainingConfig
from search.data.datasets import ImageData
from search.training.freezing import frozen_but
from search.trials.job_context import JobContext
from search.trials.jobs import EpochRecord, Outcome, TrialJob
from search.trials.preflight import check
from search.trials.search_space import Proposal
from search.trials.trial import run_trial

PAPER: dict[str, Any] = {
    **{"gates_at": "convolution", "gate_form": "clipped", "gate_penalty": "mean"},
}
TRUST = ("samples",)


def prepared(
    folder: Path,
    digits: ImageData,
    gates: dict[str, Any],
    parts: str = "filter",
    *,
    network: str = "small_residual",
    criterion: str = "scaling-factors",
    **changes: Any,
) -> JobContext:
    config = small_config(
        folder,
        **{
            "model": f"samples:{network}",
            "criterion": (criterion,),
            "granularity": (parts,),
            "gates": GatesConfig(**gates),
            "budget": ("flops=100%",),
            "scoring_batches": 1,
            "training": TrainingConfig(1, 1, 1, batch_size=32),
            **changes,
        },
    )
    builder = models.resolve(config.model, num_classes=10, in_channels=1)
    return JobContext(config, check(config, builder, digits.sample), "cpu")


def job_of(context: JobContext, share: float = 0.6, strength: float = 0.5) -> TrialJob:
    (name,), (parts,) = context.config.criterion, context.config.granularity
    owners = [name, *(part for part in parts.split("+") if part != "filter")]
    settings = {f"{owner}.strength": strength for owner in owners}
    target = int(share * context.preflight.base.flops)
    return TrialJob(0, Proposal(name, parts, settings, target))


def performed(
    context: JobContext, digits: ImageData, **how: float
) -> tuple[tuple[Outcome, ...], list[EpochRecord]]:
    records: list[EpochRecord] = []
    return run_trial(job_of(context, **how), context, digits, records.extend), records


def weights_of(context: JobContext, outcome: Outcome) -> dict[str, torch.Tensor]:
    network = copycat.load(context.config.directory / outcome.path, trust=TRUST)
    return network.state_dict()


@pytest.mark.parametrize(
    ("gates", "parts"),
    [
        ({"gates_at": "convolution"}, "filter"),
        ({"gate_form": "clipped"}, "filter+branch"),
        (PAPER, "filter"),
        (PAPER, "filter+full-layer"),
        (PAPER | {"settle_epochs": 1}, "filter+layer"),
    ],
    ids=str,
)
def test_every_form_of_gates_meets_the_target_and_is_stored(
    tmp_path: Path, digits: ImageData, gates: dict[str, Any], parts: str
) -> None:
    context = prepared(tmp_path, digits, gates, parts)
    outcomes, _ = performed(context, digits)
    for outcome, share in zip(outcomes, (0.6, 0.3), strict=False):
        assert outcome.flops <= share * context.preflight.base.flops
        copycat.verify(context.config.directory / outcome.path, trust=TRUST)


def test_a_full_layer_that_goes_is_stored_and_built_again(
    tmp_path: Path, digits: ImageData
) -> None:
    """The batch normalisation behind a convolution goes with it."""
    gates = {"gate_thresholds": ("1",)}  # which no sigmoid reaches
    context = prepared(tmp_path, digits, gates, "full-layer")
    (outcome,), _ = performed(context, digits, strength=0.01)
    architecture = copycat.verify(context.config.directory / outcome.path, trust=TRUST)
    names = [f"blocks.{n}.{layer}" for n in (0, 1) for layer in ("first", "second")]
    assert architecture.profile.removed == tuple(Structure("full-layer", name) for name in names)
    assert not any("norm" in name for name in weights_of(context, outcome) if "blocks" in name)


def test_thresholds_decide_whatever_the_target_but_within_the_budget(
    tmp_path: Path, digits: ImageData
) -> None:
    whole = prepared(tmp_path / "a", digits, PAPER | {"gate_thresholds": ("filter=0",)})
    (outcome,), _ = performed(whole, digits)
    assert outcome.flops == whole.preflight.base.flops
    tight = prepared(
        tmp_path / "b", digits, {"gate_thresholds": ("0",)}, "filter", budget=("flops=60%",)
    )
    with pytest.raises(UnreachableBudgetError):
        performed(tight, digits)


def test_gates_settle_before_they_go_and_the_trial_continues_where_it_was_left(
    tmp_path: Path, digits: ImageData
) -> None:
    gates = PAPER | {"settle_epochs": 2}
    context = prepared(tmp_path / "a", digits, gates, "filter+layer")
    outcomes, records = performed(context, digits, share=0.9)
    after = ["settling", "settling", "fine-tuning"]
    assert [record.stage for record in records] == ["sparse training", *after, *after]
    assert [record.num_steps for record in records] == [7] * 7
    seen = records[0].images
    assert [outcome.images for outcome in outcomes] == [4 * seen, 4 * seen]
    assert records[-1].images == 7 * seen

    class KilledError(Exception):
        pass

    def kill(epochs: list[EpochRecord]) -> None:
        if len(epochs) == 1 and epochs[0].step in (3, 4, 5):
            raise KilledError

    there = dataclasses.replace(
        context, config=dataclasses.replace(context.config, runs=str(tmp_path / "b"))
    )
    for _ in range(3):
        with pytest.raises(KilledError):
            run_trial(job_of(there, share=0.9), there, digits, kill)  # type: ignore[arg-type]
    again = run_trial(job_of(there, share=0.9), there, digits, lambda _: None)
    assert again == outcomes
    for outcome in outcomes:
        one, other = weights_of(context, outcome), weights_of(there, outcome)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_channels_that_a_criterion_judges_go_once_the_gates_have_settled(
    tmp_path: Path, digits: ImageData
) -> None:
    gates = {"settle_epochs": 1, "gate_thresholds": ("branch=0.5",)}
    context = prepared(tmp_path, digits, gates, "filter+branch", criterion="taylor")
    (outcome,), records = performed(context, digits)
    assert [record.stage for record in records] == ["sparse training", "settling", "fine-tuning"]
    assert outcome.flops <= 0.6 * context.preflight.base.flops
    copycat.verify(context.config.directory / outcome.path, trust=TRUST)


def test_after_sparse_training_only_what_is_not_frozen_learns(
    tmp_path: Path, digits: ImageData
) -> None:
    """One epoch of fine-tuning or three: frozen convolutions come out alike."""
    found = []
    for epochs in (1, 3):
        gates = PAPER | {"freeze_but": ("batchnorm", "last")}
        training = TrainingConfig(1, epochs, 1, batch_size=32)
        context = prepared(tmp_path / str(epochs), digits, gates, training=training)
        found.append(weights_of(context, performed(context, digits)[0][0]))
    same = {name for name in found[0] if torch.equal(found[0][name], found[1][name])}
    convolutions = {f"blocks.{n}.{layer}.weight" for n in (0, 1) for layer in ("first", "second")}
    assert same == {"stem.0.weight", *convolutions}


def test_what_is_frozen_learns_again_afterwards() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.Linear(4, 2))
    model[2].requires_grad_(False)
    inputs = torch.randn(6, 3)
    before = [p.requires_grad for p in model.parameters()]
    with frozen_but(model, ("last",), inputs):
        F.cross_entropy(model(inputs), torch.zeros(6).long()).backward()
    assert [p.grad is not None for p in model.parameters()] == [False] * 6 + [True] * 2
    assert [p.requires_grad for p in model.parameters()] == before
    bare = nn.Sequential(nn.Linear(3, 2))
    with (
        pytest.raises(ModelError, match="nothing that learns but for batchnorm"),
        frozen_but(bare, ("batchnorm",), inputs),
    ):
        pass


def test_patterns_say_what_is_gated_and_count_in_what_can_be_reached(
    tmp_path: Path, digits: ImageData
) -> None:
    named = {"gate": ("layer=*.second", "filter=blocks.0")}
    context = prepared(tmp_path, digits, named, "filter+layer")
    everything = prepared(tmp_path, digits, {}, "filter+layer")
    assert context.preflight.groups == ("blocks.0.first",)
    assert everything.preflight.groups == ("blocks.0.first", "blocks.1.first")
    assert context.preflight.floor.flops > everything.preflight.floor.flops
    layers = prepared(tmp_path, digits, {"gate": ("layer=*.second",)}, "layer")
    (outcome, *_), _ = performed(layers, digits, share=0.8)
    removed = copycat.read(layers.config.directory / outcome.path).profile.removed
    assert removed
    assert all(structure.name.endswith(".second") for structure in removed)
    with pytest.raises(CriterionError, match="no layer that could go of the names that --gate"):
        prepared(tmp_path, digits, {"gate": ("layer=nowhere",)}, "layer")
