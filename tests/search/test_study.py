"""What the study proposes, what it keeps of every trial, and what it knows after a restart."""

import math
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from samples import outcome

from pruning import Budget
from search.space import SearchSpace
from search.study import OBJECTIVES, StudySource
from search.tasks import TrialTask

SPACE = SearchSpace(1000.0, (200.0, 1000.0))
LIMITS = Budget.parse("flops=1000", "params=100")
TARGETS = (1000.0, 500.0, 250.0)

Open = Callable[..., StudySource]


@pytest.fixture
def reopen(tmp_path: Path) -> Open:
    """Opens the study of one search, again and again."""
    folder = tmp_path / "a-search"
    folder.mkdir()

    def make(num_trials: int = 5, seed: int = 0, targets: tuple[float, ...] = ()) -> StudySource:
        return StudySource(
            folder / "study.journal", SPACE, LIMITS, num_trials, seed=seed, first_targets=targets
        )

    return make


def plain(tmp_path: Path) -> optuna.Study:
    """The same study, opened by Optuna alone."""
    backend = JournalFileBackend(str(tmp_path / "a-search" / "study.journal"))
    return optuna.load_study(study_name="a-search", storage=JournalStorage(backend))


def started(source: StudySource) -> TrialTask:
    task = source.next()
    assert isinstance(task, TrialTask)
    return task


def finish(source: StudySource, task: TrialTask, **changes: object) -> None:
    source.finished(task, outcome(f"fine-tuned-{task.number}", trial=task.number, **changes))


def test_proposals_lie_in_the_ranges_until_there_are_enough(reopen: Open):
    source = reopen(num_trials=12)
    tasks = []
    while len(source):
        assert len(source) == 12 - len(tasks)
        task = started(source)
        tasks.append(task)
        finish(source, task, validation_accuracy=task.number / 12, flops=1000 - task.number)
    assert source.next() is None
    assert [task.number for task in tasks] == list(range(12))
    for proposal in (task.proposal for task in tasks):
        assert 0.01 <= proposal.settings["rni.strength"] <= 1
        assert 0 <= proposal.settings["rni.shift"] <= 3
        assert 200 <= proposal.target_flops <= 1000
    assert len({str(task.proposal) for task in tasks}) == 12


def test_tasks_that_are_under_way_are_not_handed_out_twice(reopen: Open):
    source = reopen(num_trials=3)
    first, second, third = started(source), started(source), started(source)
    assert len({first.number, second.number, third.number}) == 3
    assert (len(source), source.next()) == (0, None)
    for task in (third, first, second):
        finish(source, task)
    assert (len(source), source.next()) == (0, None)


def test_the_first_targets_are_the_ladders(reopen: Open):
    source = reopen(targets=TARGETS)
    assert [started(source).proposal.target_flops for _ in range(3)] == [1000, 500, 250]


def test_a_ladder_longer_than_the_search_is_cut(reopen: Open):
    source = reopen(num_trials=2, targets=TARGETS)
    assert [started(source).proposal.target_flops for _ in range(2)] == [1000, 500]
    assert source.next() is None


def test_equal_seeds_propose_equally(reopen: Open, tmp_path: Path):
    def proposals(name: str, seed: int) -> list[object]:
        folder = tmp_path / name
        folder.mkdir()
        source = StudySource(folder / "study.journal", SPACE, LIMITS, 6, seed=seed)
        found: list[object] = []
        while len(source):
            task = started(source)
            found.append(task.proposal)
            finish(source, task, validation_accuracy=task.number / 6)
        return found

    assert proposals("one", 3) == proposals("two", 3) != proposals("three", 4)


def test_a_finished_trial_is_complete_with_both_objectives(reopen: Open, tmp_path: Path):
    source = reopen()
    task = started(source)
    finish(source, task, validation_accuracy=0.75, flops=900, details={"sparsity": 0.5})
    (trial,) = plain(tmp_path).trials
    assert trial.state is TrialState.COMPLETE
    assert trial.values == [0.75, 900.0]
    assert plain(tmp_path).metric_names == list(OBJECTIVES)
    expected = outcome(
        "fine-tuned-0", validation_accuracy=0.75, flops=900, details={"sparsity": 0.5}
    )
    assert source.outcomes == reopen().outcomes == [expected]


@pytest.mark.parametrize("accuracy", [math.nan, math.inf])
def test_an_accuracy_that_is_no_number_is_a_failure(reopen: Open, tmp_path: Path, accuracy):
    source = reopen()
    finish(source, started(source), validation_accuracy=accuracy)
    (trial,) = plain(tmp_path).trials
    assert trial.state is TrialState.FAIL
    assert source.outcomes == []
    assert source.failures == {0: f"validation accuracy is {accuracy}"}


def test_a_failure_keeps_its_reason_and_counts(reopen: Open):
    source = reopen(num_trials=2)
    source.failed(started(source), "training diverged")
    assert source.failures == {0: "training diverged"}
    assert len(source) == 1
    again = reopen(num_trials=2)
    assert again.failures == {0: "training diverged"}
    assert len(again) == 1


@pytest.mark.parametrize(
    ("cost", "is_feasible"),
    [
        ({"flops": 1000, "params": 100}, True),
        ({"flops": 1001, "params": 100}, False),
        ({"flops": 10, "params": 101}, False),
    ],
)
def test_what_is_over_budget_is_never_among_the_best(
    reopen: Open, tmp_path: Path, cost: dict[str, int], is_feasible: bool
):
    source = reopen()
    finish(source, started(source), validation_accuracy=0.99, **cost)
    finish(source, started(source), validation_accuracy=0.1, flops=900, params=90)
    best = {trial.number for trial in plain(tmp_path).best_trials}
    assert (0 in best) == is_feasible
    assert plain(tmp_path).trials[0].state is TrialState.COMPLETE


def test_nothing_is_left_running_after_an_interruption(reopen: Open, tmp_path: Path):
    source = reopen(targets=TARGETS)
    done, *lost = [started(source) for _ in range(3)]
    finish(source, done)
    del source  # and with it everything that was not written down

    again = reopen(targets=TARGETS)
    states = [trial.state for trial in plain(tmp_path).trials]
    assert states == [TrialState.COMPLETE, *[TrialState.FAIL] * 2, *[TrialState.WAITING] * 2]
    assert again.failures == {}
    assert again.lost == lost
    assert len(again) == 4
    repeated = [started(again) for _ in range(2)]
    assert [task.proposal for task in repeated] == [task.proposal for task in lost]
    assert not {task.number for task in repeated} & {done.number, *(t.number for t in lost)}


def test_an_interruption_of_the_repetition_loses_nothing_either(reopen: Open):
    first = started(reopen())
    second = started(reopen())
    third = started(reopen())
    assert first.proposal == second.proposal == third.proposal


def test_a_target_is_met_though_its_trial_was_stopped_before_it_drew_anything(
    reopen: Open, tmp_path: Path
):
    reopen(targets=TARGETS)
    assert plain(tmp_path).ask().params == {}
    again = reopen(targets=TARGETS)
    targets = {started(again).proposal.target_flops for _ in range(3)}
    assert targets == {1000, 500, 250}


def test_first_targets_that_were_never_started_are_met_after_a_restart(reopen: Open):
    finish(source := reopen(targets=TARGETS), started(source))
    again = reopen(targets=TARGETS)
    assert [started(again).proposal.target_flops for _ in range(2)] == [500, 250]


def test_trials_are_counted_over_restarts(reopen: Open):
    numbers = []
    for _ in range(5):
        source = reopen()
        assert len(source) == 5 - len(numbers)
        task = started(source)
        numbers.append(task.number)
        finish(source, task)
    assert len(reopen()) == 0
    assert reopen().next() is None
    assert [o.trial for o in reopen().outcomes] == numbers == list(range(5))


def test_a_restart_does_not_propose_the_same_again(reopen: Open):
    proposals = []
    for _ in range(5):
        source = reopen()
        task = started(source)
        proposals.append(task.proposal)
        finish(source, task)
    assert len(set(map(str, proposals))) == 5


def test_more_trials_can_be_asked_of_a_finished_study(reopen: Open):
    finish(source := reopen(num_trials=1), started(source))
    assert len(reopen(num_trials=1)) == 0
    assert len(reopen(num_trials=4)) == 3
