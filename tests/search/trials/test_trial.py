"""Trials and members in this process: what is stored, what repeats, and what is never looked at."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from samples import NUM_IMAGES, from_scratch_job, small_config, trial_job
from torch import Tensor, nn

import copycat
from pruning import SigmoidBatchNorm2d, measure_cost
from pruning.errors import TrainingDivergedError
from search import models
from search.config.training_config import TrainingConfig
from search.data.datasets import ImageData
from search.data.image_sources import ImageSource
from search.tasks.classification import Classification
from search.trials.from_scratch import train_from_scratch
from search.trials.job_context import JobContext
from search.trials.jobs import EpochRecord, FromScratchJob, Job, Outcome, TrialJob
from search.trials.preflight import Preflight, check
from search.trials.search_space import Proposal
from search.trials.trial import perform, run_trial

CPU = torch.device("cpu")


def performed(
    job: Job, context: JobContext, data: ImageData
) -> tuple[Outcome, list[EpochRecord], nn.Module]:
    """A job's own outcome, what it reported, and the network that it stored."""
    records: list[EpochRecord] = []
    outcome, *_ = perform(job, context, data, records.extend)
    context.checkpoints(job.key).clear()  # another call does it again
    return outcome, records, copycat.load(context.config.directory / outcome.path)


def timeless(records: Sequence[EpochRecord]) -> list[EpochRecord]:
    """Without when the epochs ended."""
    return [dataclasses.replace(record, time_ms=0) for record in records]


def elsewhere(context: JobContext, folder: str, **changes: object) -> JobContext:
    """The same search in another folder, and with other settings."""
    runs = str(context.config.directory.parent / folder)
    config = dataclasses.replace(context.config, runs=runs, **changes)
    return dataclasses.replace(context, config=config)


def uniform(preflight: Preflight, width: int = 6) -> FromScratchJob:
    return from_scratch_job(widths=dict.fromkeys(preflight.groups, width))


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, preflight: Preflight, digits: ImageData
) -> tuple[JobContext, Outcome, list[EpochRecord], nn.Module]:
    """One trial of two epochs sparse and one epoch of fine-tuning each of its two networks."""
    config = small_config(
        tmp_path_factory.mktemp("trained"), training=TrainingConfig(2, 1, 1, batch_size=32)
    )
    context = JobContext(config, preflight, "cpu")
    return (context, *performed(trial_job(3), context, digits))


def test_a_trial_meets_its_target_by_fvcores_count(trained, digits: ImageData):
    _, outcome, _, network = trained
    cost = measure_cost(network, torch.zeros(1, *digits.train.image_shape))
    assert (cost.flops, cost.params) == (outcome.flops, outcome.params)
    assert 0.9 * 200_000 < outcome.flops <= 200_000


def test_a_trial_stores_stock_layers_only(trained):
    *_, network = trained
    kinds = {type(module).__module__ for module in network.modules() if module is not network}
    assert all(kind.startswith("torch.nn.") for kind in kinds), kinds
    assert not any(isinstance(module, SigmoidBatchNorm2d) for module in network.modules())


def test_accuracies_are_those_of_the_stored_network(trained, digits: ImageData):
    context, outcome, _, network = trained
    scores = [
        Classification().evaluate(network, digits.loader(part, device=CPU))
        for part in ("validation", "test")
    ]
    assert [outcome.validation_score, outcome.test_score] == scores
    record = copycat.read(context.config.directory / outcome.path).provenance
    assert record["validation_score"] == outcome.validation_score
    assert record["test_score"] == outcome.test_score
    assert (record["search"], record["data"], record["origin"]) == ("small", "digits", "fine-tuned")
    assert (record["trial"], record["rung"], record["alpha"], record["seed"]) == (3, None, 1.0, 0)
    assert (tuple(record["mean"]), tuple(record["std"])) == (digits.mean, digits.std)


def test_accuracy_is_told_before_and_after_pruning(trained):
    context, outcome, records, _ = trained
    details = dict(outcome.details)
    assert set(details) == {"score_before_pruning", "score_after_pruning", "sparsity"}
    assert details["score_before_pruning"] == records[1].validation_score
    assert outcome.validation_score == records[2].validation_score
    assert details["sparsity"] == records[1].sparsity
    stored = copycat.read(context.config.directory / outcome.path).provenance
    assert stored["details"] == details


def test_every_epoch_is_reported_with_its_stage(trained):
    records = trained[2]
    assert [(r.stage, r.step, r.num_steps) for r in records] == [
        ("sparse training", 1, 4),
        ("sparse training", 2, 4),
        ("fine-tuning", 3, 4),
        ("fine-tuning", 4, 4),
    ]
    assert [r.sparsity is None for r in records] == [False, False, True, True]
    assert [r.learning_rate for r in records] == [0.1, pytest.approx(0.01), 0.1, 0.1]
    assert [r.images for r in records] == [192, 384, 576, 768]


EVERYTHING = {
    **{"optimizer": "adamw", "learning_rate": 0.01, "schedule": "one-cycle", "clip_norm": 1.0},
    **{"ema_decay": 0.9, "label_smoothing": 0.1, "mixup": 0.2, "cutmix": 1.0},
    **{"crop": "resized", "augment": "randaugment"},
}


@pytest.mark.parametrize("criterion", ["rni", "slimming", "scaling-factors"])
def test_a_trial_by_another_recipe_measures_and_stores_the_same_network(
    tmp_path: Path, preflight: Preflight, digits: ImageData, criterion: str
):
    """What is stored is the average of the weights, on which the last epoch was measured."""
    training = TrainingConfig(2, 2, 1, batch_size=32, **EVERYTHING)
    config = small_config(tmp_path, criterion=(criterion,), training=training)
    context = JobContext(config, preflight, "cpu")
    settings = {f"{criterion}.{name}": 0.01 for name in ("strength", "shift")}
    job = TrialJob(0, Proposal(criterion, "filter", settings, 200_000))
    outcome, records, network = performed(job, context, digits)
    assert outcome.flops <= 200_000
    assert records[3].validation_score == outcome.validation_score
    again, _, other = performed(job, context, digits)
    assert again == outcome
    assert all(map(torch.equal, network.state_dict().values(), other.state_dict().values()))


def test_every_stage_has_its_own_course_of_the_learning_rate(
    tmp_path: Path, preflight: Preflight, digits: ImageData
):
    """Of 240 images, 192 are trained on: 6 steps an epoch."""
    training = TrainingConfig(
        4,
        2,
        3,
        batch_size=32,
        learning_rate=0.08,
        schedule="constant",
        warmup_epochs=1,
        fine_tune_schedule="step",
        fine_tune_learning_rate=0.01,
        fine_tune_warmup_epochs=0,
        drop_at=(0.5,),
        drop_by=4.0,
        scratch_learning_rate=0.02,
    )
    context = JobContext(small_config(tmp_path, training=training), preflight, "cpu")
    _, records, _ = performed(trial_job(), context, digits)
    assert [r.learning_rate for r in records[:6]] == pytest.approx([0.08] * 4 + [0.01, 0.0025])
    _, records, _ = performed(uniform(preflight), context, digits)
    assert [r.learning_rate for r in records] == pytest.approx([0.02] * 3)


def test_fine_tuning_can_have_a_learning_rate_of_its_own(
    tmp_path, preflight: Preflight, digits: ImageData
):
    training = TrainingConfig(
        2, 3, 1, batch_size=32, fine_tune_learning_rate=0.004, fine_tune_schedule="constant"
    )
    config = small_config(tmp_path, training=training)
    records: list[EpochRecord] = []
    run_trial(trial_job(), JobContext(config, preflight, "cpu"), digits, records.extend)
    rates = [record.learning_rate for record in records]
    assert rates == [0.1, pytest.approx(0.01), *[0.004] * 6]


def test_the_outcome_says_where_it_belongs(trained):
    context, outcome, *_ = trained
    assert (outcome.key, outcome.trial, outcome.origin) == ("fine-tuned-3", 3, "fine-tuned")
    assert outcome.path == "architectures/fine-tuned-3"
    stored = copycat.read(context.config.directory / outcome.path)
    assert outcome.profile == stored.profile.digest
    assert set(stored.profile.widths) == set(context.preflight.groups)
    assert min(stored.profile.widths.values()) >= context.config.min_channels


def test_the_budget_holds_beside_the_target(tmp_path, preflight: Preflight, digits: ImageData):
    config = small_config(tmp_path, budget=("flops=10%", "params=3k"))
    tight = check(config, preflight.builder, preflight.sample)
    found = run_trial(trial_job(), JobContext(config, tight, "cpu"), digits, _ignored)
    for product, flops in zip(found, (200_000, 100_000), strict=True):
        assert product.flops <= flops
        assert product.params <= 3000


def test_without_a_budget_on_flops_the_target_holds_all_the_same(
    tmp_path, preflight: Preflight, digits: ImageData
):
    config = small_config(tmp_path, budget=("params=90%",))
    loose = check(config, preflight.builder, preflight.sample)
    job = trial_job(target_flops=90_000)
    found, *_ = run_trial(job, JobContext(config, loose, "cpu"), digits, _ignored)
    assert 0.9 * 90_000 < found.flops <= 90_000


def test_a_stronger_penalty_makes_more_channels_recede(context: JobContext, digits: ImageData):
    """Pushes of 10 and 1,000, the two ends of the range."""
    settings = TrainingConfig(3, 1, 1, batch_size=16)
    sparsities = []
    for strength in (0.01, 1.0):
        job = trial_job(0, 200_000, strength, shift=0.0)
        found, *_ = run_trial(
            job, elsewhere(context, f"at-{strength}", training=settings), digits, _ignored
        )
        sparsities.append(found.details["sparsity"])
    weak, strong = sparsities
    assert weak < 0.3
    assert strong > 0.7


def test_a_member_has_its_widths_and_cost(context: JobContext, digits: ImageData):
    job = uniform(context.preflight)
    outcome, records, network = performed(job, context, digits)
    cost = context.preflight.graph.cost(job.widths)
    assert (outcome.flops, outcome.params) == (cost.flops, cost.params)
    assert measure_cost(network, context.preflight.example_input) == cost
    assert dict(copycat.read(context.config.directory / outcome.path).profile.widths) == (
        job.widths
    )
    assert (outcome.key, outcome.origin, outcome.rung, outcome.alpha) == (
        "uniform-b100",
        "uniform",
        1.0,
        0.5,
    )
    assert [(r.stage, r.step, r.num_steps) for r in records] == [("from scratch", 1, 1)]
    assert outcome.validation_score == records[-1].validation_score


def test_a_member_at_equal_compute_trains_longer(context: JobContext, digits: ImageData):
    job = uniform(context.preflight)
    training = TrainingConfig(1, 1, 2, batch_size=32, equal_compute=True, compute_limit=3)
    longer = elsewhere(context, "longer", training=training)
    outcome, records, _ = performed(job, longer, digits)
    assert [(r.step, r.num_steps) for r in records] == [(n, 6) for n in range(1, 7)]
    assert [r.learning_rate for r in records] == pytest.approx([0.1] * 3 + [0.01] * 2 + [0.001])
    stored = copycat.read(longer.config.directory / outcome.path)
    assert stored.provenance["epochs"] == 6


def test_a_member_can_have_a_seed_of_its_own(context: JobContext, digits: ImageData):
    """The seed of a trial, given by name, ends in equal weights; another one does not."""
    job = dataclasses.replace(uniform(context.preflight), trial=3)
    weights = {}
    for seed in (None, 6, 7):
        own = dataclasses.replace(job, key=f"seed-{seed}", seed=seed)
        outcome, _, network = performed(own, context, digits)
        weights[seed] = next(network.parameters())
        stored = copycat.read(context.config.directory / outcome.path).provenance
        assert stored["seed"] == (seed or 0)
    assert torch.equal(weights[None], weights[6])
    assert not torch.equal(weights[7], weights[6])


@pytest.mark.parametrize("kind", ["trial", "member"])
def test_equal_seeds_end_in_equal_weights(context: JobContext, digits: ImageData, kind: str):
    job: Job = trial_job() if kind == "trial" else uniform(context.preflight)
    torch.manual_seed(1)
    first = performed(job, elsewhere(context, "one"), digits)
    torch.manual_seed(2)
    second = performed(job, elsewhere(context, "two"), digits)
    other = performed(job, elsewhere(context, "three", seed=1), digits)
    assert (first[0], timeless(first[1])) == (second[0], timeless(second[1]))
    assert first[0] != other[0]
    assert timeless(first[1]) != timeless(other[1])
    for one, two in zip(
        first[2].state_dict().values(), second[2].state_dict().values(), strict=True
    ):
        assert torch.equal(one, two)


def test_trials_have_seeds_of_their_own(context: JobContext, digits: ImageData):
    first, second = (performed(trial_job(number), context, digits)[2] for number in (0, 1))
    assert not torch.equal(next(first.parameters()).mean(), next(second.parameters()).mean())


@pytest.mark.parametrize("kind", ["trial", "member"])
def test_the_global_generator_neither_matters_nor_moves(
    tmp_path, preflight: Preflight, digits: ImageData, kind: str
):
    """Not even for a bare parameter, which no layer draws again."""
    config = small_config(tmp_path, model="samples:with_bare_parameter", budget=("flops=50%",))
    builder = models.resolve(config.model, num_classes=10, in_channels=1)
    own = check(config, builder, digits.sample)
    job = trial_job(target_flops=own.flops_limit) if kind == "trial" else uniform(own)
    weights = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        context = elsewhere(JobContext(config, own, "cpu"), f"at-{seed}")
        outcome, *_ = perform(job, context, digits, _ignored)
        assert torch.equal(torch.get_rng_state(), before)
        stored = context.config.directory / outcome.path
        weights.append(copycat.load(stored, trust=["samples"]).bare)
    assert torch.equal(*weights)


@pytest.mark.parametrize("kind", ["trial", "member"])
def test_divergence_is_raised_and_nothing_is_stored(
    context: JobContext, digits: ImageData, kind: str
):
    job: Job = trial_job() if kind == "trial" else uniform(context.preflight)
    wild = TrainingConfig(1, 1, 1, batch_size=32, learning_rate=1e30)
    diverging = elsewhere(context, "wild", training=wild)
    with pytest.raises(TrainingDivergedError, match="training diverged in epoch 1 of 1"):
        perform(job, diverging, digits, _ignored)
    files = [file.name for file in diverging.directory.rglob("*") if file.is_file()]
    assert sorted(files) == ["attempts.json", "lock"]


class Watched(ImageSource):
    """Images that remember what was reported by the time they were read."""

    def __init__(self, source: ImageSource, reported: list[EpochRecord]) -> None:
        self.source, self.reported = source, reported
        self.labels = source.labels
        self.read_after: list[int] = []

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.source.image_shape

    @property
    def num_bytes(self) -> int:
        return self.source.num_bytes

    def take(self, indices: Tensor) -> ImageSource:
        raise AssertionError("nobody splits the test images")

    def to(self, device: torch.device) -> ImageSource:
        return self

    def read(self, order: Tensor, batch_size: int) -> Iterator[Tensor]:
        self.read_after.append(len(self.reported))
        return self.source.read(order, batch_size)


@pytest.mark.parametrize("kind", ["trial", "member"])
def test_test_images_are_read_once_after_the_last_epoch_of_each_network(
    context: JobContext, digits: ImageData, kind: str
):
    job: Job = trial_job() if kind == "trial" else uniform(context.preflight)
    records: list[EpochRecord] = []
    watched = Watched(digits.test, records)
    perform(job, context, dataclasses.replace(digits, test=watched), records.extend)
    assert watched.read_after == ([2, 3] if kind == "trial" else [1])
    assert len(records) == records[-1].num_steps == watched.read_after[-1]


@pytest.mark.parametrize("kind", ["trial", "member"])
def test_wrong_test_labels_change_nothing_but_the_test_accuracy(
    context: JobContext, digits: ImageData, kind: str
):
    job: Job = trial_job() if kind == "trial" else uniform(context.preflight, width=20)
    labels = (digits.test.labels + 1) % 10
    poisoned = dataclasses.replace(digits, test=dataclasses.replace(digits.test, labels=labels))
    longer = TrainingConfig(4, 4, 4, batch_size=16)
    honest = performed(job, elsewhere(context, "honest", training=longer), digits)
    fooled = performed(job, elsewhere(context, "fooled", training=longer), poisoned)
    assert honest[0].test_score > 0.2 + fooled[0].test_score
    accuracy = honest[0].test_score
    assert dataclasses.replace(fooled[0], test_score=accuracy) == honest[0]
    assert timeless(fooled[1]) == timeless(honest[1])


def test_a_pair_shares_its_shape_and_its_seed(context: JobContext, digits: ImageData):
    tuned, *_ = run_trial(trial_job(2), context, digits, _ignored)
    profile = copycat.read(context.config.directory / tuned.path).profile
    job = FromScratchJob.of(profile, "from-scratch-2", "from-scratch", trial=2)
    scratch = train_from_scratch(job, context, digits, _ignored)
    assert (scratch.profile, scratch.flops, scratch.params) == (
        tuned.profile,
        tuned.flops,
        tuned.params,
    )
    other = dataclasses.replace(job, key="from-scratch-3", trial=3)
    train_from_scratch(other, context, digits, _ignored)
    networks = [
        copycat.load(context.config.directory / "architectures" / key)
        for key in ("from-scratch-2", "from-scratch-3")
    ]
    assert not torch.equal(*(next(network.parameters()) for network in networks))


def test_residual_networks_are_pruned_inside_their_blocks(tmp_path, digits: ImageData):
    config = small_config(tmp_path, model="digits-resnet", budget=("flops=40%",))
    builder = models.resolve(config.model, num_classes=10, in_channels=1)
    preflight = check(config, builder, digits.sample)
    job = trial_job(target_flops=preflight.flops_limit)
    outcome, _, network = performed(job, JobContext(config, preflight, "cpu"), digits)
    cost = measure_cost(network, preflight.example_input)
    assert cost.flops == outcome.flops <= 0.4 * preflight.base.flops


def test_the_small_data_are_what_these_tests_say(digits: ImageData):
    assert len(digits.train) + len(digits.validation) == NUM_IMAGES


def _ignored(records: Sequence[EpochRecord]) -> None:
    """Nobody listens."""
