"""Who is stopped on a rung, and what becomes of that in a search."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from samples import ABSOLUTE_ERROR, Workers, quick_config, trial_job

import search
from mlflow_server import MemoryRecorder, schema
from pruning.errors import SearchFailedError, StoppedEarlyError
from search import models
from search.config.iterative_config import IterativeConfig
from search.config.search_config import SearchConfig
from search.config.study_config import StudyConfig
from search.config.training_config import TrainingConfig
from search.data.datasets import ImageData
from search.storage.layout import RUNGS_FOLDER
from search.tasks.score import ACCURACY
from search.trials.early_stopping import Halving, RungResult
from search.trials.job_context import JobContext
from search.trials.jobs import Job, Outcome
from search.trials.preflight import check
from search.trials.trial import perform


def rung_results(halving: Halving, key: str) -> list[RungResult]:
    """What is kept of a trial on each rung that it has come to, in order."""
    results = [halving.result(key, epoch) for epoch in halving.rungs]
    return [result for result in results if result is not None]


def halving_of(context: JobContext) -> Halving:
    folder, score = context.directory / RUNGS_FOLDER, context.preflight.score
    return Halving(folder, context.config.training.epochs, score)


Point = tuple[float, int]
"""Accuracy and FLOPs."""


@pytest.fixture
def halving(tmp_path: Path) -> Halving:
    return Halving(tmp_path / "rungs", 160, ACCURACY)


def goes_on(halving: Halving, key: str, point: Point, epoch: int = 20) -> bool:
    try:
        halving.require_worth(key, epoch, *point)
    except StoppedEarlyError:
        return False
    return True


def fates(halving: Halving, points: list[Point]) -> list[bool]:
    """Of trials that come to a rung one after the other."""
    return [goes_on(halving, f"fine-tuned-{n}", point) for n, point in enumerate(points)]


# ---- the rungs


@pytest.mark.parametrize(
    ("epochs", "rungs"),
    [(160, (20, 40, 80)), (16, (2, 4, 8)), (4, (1, 2)), (3, (1, 2)), (2, (1,)), (1, ())],
)
def test_rungs_are_halves_of_halves_and_none_is_the_end(
    tmp_path: Path, epochs: int, rungs: tuple[int, ...]
):
    assert Halving(tmp_path, epochs, ACCURACY).rungs == rungs


# ---- who is stopped


def test_of_three_or_fewer_nobody_is_stopped(halving: Halving):
    assert fates(halving, [(0.9, 10), (0.8, 20), (0.1, 90)]) == [True] * 3


def test_of_four_or_more_the_worse_half_is_stopped(halving: Halving):
    """Each is better than the next in both respects, so that there is one order."""
    points = [(0.9, 10), (0.8, 20), (0.7, 30), (0.6, 40), (0.85, 15), (0.75, 25), (0.95, 5)]
    assert fates(halving, points) == [True, True, True, False, True, False, True]


def test_who_is_better_than_all_before_always_goes_on(halving: Halving):
    assert fates(halving, [(n / 10, 100 - n) for n in range(8)]) == [True] * 8


def test_equal_trials_do_not_stop_each_other(halving: Halving):
    assert fates(halving, [(0.5, 50)] * 8) == [True] * 8


def test_a_small_network_is_not_starved(halving: Halving):
    """Halving by accuracy alone would stop it: it is the worst of all, but by far the cheapest."""
    large = [(0.8 + n / 100, 1000 + n) for n in range(9)]
    assert fates(halving, [*large, (0.2, 50)])[-1]
    assert not goes_on(halving, "as cheap, but worse", (0.1, 50))


def test_of_errors_the_largest_are_stopped(tmp_path: Path):
    """As of accuracies the smallest: with every score turned round, every trial fares the same."""
    points = [(0.9, 10), (0.8, 20), (0.7, 30), (0.6, 40), (0.85, 15), (0.75, 25), (0.95, 5)]
    errors = [(1 - accuracy, flops) for accuracy, flops in points]
    expected = [True, True, True, False, True, False, True]
    halving = Halving(tmp_path, 160, ABSOLUTE_ERROR)
    assert fates(halving, errors) == expected
    with pytest.raises(StoppedEarlyError, match=r"in mean absolute error and FLOPs \(0\.45 when"):
        halving.require_worth("fine-tuned-9", 20, 0.45, 50)


def test_a_stopped_trial_is_told_what_beat_it(halving: Halving):
    fates(halving, [(0.9, 10), (0.8, 20), (0.7, 30)])
    expected = (
        r"^after epoch 20 2 of the other 3 trials dominated it in accuracy and FLOPs "
        r"\(75\.0% when pruned to its target\)$"
    )
    with pytest.raises(StoppedEarlyError, match=expected):
        halving.require_worth("fine-tuned-3", 20, 0.75, 40)


def test_every_rung_is_one_of_its_own(halving: Halving):
    fates(halving, [(0.9, 10)] * 5)
    assert goes_on(halving, "late", (0.1, 90), epoch=40)
    assert not goes_on(halving, "early", (0.1, 90), epoch=20)


def test_asked_again_the_answer_is_that_of_the_first_time(halving: Halving, tmp_path: Path):
    """Also if others came in between, in another process, and with a value that differs a bit."""
    assert fates(halving, [(0.5, 50), (0.6, 40), (0.7, 30), (0.4, 60)]) == [True] * 3 + [False]
    for n in range(8):
        halving.require_worth(f"better-{n}", 20, 0.9, 10)
    again = Halving(tmp_path / "rungs", 160, ACCURACY)
    for key, point, expected in (
        ("fine-tuned-0", (0.5, 50), True),
        ("fine-tuned-1", (0.1, 90), True),
        ("fine-tuned-3", (0.9, 10), False),
    ):
        assert goes_on(again, key, point) == expected
    assert len(rung_results(again, "fine-tuned-0")) == 1


def test_rungs_survive_the_process(tmp_path: Path):
    for n, point in enumerate([(0.9, 10), (0.8, 20), (0.7, 30)]):
        Halving(tmp_path, 160, ACCURACY).require_worth(f"fine-tuned-{n}", 20, *point)
    assert not goes_on(Halving(tmp_path, 160, ACCURACY), "fine-tuned-3", (0.6, 40))
    (rung_result,) = rung_results(Halving(tmp_path, 160, ACCURACY), "fine-tuned-3")
    expected = RungResult("fine-tuned-3", 20, 0.6, 40, dominated_by=3, seen=4, goes_on=False)
    assert rung_result == expected


def test_a_file_that_was_never_finished_is_no_standing(halving: Halving, tmp_path: Path):
    fates(halving, [(0.9, 10)] * 2)
    (tmp_path / "rungs" / ".epoch-00020.npy.part").write_text("{")
    assert halving.require_worth("fine-tuned-3", 20, 0.1, 90).seen == 3


def test_what_an_earlier_version_kept_of_a_rung_stays_as_it_was_decided(tmp_path: Path):
    """It had a file for each trial; whatever was decided there is not decided again."""
    folder = tmp_path / "epoch-00020"
    folder.mkdir()
    for n in range(4):
        told = RungResult(f"old-{n}", 20, 0.9, 10, dominated_by=n, seen=n + 1, goes_on=n < 3)
        (folder / f"old-{n}.json").write_text(json.dumps(dataclasses.asdict(told)))
    halving = Halving(tmp_path, 160, ACCURACY)
    assert not goes_on(halving, "old-3", (0.9, 10))
    assert not goes_on(halving, "new", (0.8, 20))
    result = halving.result("new", 20)
    assert result is not None
    assert (result.dominated_by, result.seen) == (4, 5)
    assert halving.result("old-2", 20) == RungResult("old-2", 20, 0.9, 10, 2, 3, goes_on=True)


def test_a_rung_is_one_file_however_many_come_to_it(
    halving: Halving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """What was read for the tenth is read for the three hundredth: no file for each before it."""
    opened: list[str] = []
    open_path, load = Path.open, np.load
    monkeypatch.setattr(
        Path, "open", lambda file, *rest: opened.append(file.name) or open_path(file, *rest)
    )
    monkeypatch.setattr(
        np, "load", lambda file, **rest: opened.append(file.name) or load(file, **rest)
    )
    counts = []
    for n in range(300):
        opened.clear()
        goes_on(halving, f"fine-tuned-{n}", (0.5 + n / 1000, 100 + n))
        counts.append(len(opened))
    assert counts[10] == counts[-1] <= 3


def beaten_by(point: Point, others: list[Point]) -> int:
    return sum(
        accuracy >= point[0] and flops <= point[1] and (accuracy, flops) != point
        for accuracy, flops in others
    )


POINTS = st.lists(
    st.tuples(st.sampled_from([n / 8 for n in range(9)]), st.integers(1, 8)), max_size=16
)


@settings(max_examples=50, deadline=None)
@given(points=POINTS)
def test_in_any_order_those_on_the_front_of_a_rung_go_on(points: list[Point]):
    """And whoever is stopped has at least half of those seen then before it."""
    with tempfile.TemporaryDirectory() as folder:
        found = fates(Halving(Path(folder), 160, ACCURACY), points)
    for n, (point, is_going_on) in enumerate(zip(points, found, strict=True)):
        if beaten_by(point, points) == 0:
            assert is_going_on
        seen = points[: n + 1]
        better_off = sum(beaten_by(p, seen) < beaten_by(point, seen) for p in seen)
        is_worse_half = len(seen) >= 4 and 2 * better_off >= len(seen)
        assert is_going_on != is_worse_half


# ---- in a trial

STEP_BY_STEP = {"schedule": ("iterative",), "iterative": IterativeConfig(minibatches=2)}


@pytest.mark.parametrize(
    ("network", "changes"),
    [
        ("small_network", {}),
        ("small_network", {"criterion": ("snip",)}),
        ("small_residual", {"criterion": ("taylor",), "granularity": ("filter+branch",)}),
        ("small_network", {"criterion": ("taylor",)} | STEP_BY_STEP),
        ("small_network", {"criterion": ("magnitude-l2",)} | STEP_BY_STEP),
    ],
    ids=["rni", "snip", "taylor with gates", "taylor step by step", "magnitude step by step"],
)
def test_being_judged_changes_nothing_else(
    tmp_path: Path, digits: ImageData, network: str, changes: dict[str, object]
):
    """Neither the weights nor the batches: the network is pruned on rungs only to be measured."""
    found = []
    for is_judged in (True, False):
        study = StudyConfig(early_stopping=is_judged)
        context = prepared(
            tmp_path / str(is_judged), digits, network, study=study, **{"profiles": 1} | changes
        )
        job = proposed(context)
        outcomes = perform(job, context, digits, lambda records: None)
        weights = [context.directory / o.path / "weights.safetensors" for o in outcomes]
        found.append((outcomes, [file.read_bytes() for file in weights]))
        assert (context.directory / RUNGS_FOLDER).exists() == is_judged
    assert found[0] == found[1]


def prepared(folder: Path, digits: ImageData, network: str, **changes: object) -> JobContext:
    settings: dict[str, object] = {
        "model": f"samples:{network}",
        "training": TrainingConfig(4, 1, 1, batch_size=32),
        "budget": ("flops=80%",),
        "scoring_batches": 2,
    }
    config = quick_config(folder, **(settings | changes))
    builder = models.resolve(config.model, num_classes=10, in_channels=1)
    return JobContext(config, check(config, builder, digits.sample), "cpu")


def proposed(context: JobContext, number: int = 0, repeat: int = 0) -> Job:
    (name,), (parts,) = context.config.criterion, context.config.granularity
    job = trial_job(number, context.preflight.flops_limit)
    settings = {"rni": dict(job.proposal.settings)}.get(name, {})
    settings |= {"branch.strength": 0.3} if "branch" in parts else {}
    (schedule,) = context.config.schedule
    proposal = dataclasses.replace(
        job.proposal, criterion=name, granularity=parts, settings=settings, schedule=schedule
    )
    return dataclasses.replace(job, proposal=proposal, repeat=repeat)


def test_a_trial_is_worth_on_a_rung_what_it_would_be_pruned(tmp_path: Path, digits: ImageData):
    context = prepared(tmp_path, digits, "small_network")
    job = proposed(context)
    perform(job, context, digits, lambda records: None)
    first, second = rung_results(halving_of(context), job.key)
    assert (first.epoch, second.epoch) == (1, 2)
    for rung_result in (first, second):
        assert rung_result.goes_on
        assert 0 < rung_result.validation_score < 1
        assert rung_result.flops <= context.preflight.flops_limit < context.preflight.base.flops


def test_a_repetition_is_not_judged(tmp_path: Path, digits: ImageData):
    """The trial that it repeats was found worth comparing."""
    context = prepared(tmp_path, digits, "small_network")
    crowd(context, flops=1)
    with pytest.raises(StoppedEarlyError):
        perform(proposed(context), context, digits, lambda records: None)
    again = proposed(context, repeat=1)
    assert perform(again, context, digits, lambda records: None)[0].key == "fine-tuned-0-s1"


def test_a_stopped_trial_that_is_asked_for_again_is_stopped_again_at_once(
    tmp_path: Path, digits: ImageData
):
    """As when the process died before anybody heard of its end."""
    context = prepared(tmp_path, digits, "small_network")
    crowd(context, flops=1)
    heard: list[int] = []
    for _ in range(2):
        with pytest.raises(StoppedEarlyError, match="after epoch 1 5 of the other 5 trials"):
            perform(
                proposed(context),
                context,
                digits,
                lambda records: heard.extend(record.step for record in records),
            )
    assert heard == [1, 1]


# ---- in a search


def crowd(context: JobContext, flops: int) -> None:
    """Five others were on every rung before, perfect at so many FLOPs."""
    halving = halving_of(context)
    for n in range(5):
        for rung in halving.rungs:
            halving.require_worth(f"other-{n}", rung, 1.0, flops)


def crowded(job: Job, context: JobContext, *rest: object) -> tuple[Outcome, ...]:
    """A trial that finds rungs on which it is dominated down to three quarters of the budget."""
    crowd(context, round(0.75 * context.preflight.flops_limit))
    return perform(job, context, *rest)


def with_rungs(folder: Path, *, early_stopping: bool = True) -> SearchConfig:
    study = StudyConfig(early_stopping=early_stopping, tempered_trials=0)
    training = TrainingConfig(2, 1, 1, batch_size=32)
    return quick_config(folder, study=study, training=training)


def trials_of(config: SearchConfig) -> list[optuna.trial.FrozenTrial]:
    storage = JournalStorage(JournalFileBackend(str(config.directory / "study.journal")))
    return optuna.load_study(study_name=config.name, storage=storage).trials


def test_a_dominated_trial_is_pruned_and_the_search_goes_on(
    tmp_path: Path, workers: Workers, memory: MemoryRecorder
):
    """The first trial aims at the whole budget, the second at half of it."""
    config = with_rungs(tmp_path)
    workers.perform = crowded
    result = search.run(config)
    assert [t.state for t in trials_of(config)] == [TrialState.PRUNED, TrialState.COMPLETE]
    reason = result.results.failures["trial 0"]
    assert reason.startswith("stopped early: after epoch 1 5 of the other 5 trials dominated it ")
    run = memory.read("trial/0")
    assert (run.status, run.tags[schema.TAG_STATE]) == ("killed", "stopped early")
    assert len(run.metrics[schema.METRIC_TRAIN_LOSS]) == 1
    assert memory.read("search").status == "finished"
    assert {o.trial for o in result.results.everything if o.origin == "fine-tuned"} == {1}
    assert not (config.directory / "jobs" / "fine-tuned-0").exists()
    workers.performed = []
    assert search.run(config).results == result.results
    assert workers.performed == []


def test_without_early_stopping_it_is_not(tmp_path: Path, workers: Workers):
    config = with_rungs(tmp_path, early_stopping=False)
    workers.perform = crowded
    result = search.run(config)
    assert [t.state for t in trials_of(config)] == [TrialState.COMPLETE] * 2
    assert result.results.failures == {}
    rungs = Halving(config.directory / RUNGS_FOLDER, config.training.epochs, ACCURACY)
    assert rung_results(rungs, "fine-tuned-1") == []


def test_a_search_of_which_all_trials_were_stopped_says_so(tmp_path: Path, workers: Workers):
    def hopeless(job: Job, context: JobContext, *rest: object) -> tuple[Outcome, ...]:
        crowd(context, 1)
        return perform(job, context, *rest)

    workers.perform = hopeless
    with pytest.raises(SearchFailedError, match="the first of them because: after epoch 1 5 of"):
        search.run(with_rungs(tmp_path))
