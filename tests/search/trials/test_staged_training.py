"""A job that was stopped, wherever that was, ends as if it had not been."""

from __future__ import annotations

import dataclasses
import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from samples import from_scratch_job, small_config

import copycat
from pruning.errors import DiskFullError, JobGivenUpError
from search import models
from search.config.iterative_config import IterativeConfig
from search.config.resources_config import ResourcesConfig
from search.config.study_config import StudyConfig
from search.config.training_config import TrainingConfig
from search.data.datasets import ImageData
from search.storage.layout import RUNGS_FOLDER
from search.system.background_calls import BackgroundCalls
from search.system.stopwatch import PHASES
from search.training.checkpoints import Checkpoints, copied_off
from search.training.trainer import EpochReport, Trainer
from search.trials import staged_training, trial
from search.trials.artifacts import stored_curve
from search.trials.candidates import candidate_rankings, stored_candidates
from search.trials.job_context import JobContext
from search.trials.jobs import EpochRecord, Job, Outcome, TrialJob
from search.trials.preflight import check
from search.trials.search_space import Proposal
from search.trials.staged_training import StagedTraining
from search.trials.trial import perform

TRAINING = TrainingConfig(3, 2, 3, batch_size=32)
ANOTHER_RECIPE = dataclasses.replace(
    TRAINING,
    **{"optimizer": "adamw", "learning_rate": 0.01, "schedule": "one-cycle", "ema_decay": 0.9},
    **{"clip_norm": 1.0, "mixup": 0.2, "cutmix": 1.0, "augment": "randaugment"},
)
NUM_EPOCHS = {"snip": 5, "member": 3, "longer member": 6, "member by another recipe": 3}
"""Of the jobs below; of the others 3 + 2 + 2."""


@dataclass
class Heard:
    """What came of a job, in one process or in several, and what they reported.

    calls: what each call of the report was given.  again: epochs that were gone through again, as
    the report was told.  trained: epochs that were gone through.
    """

    outcomes: tuple[Outcome, ...] = ()
    calls: list[list[EpochRecord]] = field(default_factory=list)
    processes: int = 0
    again: int = 0
    trained: int = 0

    @property
    def told(self) -> list[EpochRecord]:
        """In order, those that were told again included."""
        return [record for records in self.calls for record in records]


@dataclass(frozen=True)
class Case:
    """A job and how to set up the search that it belongs to."""

    job: Callable[[JobContext], Job]
    network: str = "small_network"
    changes: tuple[tuple[str, object], ...] = ()

    def prepared(self, folder: Path, digits: ImageData, every: str = "0.001s") -> JobContext:
        """every: after how much training states are stored, by default after every epoch."""
        settings = {"resources": ResourcesConfig(checkpoint_every=every)}
        settings |= {"model": f"samples:{self.network}", "budget": ("flops=60%",)}
        settings |= {"training": TRAINING, "scoring_batches": 2, "ladder": (1.0,)}
        config = small_config(folder, **(settings | dict(self.changes)))
        builder = models.resolve(config.model, num_classes=10, in_channels=1)
        preflight = check(config, builder, digits.sample)
        return JobContext(config, preflight, "cpu")


def proposed(
    name: str, parts: str, settings: dict[str, float], schedule: str = "one-shot"
) -> Callable[[JobContext], Job]:
    def job(context: JobContext) -> Job:
        flops = context.preflight.flops_limit
        return TrialJob(3, Proposal(name, parts, settings, flops, schedule))

    return job


def member(equal_compute: bool = False) -> Callable[[JobContext], Job]:
    def job(context: JobContext) -> Job:
        widths = dict.fromkeys(context.preflight.groups, 4)
        return from_scratch_job(widths=widths, equal_compute=equal_compute)

    return job


def residual(name: str, parts: str) -> tuple[tuple[str, object], ...]:
    return (("criterion", (name,)), ("granularity", (parts,)), ("budget", ("flops=95%",)))


BY_ADAMW = {"optimizer": "adamw", "learning_rate": 0.01, "clip_norm": 1.0}

STEP_BY_STEP: tuple[tuple[str, object], ...] = (
    ("criterion", ("taylor",)),
    ("schedule", ("iterative",)),
    ("training", dataclasses.replace(TRAINING, fine_tune_epochs=4)),
    ("iterative", IterativeConfig(epochs=3, minibatches=3, surgery_every=3, score_every=2)),
)
"""Removals after every half epoch, surgery at other times than the ends of epochs."""

GATES = {"scaling-factors.strength": 0.3, "branch.strength": 0.3}

JUDGING = StudyConfig(by_products=0, candidate_epochs=1)
DESCENDING = StudyConfig(tempered_trials=0, descend=True)

CASES = {
    "rni": Case(proposed("rni", "filter", {"rni.strength": 0.1, "rni.shift": 1.0})),
    "rni with candidates": Case(
        proposed("rni", "filter", {"rni.strength": 0.1, "rni.shift": 1.0}),
        changes=(("ladder", (1.0, 0.8)), ("cost_exponent", (0.0, 1.0)), ("study", JUDGING)),
    ),
    "rni descending": Case(
        proposed("rni", "filter", {"rni.strength": 0.1, "rni.shift": 1.0}),
        changes=(("study", DESCENDING),),
    ),
    "taylor descending with gates": Case(
        proposed("taylor", "filter+branch", {"branch.strength": 0.3}),
        "small_residual",
        (*residual("taylor", "filter+branch"), ("study", DESCENDING)),
    ),
    "snip": Case(proposed("snip", "filter", {}), changes=(("criterion", ("snip",)),)),
    "taylor with gates": Case(
        proposed("taylor", "filter+branch", {"branch.strength": 0.3}),
        "small_residual",
        residual("taylor", "filter+branch"),
    ),
    "gates alone": Case(
        proposed("scaling-factors", "filter+branch", GATES),
        "small_residual",
        residual("scaling-factors", "filter+branch"),
    ),
    "member": Case(member()),
    "longer member": Case(member(equal_compute=True)),
    "another recipe": Case(
        proposed("rni", "filter", {"rni.strength": 0.1, "rni.shift": 1.0}),
        changes=(("training", ANOTHER_RECIPE),),
    ),
    "iterative": Case(proposed("taylor", "filter", {}, "iterative"), changes=STEP_BY_STEP),
    "iterative without gradients": Case(
        proposed("magnitude-l2", "filter", {}, "iterative"),
        changes=(*STEP_BY_STEP, ("criterion", ("magnitude-l2",))),
    ),
    "iterative with gates": Case(
        proposed("fisher", "filter+branch", {"branch.strength": 0.3}, "iterative"),
        "small_residual",
        (
            *STEP_BY_STEP,
            *residual("fisher", "filter+branch"),
            ("training", dataclasses.replace(TRAINING, fine_tune_epochs=4, **BY_ADAMW)),
        ),
    ),
    "member by another recipe": Case(member(), changes=(("training", ANOTHER_RECIPE),)),
}


def done(
    job: Job,
    context: JobContext,
    digits: ImageData,
    stops: Callable[[int], bool] = lambda step: False,
) -> Heard:
    """The job performed by as many processes as it takes.

    stops: whether the process ends, when it is about to report this epoch for the first time.
    """
    heard, stopped = Heard(), set()

    def report(records: Sequence[EpochRecord]) -> None:
        if not records:
            heard.again += 1
            return
        heard.calls.append(list(records))
        step = records[-1].step
        if step not in stopped and stops(step):
            stopped.add(step)
            raise KeyboardInterrupt

    while not heard.outcomes:
        heard.processes += 1
        assert heard.processes < 20
        try:
            heard.outcomes = perform(job, context, digits, report)
        except KeyboardInterrupt:
            continue
    return heard


def stored(context: JobContext, heard: Heard) -> dict[str, object]:
    """Everything in the folders of the networks, but for the time."""
    content: dict[str, object] = {}
    for outcome in heard.outcomes:
        folder = context.directory / outcome.path
        for file in sorted(folder.iterdir()):
            content[f"{outcome.key}/{file.name}"] = file.read_bytes()
        curve = stored_curve(context.directory / outcome.path)
        content[f"{outcome.key}/curve.json"] = timeless(curve)
    return content


def timeless(records: Sequence[EpochRecord]) -> list[EpochRecord]:
    return [dataclasses.replace(record, time_ms=0) for record in records]


def new(heard: Heard) -> Iterator[EpochRecord]:
    """Records that had not been told before."""
    steps = 0
    for record in heard.told:
        if record.step > steps:
            steps = record.step
            yield record


def require_equal(one: JobContext, whole: Heard, two: JobContext, pieces: Heard) -> None:
    assert pieces.outcomes == whole.outcomes
    assert stored(two, pieces) == stored(one, whole)
    assert timeless([*new(pieces)]) == timeless(whole.told)
    steps = [record.step for record in new(pieces)]
    assert steps == list(range(1, len(whole.told) + 1))


# ---- stopped between epochs


@pytest.mark.parametrize("name", CASES)
def test_a_job_that_is_stopped_after_every_epoch_ends_as_if_it_were_not(
    tmp_path: Path, digits: ImageData, trained: list[int], name: str
):
    case = CASES[name]
    contexts = [case.prepared(tmp_path / part, digits) for part in ("whole", "pieces")]
    whole = done(case.job(contexts[0]), contexts[0], digits)
    is_open = name.startswith("iterative") or name == "rni with candidates"
    num_epochs = whole.told[-1].num_steps if is_open else NUM_EPOCHS.get(name, 7)
    seeds, trained[:] = list(trained), []
    is_judged = isinstance(case.job(contexts[0]), TrialJob)
    assert (contexts[0].directory / RUNGS_FOLDER).is_dir() == is_judged  # by early stopping
    assert len(whole.told) == len(seeds) == num_epochs
    assert len(whole.outcomes) == (1 if name in (*NUM_EPOCHS, "rni with candidates") else 2)
    pieces = done(case.job(contexts[1]), contexts[1], digits, lambda step: True)
    require_equal(contexts[0], whole, contexts[1], pieces)
    assert pieces.processes == num_epochs + 1
    assert trained == seeds  # no epoch was gone through twice


@pytest.mark.parametrize("epoch", range(1, 8))
def test_once_is_enough(tmp_path: Path, digits: ImageData, trained: list[int], epoch: int):
    """In sparse training (3), in fine-tuning (2) and in that of the by-product (2)."""
    case = CASES["rni"]
    contexts = [case.prepared(tmp_path / part, digits) for part in ("whole", "pieces")]
    whole = done(case.job(contexts[0]), contexts[0], digits)
    pieces = done(case.job(contexts[1]), contexts[1], digits, lambda step: step == epoch)
    require_equal(contexts[0], whole, contexts[1], pieces)
    assert pieces.processes == 2
    assert len(trained) == 14


@pytest.mark.parametrize("name", ["rni", "member"])
def test_epochs_are_told_again_as_they_were_told_before(
    tmp_path: Path, digits: ImageData, name: str
):
    """All that are done, by the first call of every process, with the time they had."""
    context = CASES[name].prepared(tmp_path, digits)
    heard = done(CASES[name].job(context), context, digits, lambda step: True)
    known: list[EpochRecord] = []
    for records in heard.calls:
        if len(records) > 1 or records[0].step == 1:
            assert records[: len(known)] == known
        known += [record for record in records if record not in known]
    assert [record.step for record in known] == list(range(1, NUM_EPOCHS.get(name, 7) + 1))
    again = [len(records) for records in heard.calls[1::2]]
    assert again == list(range(1, len(known) + 1))
    times = [record.time_ms for record in known]
    assert times == sorted(times)
    assert times[0] > 1_700_000_000_000
    curve = [r.time_ms for r in stored_curve(context.directory / heard.outcomes[0].path)]
    assert set(curve) <= set(times)


# ---- states that are stored now and then


@pytest.mark.parametrize("name", ["rni with candidates", "iterative", "member by another recipe"])
def test_what_was_not_stored_is_gone_through_again_to_the_same_bit(
    tmp_path: Path, digits: ImageData, trained: list[int], name: str
):
    """Stopped after every epoch, and stored only where a stage ends or it was lost before."""
    case = CASES[name]
    contexts = [case.prepared(tmp_path / part, digits, "1h") for part in ("whole", "pieces")]
    whole = done(case.job(contexts[0]), contexts[0], digits)
    num_epochs = len(trained)
    assert (len(whole.told), whole.again) == (num_epochs, 0)
    trained.clear()
    pieces = done(case.job(contexts[1]), contexts[1], digits, lambda step: True)
    require_equal(contexts[0], whole, contexts[1], pieces)
    assert pieces.processes == num_epochs + 1
    assert len(trained) == num_epochs + pieces.again
    assert 0 < pieces.again < num_epochs  # none is lost twice


def test_an_epoch_that_was_told_is_not_told_again_as_new(tmp_path: Path, digits: ImageData):
    context = CASES["member"].prepared(tmp_path, digits, "1h")
    heard = done(CASES["member"].job(context), context, digits, lambda step: step == 2)
    first, second, again, third = heard.calls
    assert [len(call) for call in heard.calls] == [1, 1, 2, 1]
    assert again == [*first, *second]
    assert heard.again == 2
    times = [record.time_ms for record in (*first, *second, *third)]
    assert [r.time_ms for r in again] == times[:2]
    curve = stored_curve(context.directory / heard.outcomes[0].path)
    assert [r.time_ms for r in curve] == times


def test_no_more_than_was_asked_for_can_be_lost(
    tmp_path: Path, digits: ImageData, monkeypatch: pytest.MonkeyPatch
):
    """Of epochs of 10 s, where at most 30 s may be lost, every third is stored, and the last."""
    stored: list[int] = []
    save = Checkpoints.save

    def noted(self: Checkpoints, number: int, state: Mapping[str, object]) -> None:
        stored.append(len(state["records"]))
        save(self, number, state)

    class Clock:
        now = 0.0
        perf_counter, time_ns = time.perf_counter, time.time_ns

        def monotonic(self) -> float:
            return self.now

    clock = Clock()

    class AtOnce(BackgroundCalls):
        def put(self, item: object) -> None:
            super().put(item)
            self.flush()

    monkeypatch.setattr(Checkpoints, "save", noted)
    monkeypatch.setattr(staged_training, "time", clock)
    monkeypatch.setattr(staged_training, "BackgroundCalls", AtOnce)
    training = dataclasses.replace(TRAINING, scratch_epochs=8)
    context = Case(member(), changes=(("training", training),)).prepared(tmp_path, digits, "30s")
    run_epoch = Trainer.run_epoch

    def slow(self: Trainer) -> EpochReport:
        clock.now += 10
        return run_epoch(self)

    monkeypatch.setattr(Trainer, "run_epoch", slow)
    done(member()(context), context, digits)
    assert stored == [3, 6, 8]


def test_a_full_disk_ends_the_job_though_nobody_waits_for_it(
    tmp_path: Path, digits: ImageData, monkeypatch: pytest.MonkeyPatch
):
    def no_room(self: Checkpoints, number: int, state: object) -> None:
        raise DiskFullError("make room")

    context = CASES["member"].prepared(tmp_path, digits)
    monkeypatch.setattr(Checkpoints, "save", no_room)
    with pytest.raises(DiskFullError, match="make room"):
        perform(CASES["member"].job(context), context, digits, lambda _: None)


def test_what_is_being_written_is_what_was_there_then(tmp_path: Path, digits: ImageData):
    """However long the disk takes: training goes on meanwhile, on the same tensors."""
    weights, again = torch.zeros(3), torch.ones(3)
    state = {"a": {"weights": weights, "same": weights[:]}, "list": [again, 1, "x", None]}
    copy = copied_off(state)
    weights.add_(5)
    state["list"].append("more")
    assert copy["a"]["weights"].tolist() == [0, 0, 0]
    assert copy["a"]["same"] is copy["a"]["weights"]  # and takes no more room for being twice there
    assert copy["list"][1:] == [1, "x", None]


# ---- seconds


def test_every_epoch_says_what_its_seconds_went_to(tmp_path: Path, digits: ImageData):
    context = CASES["member"].prepared(tmp_path, digits)
    heard = done(CASES["member"].job(context), context, digits)
    first, *later = heard.told
    assert {*first.seconds} == {"steps", "data", "evaluation"}
    for record in later:
        assert {*record.seconds} == {*PHASES}
        assert all(seconds >= 0 for seconds in record.seconds.values())
        assert record.seconds["steps"] > 0
    (stored, *_) = stored_curve(context.directory / heard.outcomes[0].path)
    assert stored.seconds == first.seconds


# ---- stopped elsewhere


@pytest.mark.parametrize("epoch", [2, 4, 7])
def test_an_epoch_that_was_not_finished_is_gone_through_again(
    tmp_path: Path,
    digits: ImageData,
    trained: list[int],
    monkeypatch: pytest.MonkeyPatch,
    epoch: int,
):
    """That one only; its process died before it could store what it had learned."""
    case = CASES["rni"]
    contexts = [case.prepared(tmp_path / part, digits) for part in ("whole", "pieces")]
    whole = done(case.job(contexts[0]), contexts[0], digits)
    trained.clear()
    counted = Trainer.run_epoch

    def dying(self: Trainer) -> EpochReport:
        report = counted(self)
        if len(trained) == epoch:
            raise KeyboardInterrupt
        return report

    monkeypatch.setattr(Trainer, "run_epoch", dying)
    pieces = done(case.job(contexts[1]), contexts[1], digits)
    require_equal(contexts[0], whole, contexts[1], pieces)
    assert (pieces.processes, len(trained)) == (2, 8)


@pytest.mark.parametrize("network", [1, 2])
@pytest.mark.parametrize("is_written", [False, True])
def test_a_network_that_was_trained_but_not_settled_costs_no_training(
    tmp_path: Path,
    digits: ImageData,
    trained: list[int],
    monkeypatch: pytest.MonkeyPatch,
    *,
    network: int,
    is_written: bool,
):
    case = CASES["rni"]
    contexts = [case.prepared(tmp_path / part, digits) for part in ("whole", "pieces")]
    whole = done(case.job(contexts[0]), contexts[0], digits)
    store, calls = trial.store, []

    def dying(*arguments: object) -> Outcome:
        calls.append(arguments)
        if len(calls) == network and not is_written:
            raise KeyboardInterrupt
        outcome = store(*arguments)
        if len(calls) == network:
            raise KeyboardInterrupt
        return outcome

    monkeypatch.setattr(trial, "store", dying)
    pieces = done(case.job(contexts[1]), contexts[1], digits)
    require_equal(contexts[0], whole, contexts[1], pieces)
    assert (pieces.processes, len(trained), len(calls)) == (2, 14, 3)


def test_a_damaged_state_costs_one_epoch(tmp_path: Path, digits: ImageData, trained: list[int]):
    case = CASES["rni"]
    contexts = [case.prepared(tmp_path / part, digits) for part in ("whole", "pieces")]
    whole = done(case.job(contexts[0]), contexts[0], digits)
    job = case.job(contexts[1])

    def stop(records: Sequence[EpochRecord]) -> None:
        if records[-1].step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        perform(job, contexts[1], digits, stop)
    newest = max((contexts[1].directory / "jobs" / job.key).glob("*.pt"))
    newest.write_bytes(newest.read_bytes()[:-1])
    trained.clear()
    pieces = done(job, contexts[1], digits)
    require_equal(contexts[0], whole, contexts[1], pieces)
    assert len(trained) == 5


def test_what_is_finished_is_not_done_again(tmp_path: Path, digits: ImageData, trained: list[int]):
    """As when the driver died before it heard of it."""
    context = CASES["rni"].prepared(tmp_path, digits)
    job = CASES["rni"].job(context)
    first = done(job, context, digits)
    files = {file: file.stat().st_mtime_ns for file in context.directory.rglob("weights.*")}
    trained.clear()
    second = done(job, context, digits)
    assert second.outcomes == first.outcomes
    assert second.calls == [first.told]
    assert trained == []
    assert {file: file.stat().st_mtime_ns for file in files} == files


def test_a_job_that_never_gets_any_further_is_given_up(tmp_path: Path, digits: ImageData):
    context = CASES["member"].prepared(tmp_path, digits)
    job = CASES["member"].job(context)

    def stop(records: Sequence[EpochRecord]) -> None:
        raise KeyboardInterrupt

    for _ in range(4):  # the first gets an epoch further, three others do not
        with pytest.raises(KeyboardInterrupt):
            perform(job, context, digits, stop)
    with pytest.raises(JobGivenUpError, match="its worker process died, 3 times in epoch 2"):
        perform(job, context, digits, stop)
    context.checkpoints(job.key).attempts.forget()
    (outcome,) = done(job, context, digits).outcomes
    copycat.verify(context.directory / outcome.path, trust=("samples",))


# ---- curves


def test_each_network_has_a_curve_without_a_gap(tmp_path: Path, digits: ImageData):
    """That of a by-product leaves out the fine-tuning of the trial's own network."""
    context = CASES["rni"].prepared(tmp_path, digits)
    heard = done(CASES["rni"].job(context), context, digits, lambda step: step in (2, 6))
    epochs = [*new(heard)]
    for outcome, of in zip(heard.outcomes, ((0, 1, 2, 3, 4), (0, 1, 2, 5, 6)), strict=True):
        curve = stored_curve(context.directory / outcome.path)
        assert [(r.step, r.num_steps) for r in curve] == [(n, 5) for n in range(1, 6)]
        assert [r.stage for r in curve] == ["sparse training"] * 3 + ["fine-tuning"] * 2
        assert curve == [
            dataclasses.replace(epochs[i], step=step, num_steps=5) for step, i in enumerate(of, 1)
        ]
        assert curve[-1].validation_score == outcome.validation_score
        raw = json.loads((context.directory / outcome.path / "curve.json").read_text())
        assert [EpochRecord(**record) for record in raw] == curve


@pytest.mark.parametrize("name", ["snip", "member", "longer member"])
def test_a_single_network_has_all_epochs_of_its_job(tmp_path: Path, digits: ImageData, name: str):
    context = CASES[name].prepared(tmp_path, digits)
    heard = done(CASES[name].job(context), context, digits)
    assert stored_curve(context.directory / heard.outcomes[0].path) == heard.told


def test_images_and_compute_are_those_of_the_way_to_each_network(tmp_path: Path, digits: ImageData):
    """192 images an epoch; before pruning at the price of the base network."""
    context = CASES["rni"].prepared(tmp_path, digits)
    heard = done(CASES["rni"].job(context), context, digits, lambda step: True)
    assert [r.images for r in new(heard)] == [192 * step for step in range(1, 8)]
    base = context.preflight.base.flops
    for outcome in heard.outcomes:
        assert outcome.images == 192 * 5
        assert outcome.compute == 192 * (3 * base + 2 * outcome.flops)
    snip = CASES["snip"].prepared(tmp_path / "snip", digits)
    (pruned_first,) = done(CASES["snip"].job(snip), snip, digits).outcomes
    assert pruned_first.images == 192 * 5
    assert pruned_first.compute == 192 * 5 * pruned_first.flops


@pytest.mark.parametrize("name", ["rni", "snip", "member", "iterative"])
def test_epochs_add_up_to_the_compute_of_their_network(
    tmp_path: Path, digits: ImageData, name: str
):
    """Also where it shrinks while it trains, which costs less than the base network does."""
    case = CASES[name]
    context = case.prepared(tmp_path, digits)
    heard = done(case.job(context), context, digits, lambda step: True)
    for outcome in heard.outcomes:
        curve = stored_curve(context.directory / outcome.path)
        assert sum(record.compute for record in curve) == outcome.compute
    pruning = [r.compute for r in new(heard) if r.stage == "iterative pruning"]
    assert bool(pruning) == (name == "iterative")
    whole = 192.0 * context.preflight.base.flops
    assert all(whole > earlier > later for earlier, later in itertools.pairwise(pruning))


def test_a_course_that_is_over_knows_its_notes(tmp_path: Path, context: JobContext):
    """What a stage leaves is there for the next one, in this process and in others."""

    def staged() -> StagedTraining:
        return StagedTraining(context.checkpoints("a"), 1, lambda records: None, 30.0)

    with staged() as first:
        first.advance({"images": 3, "found": ["a"]})
        first.advance({"images": 5})
    for each in (first, staged()):
        assert (each.stage, each.notes) == (2, {"images": 5, "found": ["a"]})


# ---- candidates


def test_a_trial_judges_what_else_it_has_found(tmp_path: Path, digits: ImageData):
    """Each rung by each ranking, each shape once; what that takes is no part of its network's."""
    case = CASES["rni with candidates"]
    context = case.prepared(tmp_path, digits)
    heard = done(case.job(context), context, digits)
    (found,) = heard.outcomes
    candidates = stored_candidates(context.directory / found.path)
    config, limits = context.config, context.preflight.limits
    assert {each.rung for each in candidates} == {*config.ladder}
    assert {each.ranking for each in candidates} <= {"score", "score/cost^1", "uniform"}
    assert len({each.profile.digest for each in candidates}) == len(candidates)
    for each in candidates:
        cost = context.preflight.graph.cost(each.profile.widths)
        assert (each.flops, each.params) == (cost.flops, cost.params)
        assert limits.scaled(each.rung).allows(cost)
        assert 0 <= each.score <= 1
    stages = [record.stage for record in heard.told]
    assert stages.count("judging") == len(candidates)
    training = len(heard.told) - len(candidates)
    assert found.images == training * heard.told[0].images
    assert len(stored_curve(context.directory / found.path)) == training


def test_one_training_is_asked_for_every_ranking(tmp_path: Path):
    exponents = (0.0, 0.5, 1.0)
    rules = candidate_rankings(small_config(tmp_path, cost_exponent=exponents))
    assert [*rules] == ["score", "score/cost^0.5", "score/cost^1", "uniform"]
    assert [each.cost_exponent for each in rules.values()] == [*exponents, 0.0]
    assert [each.scope for each in rules.values()] == ["global"] * 3 + ["uniform"]
    assert [*candidate_rankings(small_config(tmp_path, scope="uniform"))] == ["uniform"]


def test_without_further_shapes_to_train_nothing_is_judged(tmp_path: Path, digits: ImageData):
    case = Case(
        CASES["rni"].job, changes=(("study", StudyConfig(by_products=0, tempered_trials=0)),)
    )
    context = case.prepared(tmp_path, digits)
    heard = done(case.job(context), context, digits)
    assert "judging" not in {record.stage for record in heard.told}
    assert not stored_candidates(context.directory / heard.outcomes[0].path)


def test_what_goes_step_by_step_has_judged_its_shapes_on_the_way(tmp_path: Path, digits: ImageData):
    case = CASES["iterative"]
    ladder = (("ladder", (1.0, 0.8)), ("study", StudyConfig(by_products=1)))
    case = dataclasses.replace(case, changes=(*case.changes, *ladder))
    context = case.prepared(tmp_path, digits)
    heard = done(case.job(context), context, digits)
    candidates = stored_candidates(context.directory / heard.outcomes[0].path)
    assert [(each.rung, each.ranking) for each in candidates] == [
        (1.0, "trajectory"),
        (0.8, "trajectory"),
    ]
    rows = json.loads((context.directory / heard.outcomes[-1].path / "trajectory.json").read_text())
    scores = {row["flops"]: row["score"] for row in rows}
    assert all(scores[each.flops] == each.score for each in candidates)
    assert "judging" not in {record.stage for record in heard.told}
