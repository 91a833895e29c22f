"""Trials of the schedule iterative: what they come to, cost, store and refuse."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from samples import NUM_IMAGES, small_config

import copycat
from pruning import measure_cost
from pruning.errors import ArchitectureError, ConfigError, UnreachableBudgetError
from search import models
from search.config.iterative_config import IterativeConfig
from search.config.methods import METHODS
from search.config.resources_config import ResourcesConfig
from search.config.study_config import StudyConfig
from search.config.training_config import TrainingConfig
from search.data.datasets import ImageData
from search.storage.layout import SCORES_FILE
from search.tasks.classification import Classification
from search.trials import iterative_training
from search.trials.artifacts import stored_curve
from search.trials.iterative_training import PruningSteps, check_iterative
from search.trials.job_context import JobContext
from search.trials.jobs import EpochRecord, Outcome, TrialJob
from search.trials.preflight import Preflight, check
from search.trials.search_space import Proposal
from search.trials.trajectory import stored_profile
from search.trials.trial import run_trial

STEPS = 6
"""In an epoch of 192 images of 240, 32 at a time."""

TRAINING = TrainingConfig(1, 3, 1, batch_size=32)


def context_of(folder: Path, digits: ImageData, **changes: Any) -> JobContext:
    settings: dict[str, Any] = {
        "model": "samples:small_network",
        "budget": ("flops=60%",),
        "criterion": ("taylor",),
        "schedule": ("iterative",),
        "training": TRAINING,
        "iterative": IterativeConfig(epochs=2, units=1, minibatches=1),
        "scoring_batches": 2,
        "ladder": (1.0,),
    }
    config = small_config(folder, **(settings | changes))
    builder = models.resolve(config.model, num_classes=10, in_channels=1)
    return JobContext(config, check(config, builder, digits.sample), "cpu")


def job_of(context: JobContext, share: float = 1.0) -> TrialJob:
    name = context.config.criteria[0]
    target = int(context.preflight.flops_limit * share)
    settings = dict.fromkeys((f"{name}.{s}" for s in METHODS[name].settings), 1e-3)
    return TrialJob(
        0, Proposal(name, context.config.granularities[0], settings, target, "iterative")
    )


def run(context: JobContext, digits: ImageData) -> tuple[tuple[Outcome, ...], list[EpochRecord]]:
    records: list[EpochRecord] = []
    return run_trial(job_of(context), context, digits, records.extend), records


def rows_of(context: JobContext, outcome: Outcome) -> list[dict[str, Any]]:
    return json.loads((context.directory / outcome.path / "trajectory.json").read_text())


# ---- what comes of a trial


@pytest.fixture(scope="module")
def done(
    tmp_path_factory: pytest.TempPathFactory, digits: ImageData
) -> tuple[JobContext, tuple[Outcome, ...], list[EpochRecord]]:
    context = context_of(tmp_path_factory.mktemp("iterative"), digits)
    return (context, *run(context, digits))


def test_each_target_has_the_first_network_within_it(done: Any):
    context, outcomes, _ = done
    own, half = outcomes
    target = context.preflight.flops_limit
    for outcome, limit in ((own, target), (half, target // 2)):
        flops = [row["flops"] for row in rows_of(context, outcome)]
        assert flops == sorted(flops, reverse=True)
        assert flops[-1] == outcome.flops <= limit
        assert all(before > limit for before in flops[:-1])
        network = copycat.load(context.directory / outcome.path, trust=("samples",))
        cost = measure_cost(network, context.preflight.example_input)
        assert (cost.flops, cost.params) == (outcome.flops, outcome.params)
    assert rows_of(context, half)[: len(rows_of(context, own))] == rows_of(context, own)


def test_every_removal_is_a_point_with_shape_and_cost(done: Any):
    context, (_, half), _ = done
    rows = rows_of(context, half)
    graph = context.preflight.graph
    for number, row in enumerate(rows, start=1):
        cost = graph.cost(row["widths"])
        assert (row["step"], row["minibatches"], row["channels_removed"]) == (number,) * 3
        assert (row["flops"], row["params"]) == (cost.flops, cost.params)
        assert set(row["widths"]) == set(context.preflight.groups)


def test_pruning_takes_its_epochs_from_fine_tuning(done: Any):
    """Each network has as many epochs as one that is pruned at once."""
    context, outcomes, records = done
    stages = [record.stage for record in records]
    num_pruning = stages.count("iterative pruning")
    assert stages[: 1 + num_pruning] == ["sparse training"] + ["iterative pruning"] * num_pruning
    assert set(stages[1 + num_pruning :]) == {"fine-tuning"}
    assert [record.step for record in records] == list(range(1, len(records) + 1))
    assert records[-1].num_steps == len(records)
    assert records[0].num_steps == 1 + 2 * 3  # as far as was known
    for outcome in outcomes:
        curve = stored_curve(context.directory / outcome.path)
        assert len(curve) == 1 + 3
        assert curve[-1].validation_score == outcome.validation_score
        steps_taken = rows_of(context, outcome)[-1]["step"]
        epochs = -(-steps_taken // STEPS)
        assert [r.stage for r in curve].count("iterative pruning") == epochs


def test_the_learning_rate_of_pruning_is_its_own(tmp_path: Path, digits: ImageData, done: Any):
    """By default a tenth of that of training, in every step."""
    rates = [r.learning_rate for r in done[2] if r.stage == "iterative pruning"]
    assert rates == [pytest.approx(0.01)] * len(rates)
    iterative = IterativeConfig(epochs=1, units=10, minibatches=1, learning_rate=0.003)
    _, records = run(context_of(tmp_path, digits, iterative=iterative), digits)
    assert [r.learning_rate for r in records if r.stage == "iterative pruning"] == [0.003]


def test_compute_follows_the_network_as_it_shrinks(done: Any):
    """Images × FLOPs of what they went through; after the last removal until the epoch's end."""
    context, outcomes, _ = done
    base, num_train = context.preflight.base.flops, NUM_IMAGES * 4 // 5
    last = len(rows_of(context, outcomes[-1]))
    for outcome in outcomes:
        rows = rows_of(context, outcome)
        widths = [base, *(row["flops"] for row in rows)]
        shrinking = 32 * sum(widths[: len(rows)])
        epochs = -(-len(rows) // STEPS)
        rest = 32 * (epochs * STEPS - len(rows)) if len(rows) == last else 0
        tuned = (3 - epochs) * num_train
        assert outcome.images == num_train + 32 * len(rows) + rest + tuned
        assert outcome.compute == num_train * base + shrinking + (rest + tuned) * outcome.flops


def test_the_scores_of_all_channels_are_stored_also_of_those_that_went(done: Any):
    context, outcomes, _ = done
    for outcome in outcomes:
        folder = context.directory / outcome.path
        stored = json.loads((folder / SCORES_FILE).read_text())
        assert stored["criterion"] == "taylor"
        widths = {name: len(values) for name, values in stored["scores"].items()}
        graph = context.preflight.graph
        assert widths == {name: graph.group(name).width for name in context.preflight.groups}
        assert all(0 < value < float("inf") for own in stored["scores"].values() for value in own)


def test_points_have_the_scores_that_were_measured(tmp_path: Path, digits: ImageData, done: Any):
    """By default at the ends of epochs and where a target is reached."""
    context, outcomes, records = done
    pruning = [r.validation_score for r in records if r.stage == "iterative pruning"]
    rows = rows_of(context, outcomes[-1])
    measured = {row["step"]: row["score"] for row in rows if row["score"] is not None}
    reached = {len(rows_of(context, outcome)) for outcome in outcomes}
    ends = set(range(STEPS, len(rows), STEPS))
    assert set(measured) == reached | ends
    for outcome in outcomes:
        score = outcome.details["score_after_pruning"]
        assert measured[len(rows_of(context, outcome))] == score
    for step in ends - reached:
        assert measured[step] == pruning[step // STEPS - 1]
    iterative = dataclasses.replace(context.config.iterative, score_every=2)
    often = context_of(tmp_path, digits, iterative=iterative)
    outcomes, _ = run(often, digits)
    rows = rows_of(often, outcomes[-1])
    assert all(row["score"] is not None for row in rows if row["step"] % 2 == 0)
    assert [row["widths"] for row in rows] == [r["widths"] for r in rows_of(*done[:1], done[1][-1])]


def test_by_default_as_many_channels_go_as_are_surely_enough(tmp_path: Path, digits: ImageData):
    iterative = IterativeConfig(epochs=2, minibatches=2)
    context = context_of(
        tmp_path, digits, iterative=iterative, study=StudyConfig(by_products=3), min_channels=1
    )
    outcomes, records = run(context, digits)
    assert len(outcomes) == 4
    assert sum(r.stage == "iterative pruning" for r in records) <= 2
    steps = PruningSteps(epochs=2, per_epoch=6, minibatches=2, units=None)
    assert (steps.count, steps.units_each(14, 1), steps.units_each(14, 4)) == (6, 3, 5)
    assert PruningSteps(1, 1, 1, None).units_each(14, 9) == 14


def test_pruning_may_take_all_epochs_of_fine_tuning(tmp_path: Path, digits: ImageData):
    """What is stored then is the network at the end of pruning."""
    training = TrainingConfig(1, 1, 1, batch_size=32)
    iterative = IterativeConfig(units=10, minibatches=3)
    study = StudyConfig(by_products=0)
    context = context_of(tmp_path, digits, training=training, iterative=iterative, study=study)
    (outcome,), records = run(context, digits)
    assert [r.stage for r in records] == ["sparse training", "iterative pruning"]
    assert outcome.validation_score == records[-1].validation_score
    assert outcome.images == records[-1].images == 2 * 192


CRITERIA = [name for name, method in METHODS.items() if method.criterion is not None]


@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_criterion_can_go_step_by_step(tmp_path: Path, digits: ImageData, criterion: str):
    iterative = IterativeConfig(units=3, minibatches=3, flops_penalty=1e-9, reset_momentum=True)
    training = TrainingConfig(1, 2, 1, batch_size=32, ema_decay=0.9, warmup_epochs=0)
    context = context_of(
        tmp_path,
        digits,
        criterion=(criterion,),
        training=training,
        iterative=iterative,
        study=StudyConfig(by_products=0),
        scoring_batches=1,
    )
    (outcome,), _ = run(context, digits)
    assert outcome.flops <= context.preflight.flops_limit
    rows = rows_of(context, outcome)
    is_uniform = METHODS[criterion].scope == "uniform"  # then both layers lose two
    assert rows[0]["channels_removed"] <= (4 if is_uniform else 3)
    assert len(rows) == (1 if is_uniform else 2)


def test_structures_with_closed_gates_go_before_channels_do(tmp_path: Path, digits: ImageData):
    """No more of them than the first target needs, which is met so; channels meet the other."""
    context = context_of(
        tmp_path,
        digits,
        model="samples:small_residual",
        granularity=("filter+branch",),
        budget=("flops=60%",),
        min_channels=1,
        iterative=IterativeConfig(epochs=2, minibatches=1),
    )
    job = job_of(context)
    gates = {"branch.strength": 1.0}  # closes all of them, one further than the other
    proposal = dataclasses.replace(job.proposal, settings=gates)
    own, half = run_trial(
        dataclasses.replace(job, proposal=proposal), context, digits, lambda records: None
    )
    assert not (context.directory / own.path / "trajectory.json").exists()
    assert len(stored_curve(context.directory / own.path)) == 1 + 3
    profile = copycat.read(context.directory / half.path).profile
    (branch,) = profile.removed
    assert copycat.read(context.directory / own.path).profile.removed == (branch,)
    assert half.flops <= context.preflight.flops_limit // 2
    rows = rows_of(context, half)
    for row in rows:
        assert row["removed"] == {"branch": [branch.name]}
    point = stored_profile(context.directory / half.path, str(len(rows)), context.preflight.graph)
    assert point == profile


# ---- a point is taken


def test_any_point_can_be_taken_by_number_or_budget(done: Any):
    context, (_, half), _ = done
    folder, graph = context.directory / half.path, context.preflight.graph
    rows = rows_of(context, half)
    for number, row in enumerate(rows, start=1):
        assert stored_profile(folder, str(number), graph).widths == row["widths"]
    share = next(row for row in rows if row["flops"] <= 0.75 * graph.cost().flops)
    assert stored_profile(folder, "flops=75%", graph).widths == share["widths"]


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ("0", "has points 1 to [0-9]+, got @0"),
        ("999", "has points 1 to [0-9]+, got @999"),
        ("flops=1%", r"no point of the trajectory is within flops=[0-9]+: the last has flops="),
        ("weight_bytes=1k", "points of a trajectory are found by flops or params"),
    ],
)
def test_a_point_that_is_not_there_is_told_in_one_line(done: Any, point: str, message: str):
    context, (_, half), _ = done
    with pytest.raises(ConfigError, match=message) as error:
        stored_profile(context.directory / half.path, point, context.preflight.graph)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content", ["[", "[]", "{}", "7", '[{"widths": {"a": 0}}]', '[{"widths": {"a": 3}}]']
)
def test_a_trajectory_that_is_damaged_is_told(tmp_path: Path, preflight: Preflight, content: str):
    with pytest.raises(ArchitectureError, match=r"has no trajectory \(trajectory.json\)"):
        stored_profile(tmp_path, "1", preflight.graph)
    (tmp_path / "trajectory.json").write_text(content)
    with pytest.raises(ArchitectureError, match=r"trajectory\.json cannot be read"):
        stored_profile(tmp_path, "1", preflight.graph)


# ---- what cannot work


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"iterative": IterativeConfig(epochs=2, units=1, minibatches=9)},
            r"iterative pruning cannot reach flops=\S+: at least [0-9] channels have to go, but 1 "
            "of them every 9 minibatches in 2 epochs of 6 minibatches are 1: raise "
            "--iterative-units or --iterative-epochs, or lower --iterative-minibatches",
        ),
        (
            {"iterative": IterativeConfig(epochs=1, minibatches=7)},
            "iterative pruning removes channels every 7 minibatches, but has 1 epochs of 6 "
            "minibatches: lower --iterative-minibatches",
        ),
    ],
)
def test_a_pace_that_is_too_slow_is_refused_before_training(
    tmp_path: Path, digits: ImageData, changes: dict[str, Any], message: str
):
    context = context_of(tmp_path, digits, **changes)
    with pytest.raises(ConfigError, match=message):
        check_iterative(context.config, context.preflight, digits, Classification())
    one_shot = dataclasses.replace(
        context.config, schedule=("one-shot",), iterative=IterativeConfig()
    )
    check_iterative(one_shot, context.preflight, digits, Classification())


class OwnLoop(Classification):
    def train(self, model: object, context: object) -> None:
        raise AssertionError


def test_a_task_with_a_loop_of_its_own_is_refused(tmp_path: Path, digits: ImageData):
    context = context_of(tmp_path, digits)
    with pytest.raises(ConfigError, match="OwnLoop trains in a loop of its own"):
        check_iterative(context.config, context.preflight, digits, OwnLoop())


def test_a_trial_whose_target_is_too_far_is_infeasible_before_it_trains(
    tmp_path: Path, digits: ImageData
):
    context = context_of(tmp_path, digits, iterative=IterativeConfig(1, 1, minibatches=2))
    records: list[EpochRecord] = []
    with pytest.raises(UnreachableBudgetError, match="channels have to go, but 1 of them every"):
        run_trial(job_of(context, 0.4), context, digits, records.extend)
    assert records == []


def test_a_trial_has_the_pace_that_it_proposes(tmp_path: Path, digits: ImageData):
    slow, fast = (
        context_of(
            tmp_path / name,
            digits,
            iterative=IterativeConfig(epochs=2, minibatches=1),
            study=StudyConfig(by_products=0),
            set=("iterative.units=1,4",),
        )
        for name in ("slow", "fast")
    )
    counts = []
    for context, units in ((slow, 1.0), (fast, 4.0)):
        job = job_of(context)
        settings = {**job.proposal.settings, "iterative.units": units}
        job = TrialJob(0, dataclasses.replace(job.proposal, settings=settings))
        (outcome,) = run_trial(job, context, digits, lambda _: None)
        counts.append([row["channels_removed"] for row in rows_of(context, outcome)])
    assert counts[0][:4] == [1, 2, 3, 4]
    assert counts[1][0] == 4
    too_slow = context_of(
        tmp_path, digits, iterative=IterativeConfig(1), set=("iterative.minibatches=1,7",)
    )
    with pytest.raises(ConfigError, match="removes channels every 7 minibatches"):
        check_iterative(too_slow.config, too_slow.preflight, digits, Classification())


def test_a_trial_that_does_not_get_there_says_how_far_it_came(
    tmp_path: Path, digits: ImageData, monkeypatch: pytest.MonkeyPatch
):
    """Which channels go decides; the check before only knows what cannot be."""
    monkeypatch.setattr(iterative_training, "fewest_units", lambda *_: 0)
    context = context_of(tmp_path, digits, iterative=IterativeConfig(1, 1, minibatches=3))
    with pytest.raises(
        UnreachableBudgetError, match="in 1 epochs: 2 channels went, which left flops"
    ):
        run(context, digits)


def test_by_products_that_were_not_reached_are_left_out(
    tmp_path: Path, digits: ImageData, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(iterative_training, "fewest_units", lambda *_: 0)
    context = context_of(
        tmp_path, digits, budget=("flops=90%",), iterative=IterativeConfig(1, 1, minibatches=3)
    )
    (outcome,), records = run(context, digits)
    assert outcome.key == "fine-tuned-0"
    assert records[-1].num_steps == len(records) == 1 + 3


def test_torch_alone_reads_what_is_kept_between_epochs(tmp_path: Path, digits: ImageData):
    """Checkpoints are read without running code, moments and trajectory included."""
    context = context_of(tmp_path, digits, resources=ResourcesConfig(checkpoint_every="0.001s"))

    def stop(records: list[EpochRecord]) -> None:
        if records[-1].step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_trial(job_of(context), context, digits, stop)
    state = context.checkpoints("fine-tuned-0").load()
    assert state is not None
    assert len(state["trainer"]["pruner"]["trajectory"]) == STEPS
    assert isinstance(state["trainer"]["model"]["mask"], torch.Tensor)
