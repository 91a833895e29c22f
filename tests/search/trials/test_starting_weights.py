"""Searches that start from trained weights: what they are worth, and what trials make of them."""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from rich.console import Console
from samples import Workers, from_scratch_job, quick_config, small_config
from torch import nn

import copycat
import search
from mlflow_server import MemoryRecorder
from pruning.errors import (
    ConfigError,
    SearchFailedError,
    SearchStateError,
    TrainingDivergedError,
    WeightsError,
)
from pruning.sigmoid_batchnorm import SigmoidBatchNorm
from search.commands.resume import stored_config
from search.config.search_config import SearchConfig
from search.config.training_config import TrainingConfig
from search.data.datasets import ImageData
from search.models import digits_resnet, digits_vgg
from search.results.report import open_results
from search.storage.layout import CONFIG_FILE
from search.studies.search_study import open_context
from search.tasks.classification import Classification
from search.tasks.score import ACCURACY
from search.training.trainer import train
from search.trials.job_context import JobContext, Report
from search.trials.jobs import EpochRecord, Job, TrialJob
from search.trials.search_space import Proposal
from search.trials.trial import perform, run_trial

UNTRAINED = TrainingConfig(0, 1, 1, batch_size=32, fine_tune_learning_rate=0.01)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def network(digits: ImageData) -> nn.Module:
    """A network that tells most digits apart."""
    torch.manual_seed(0)
    model = digits_vgg()
    training = TrainingConfig(12, batch_size=32)
    train(model, digits, task=Classification(), epochs=12, config=training, seed=0, device=CPU)
    return model


@pytest.fixture
def weights(network: nn.Module, tmp_path: Path) -> str:
    torch.save(network.state_dict(), tmp_path / "trained.pt")
    return str(tmp_path / "trained.pt")


def opened(config: SearchConfig) -> tuple[JobContext, ImageData]:
    return open_context(config, Console(quiet=True))  # type: ignore[return-value]


def config_of(folder: Path, weights: str, *criteria: str, **changes: object) -> SearchConfig:
    """A small search that starts from weights; without sparse training by default."""
    settings: dict[str, object] = {"training": UNTRAINED, "budget": ("flops=90%",), "trials": 1}
    settings |= {"ladder": (1.0,), "profiles": 1, "weights": weights}
    return small_config(folder, criterion=criteria or ("magnitude-l1",), **(settings | changes))


def proposal(criterion: str, target_flops: int = 2_100_000) -> Proposal:
    return Proposal(criterion, "filter", {}, target_flops)


# ---- what they are worth


def test_the_preflight_tells_the_score_of_the_base(
    tmp_path: Path, weights: str, network: nn.Module
):
    context, data = opened(config_of(tmp_path, weights))
    expected = context.score(network, "validation", data)
    assert expected > 0.75
    assert context.preflight.base_score == expected
    (line,) = [line for line in context.preflight.describe() if line.startswith("weights")]
    assert line == (
        f"weights       {weights}: accuracy {ACCURACY.text(expected)} on the validation data"
    )


def test_the_preflight_tells_what_sigmoid_batchnorm_costs(tmp_path: Path, weights: str):
    context, _ = opened(config_of(tmp_path, weights, "taylor", "rni", "slimming"))
    _, cost, note = context.preflight.weights
    assert context.preflight.base_score is not None
    assert cost.startswith(
        "rni begins with σBN in the place of batch normalisation, whose offsets it lacks: "
        f"accuracy {ACCURACY.text(context.preflight.base_score)} → "
    )
    assert float(cost.rpartition("→ ")[2].rstrip("%")) / 100 > context.preflight.base_score - 0.2
    assert note == (
        "without sparse training (epochs 0) rni, slimming prunes straight away, by its criterion: "
        "its penalty has no effect"
    )


def test_a_score_that_is_no_number_is_refused(
    tmp_path: Path, weights: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(JobContext, "score", lambda *_: float("nan"))
    with pytest.raises(
        WeightsError, match=r"the accuracy of digits-vgg with the weights .* is NaN"
    ):
        opened(config_of(tmp_path, weights))


def test_a_new_head_is_told(tmp_path: Path):
    torch.save(digits_vgg(37).state_dict(), tmp_path / "other.pt")
    config = config_of(tmp_path, str(tmp_path / "other.pt"), training=TrainingConfig(1, 1))
    context, _ = opened(config)
    assert context.preflight.weights[1] == (
        "a new head (classifier.weight, classifier.bias) of 10 classes in the place of theirs; the "
        "base network is trained with it"
    )
    assert not context.is_base_trained
    with pytest.raises(ConfigError, match=r"epochs must be at least 1, got 0: the weights .* head"):
        opened(dataclasses.replace(config, training=UNTRAINED))


def test_weights_of_another_network_end_the_search_before_it_begins(tmp_path: Path):
    torch.save(digits_resnet().state_dict(), tmp_path / "other.pt")
    config = config_of(tmp_path, str(tmp_path / "other.pt"))
    with pytest.raises(WeightsError, match="are of another network: 30 missing: features"):
        search.run(config)
    assert not config.directory.exists()


# ---- settings


def test_no_training_takes_weights_and_no_gates():
    with pytest.raises(ConfigError, match="epochs must be at least 1, got 0: only a network with"):
        SearchConfig(training=TrainingConfig(0))
    SearchConfig(weights="some.pt", training=TrainingConfig(0))
    for change in (
        {"criterion": ("scaling-factors",)},
        {"granularity": ("filter", "filter+block")},
    ):
        name = str(next(iter(change.values()))[-1]).replace("+", r"\+")
        with pytest.raises(ConfigError, match=f"at least 1 for {name}, whose gates sparse"):
            SearchConfig(weights="some.pt", training=TrainingConfig(0), **change)
    with pytest.raises(ConfigError, match="weights_digest has no effect without weights"):
        SearchConfig(weights_digest="12")


# ---- trials


@pytest.mark.parametrize("criterion", ["magnitude-l1", "taylor", "slimming", "rni", "snip"])
def test_without_training_a_trial_prunes_the_given_network(
    tmp_path: Path, weights: str, network: nn.Module, criterion: str
):
    context, data = opened(config_of(tmp_path, weights, criterion))
    records: list[EpochRecord] = []
    outcome, *_ = run_trial(TrialJob(0, proposal(criterion)), context, data, records.extend)
    assert {record.stage for record in records} == {"fine-tuning"}
    assert outcome.images == 192
    assert outcome.compute == 192 * outcome.flops
    before = outcome.details.get("score_before_pruning")
    base = context.score(network, "validation", data)
    if criterion == "snip":
        assert before is None
    elif criterion == "rni":  # in other terms, and without offsets
        assert before == pytest.approx(base, abs=0.2)
    else:
        assert before == base
    assert outcome.validation_score > 0.5  # after one epoch
    stored = copycat.load(context.directory / outcome.path)
    assert not any(isinstance(layer, SigmoidBatchNorm) for layer in stored.modules())


def test_sparse_training_begins_with_the_weights(
    tmp_path: Path, weights: str, network: nn.Module, monkeypatch: pytest.MonkeyPatch
):
    class HaltError(Exception):
        pass

    def halt(model: nn.Module, *_: object, **__: object) -> None:
        for name, tensor in network.state_dict().items():
            assert torch.equal(model.state_dict()[name], tensor)
        raise HaltError

    context, data = opened(config_of(tmp_path, weights, training=TrainingConfig(1, 1)))
    monkeypatch.setattr("search.trials.trial_training.trainer_for", halt)
    with pytest.raises(HaltError):
        run_trial(TrialJob(3, proposal("magnitude-l1")), context, data, lambda _: None)


def test_weights_travel_with_the_context(tmp_path: Path, weights: str, network: nn.Module):
    """A worker elsewhere need not see the file."""
    context, _ = opened(config_of(tmp_path, weights))
    Path(weights).unlink()
    sent = pickle.loads(pickle.dumps(context.sent()))
    assert torch.equal(next(sent.first_network(5).parameters()), next(network.parameters()))


def test_members_of_families_stay_from_scratch(tmp_path: Path, weights: str):
    context, data = opened(config_of(tmp_path, weights))
    full = from_scratch_job(widths={})
    without = dataclasses.replace(context, weights=None)
    outcomes = []
    for number, here in enumerate((context, without)):
        config = dataclasses.replace(context.config, runs=str(tmp_path / str(number)))
        outcomes.append(perform(full, dataclasses.replace(here, config=config), data, list))
    (one,), (other,) = outcomes
    assert one == other


# ---- searches


def test_a_search_without_training_from_its_base_to_its_front(
    tmp_path: Path, weights: str, network: nn.Module, workers: Workers, memory: MemoryRecorder
):
    config = config_of(tmp_path, weights, "taylor", "rni", trials=2)
    results = search.run(config).results
    base = results.base_network
    assert base is not None
    assert (base.origin, base.images, base.compute) == ("base", 0, 0)
    stored = copycat.load(config.directory / base.path).state_dict()
    for name, tensor in network.state_dict().items():
        assert torch.equal(stored[name], tensor)
    assert workers.performed[0] == "base"
    assert "base" not in [o.origin for o in (*results.everything, *results.front)]
    assert results.networks == [base, *results.everything]
    assert open_results(config.directory) == results
    assert memory.read("architecture/base").status == "finished"
    assert memory.read("search").params["weights"] == weights
    assert copycat.read(config.directory / base.path).provenance["weights"] == weights


def test_the_base_learns_with_a_new_head(tmp_path: Path, workers: Workers):
    torch.save(digits_vgg(37).state_dict(), tmp_path / "other.pt")
    training = TrainingConfig(1, 1, 2, batch_size=32)
    config = config_of(tmp_path, str(tmp_path / "other.pt"), training=training)
    base = search.run(config).results.base_network
    assert base is not None
    assert base.images == 2 * 192


def test_changed_weights_are_refused_on_resume(
    tmp_path: Path, weights: str, network: nn.Module, workers: Workers
):
    config = config_of(tmp_path, weights)
    first = search.run(config)
    digest = json.loads((config.directory / CONFIG_FILE).read_text())["weights_digest"]
    assert len(digest) == 64
    workers.performed = []
    assert search.run(config).results == first.results
    assert workers.performed == []
    state = {**network.state_dict()}
    state["classifier.bias"] = state["classifier.bias"] + 1
    torch.save(state, weights)
    for again in (config, stored_config("small", config.runs, {}, ())):
        with pytest.raises(ConfigError, match="no longer those that this search began with") as one:
            search.run(again)
        assert digest[:12] in str(one.value)
    with pytest.raises(SearchStateError, match="differs in weights "):
        search.run(dataclasses.replace(config, weights=f"{weights}.other"))


def test_a_stopped_base_goes_on(tmp_path: Path, workers: Workers):
    """From its last epoch, to the same end."""
    config = quick_config(tmp_path, training=TrainingConfig(1, 1, 3, batch_size=32))
    whole = search.run(dataclasses.replace(config, runs=str(tmp_path / "whole"))).results
    seen: list[int] = []

    def stopping(job: Job, context: JobContext, data: ImageData, report: Report):
        def counted(records: Sequence[EpochRecord]) -> None:
            report(records)
            if job.key == "base":
                seen.append(len(records))
                if len(seen) == 2:
                    raise KeyboardInterrupt

        return perform(job, context, data, counted)

    workers.perform = stopping
    with pytest.raises(KeyboardInterrupt):
        search.run(config)
    assert search.run(config).results.base_network == whole.base_network
    assert seen == [1, 1, 2, 0, 0, 1]  # what was not stored is done again


@pytest.mark.parametrize("is_first", [False, True])
def test_the_base_is_there_before_anybody_imitates_it(
    tmp_path: Path, workers: Workers, monkeypatch: pytest.MonkeyPatch, is_first: bool
):
    """Otherwise it is handed out with the trials."""
    monkeypatch.setattr(JobContext, "imitates_base", is_first)
    first: list[str] = []

    def two_at_once(source, context, data, observer, perform_job) -> None:
        under_way = [job for job in (source.next(), source.next()) if job is not None]
        first.extend(job.key for job in under_way)
        while under_way:
            job = under_way.pop(0)
            observer.started(job)
            found = perform_job(job, context, data, lambda _: None)
            source.finished(job, found)
            observer.finished(job, found)
            under_way += [job for job in (source.next(),) if job is not None]

    monkeypatch.setattr("samples.run_in_process", two_at_once)
    search.run(quick_config(tmp_path))
    assert first == (["base"] if is_first else ["base", "fine-tuned-0"])
    assert workers.performed[0] == "base"


def test_without_a_base_to_imitate_a_search_fails(
    tmp_path: Path, workers: Workers, monkeypatch: pytest.MonkeyPatch
):
    def failing(job: Job, *rest: object):
        raise TrainingDivergedError(f"{job.key} had no luck")

    monkeypatch.setattr(JobContext, "imitates_base", True)
    workers.perform = failing
    with pytest.raises(SearchFailedError, match="no base network to learn from: base had no luck"):
        search.run(quick_config(tmp_path))
    assert workers.performed == []


def test_a_base_that_fails_does_not_end_a_search(tmp_path: Path, workers: Workers):
    def failing(job: Job, *rest: object):
        if job.key == "base":
            raise TrainingDivergedError("it had no luck")
        return perform(job, *rest)

    workers.perform = failing
    results = search.run(quick_config(tmp_path)).results
    assert results.base_network is None
    assert results.failures == {"base": "it had no luck"}
    assert results.front
