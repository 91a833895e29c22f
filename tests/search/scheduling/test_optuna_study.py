"""What the study proposes, what it keeps of every trial, and what it knows after a restart."""

import math
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from samples import ABSOLUTE_ERROR, MEAN_IOU, outcome

from pruning import Budget
from pruning.errors import SearchStateError, UnreachableBudgetError
from search.scheduling.optuna_study import (
    JOURNAL,
    StudySource,
    open_study,
    recorded_study,
    study_storage,
    trial_number,
)
from search.tasks.score import ACCURACY, Score
from search.trials.jobs import Ending, TrialJob
from search.trials.search_space import SearchSpace, sampler

SPACE = SearchSpace(1000.0, (200.0, 1000.0))
GRID = {"rni.strength": (1.0, 2.0), "rni.shift": (0.0, 3.0)}
LIMITS = Budget.parse("flops=1000", "params=100")
TARGETS = (1000.0, 500.0, 250.0)

Open = Callable[..., StudySource]


@pytest.fixture
def reopen(tmp_path: Path) -> Open:
    """Opens the study of one search, again and again."""
    folder = tmp_path / "a-search"
    folder.mkdir()

    def make(num_trials: int = 5, seed: int = 0, **options: object) -> StudySource:
        return opened(folder, num_trials, seed=seed, **options)

    return make


def opened(
    folder: Path,
    num_trials: int = 5,
    *,
    seed: int = 0,
    targets: tuple[float, ...] = (),
    sampler_name: str = "tpe",
    url: str = "",
    score: Score = ACCURACY,
) -> StudySource:
    """The study of the search in `folder`, as a new process opens it."""
    return StudySource(
        open_study(study_storage(folder, url), "a-search", score),
        lambda trial: TrialJob(trial_number(trial), SPACE.propose(trial)),
        lambda number: sampler(sampler_name, number, num_trials),
        LIMITS,
        num_trials,
        seed=seed,
        openings=SPACE.openings(targets),
    )


def plain(tmp_path: Path) -> optuna.Study:
    """The same study, opened by Optuna alone."""
    backend = JournalFileBackend(str(tmp_path / "a-search" / "study.journal"))
    return optuna.load_study(study_name="a-search", storage=JournalStorage(backend))


def started(source: StudySource) -> TrialJob:
    job = source.next()
    assert isinstance(job, TrialJob)
    return job


def finish(source: StudySource, job: TrialJob, **changes: object) -> None:
    source.finished(job, [outcome(f"fine-tuned-{job.number}", trial=job.number, **changes)])


def test_proposals_lie_in_the_ranges_until_there_are_enough(reopen: Open):
    source = reopen(num_trials=12)
    jobs = []
    while len(source):
        assert len(source) == 12 - len(jobs)
        job = started(source)
        jobs.append(job)
        finish(source, job, validation_score=job.number / 12, flops=1000 - job.number)
    assert source.next() is None
    assert [job.number for job in jobs] == list(range(12))
    for proposal in (job.proposal for job in jobs):
        assert 0.01 <= proposal.settings["rni.strength"] <= 1
        assert 0 <= proposal.settings["rni.shift"] <= 3
        assert 200 <= proposal.target_flops <= 1000
    assert len({str(job.proposal) for job in jobs}) == 12


def test_jobs_that_are_under_way_are_not_handed_out_twice(reopen: Open):
    source = reopen(num_trials=3)
    first, second, third = started(source), started(source), started(source)
    assert len({first.number, second.number, third.number}) == 3
    assert (len(source), source.next()) == (0, None)
    for job in (third, first, second):
        finish(source, job)
    assert (len(source), source.next()) == (0, None)


def test_the_first_targets_are_the_ladders(reopen: Open):
    source = reopen(targets=TARGETS)
    assert [started(source).proposal.target_flops for _ in range(3)] == [1000, 500, 250]


def test_a_grid_is_gone_through_in_its_order_over_restarts(tmp_path: Path):
    space = SearchSpace(1000.0, None, ("rni", "fisher"), fixed=GRID)

    def reopened() -> StudySource:
        return StudySource(
            open_study(study_storage(tmp_path), "a-search", ACCURACY),
            lambda trial: TrialJob(trial_number(trial), space.propose(trial)),
            lambda number: sampler("tpe", number, 4, is_conditional=True),
            LIMITS,
            4,
            seed=0,
            openings=space.grid(0.0),
        )

    found = []
    for _ in range(2):
        source = reopened()
        under_way = started(source)
        finish(source, under_way)
        left = started(source)  # the process ends here: the next one hands it out again
        found += [under_way.proposal, left.proposal]
    again = reopened()
    points = [found[0], found[2], *(started(again).proposal for _ in range(2))]
    assert again.next() is None
    assert found[1:] == [points[1], points[1], points[2]]
    assert [(p.criterion, *p.settings.values()) for p in points] == [
        *(("rni", strength, shift) for strength in (1.0, 2.0) for shift in (0.0, 3.0))
    ]


def test_a_ladder_longer_than_the_search_is_cut(reopen: Open):
    source = reopen(num_trials=2, targets=TARGETS)
    assert [started(source).proposal.target_flops for _ in range(2)] == [1000, 500]
    assert source.next() is None


def test_equal_seeds_propose_equally(reopen: Open, tmp_path: Path):
    def proposals(name: str, seed: int) -> list[object]:
        folder = tmp_path / name
        folder.mkdir()
        source = opened(folder, 6, seed=seed)
        found: list[object] = []
        while len(source):
            job = started(source)
            found.append(job.proposal)
            finish(source, job, validation_score=job.number / 6)
        return found

    assert proposals("one", 3) == proposals("two", 3) != proposals("three", 4)


def test_a_finished_trial_is_complete_with_both_objectives(reopen: Open, tmp_path: Path):
    source = reopen()
    job = started(source)
    finish(source, job, validation_score=0.75, flops=900, details={"sparsity": 0.5})
    (trial,) = plain(tmp_path).trials
    assert trial.state is TrialState.COMPLETE
    assert trial.values == [0.75, 900.0]
    assert plain(tmp_path).metric_names == ["validation accuracy", "FLOPs"]
    expected = outcome("fine-tuned-0", validation_score=0.75, flops=900, details={"sparsity": 0.5})
    assert source.outcomes == reopen().outcomes == [expected]


def test_the_objectives_are_the_score_in_its_direction_and_flops(tmp_path: Path):
    study = open_study(study_storage(tmp_path), "errors", ABSOLUTE_ERROR)
    assert study.metric_names == ["validation mean absolute error", "FLOPs"]
    assert [direction.name for direction in study.directions] == ["MINIMIZE", "MINIMIZE"]
    open_study(study_storage(tmp_path), "errors", ABSOLUTE_ERROR)  # again
    with pytest.raises(SearchStateError) as caught:
        open_study(study_storage(tmp_path), "errors", MEAN_IOU)
    assert str(caught.value) == (
        "the study 'errors' is to minimize validation mean absolute error and minimize FLOPs, the "
        "task is to maximize validation mean IoU and minimize FLOPs: give the search another name"
    )


@pytest.mark.parametrize("sampler_name", ["tpe", "nsga2"])
def test_errors_lead_a_sampler_where_accuracies_would(tmp_path: Path, sampler_name: str):
    """Two searches of which one is told −x wherever the other is told x propose the same."""

    def proposals(name: str, score: Score, sign: int) -> list[object]:
        folder = tmp_path / name
        folder.mkdir()
        source = opened(folder, 16, sampler_name=sampler_name, score=score)
        found: list[object] = []
        while len(source):
            job = started(source)
            found.append(job.proposal)
            finish(source, job, validation_score=sign * job.proposal.settings["rni.shift"])
        return found

    assert proposals("one", ACCURACY, 1) == proposals("other", ABSOLUTE_ERROR, -1)


@pytest.mark.parametrize("accuracy", [math.nan, math.inf])
def test_an_accuracy_that_is_no_number_is_a_failure(reopen: Open, tmp_path: Path, accuracy):
    source = reopen()
    finish(source, started(source), validation_score=accuracy)
    (trial,) = plain(tmp_path).trials
    assert trial.state is TrialState.FAIL
    assert source.outcomes == []
    expected = Ending("failed", f"validation accuracy is {accuracy}", is_final=True)
    assert source.endings == {0: expected}


@pytest.mark.parametrize(
    ("ending", "state"),
    [
        (Ending("failed", "training diverged", is_final=True), TrialState.FAIL),
        (Ending("stopped early", "three others were better"), TrialState.PRUNED),
        (Ending("infeasible", "gates do not close"), TrialState.PRUNED),
    ],
    ids=lambda value: getattr(value, "state", ""),
)
def test_an_ending_is_told_keeps_its_reason_and_counts(
    reopen: Open, tmp_path: Path, ending: Ending, state: TrialState
):
    source = reopen(num_trials=2)
    source.ended(started(source), ending)
    assert source.endings == {0: ending}
    assert len(source) == 1
    again = reopen(num_trials=2)
    assert again.endings == {0: ending}
    assert len(again) == 1
    assert [trial.state for trial in plain(tmp_path).trials] == [state]


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
    finish(source, started(source), validation_score=0.99, **cost)
    finish(source, started(source), validation_score=0.1, flops=900, params=90)
    best = {trial.number for trial in plain(tmp_path).best_trials}
    assert (0 in best) == is_feasible
    expected = TrialState.COMPLETE if is_feasible else TrialState.PRUNED
    assert plain(tmp_path).trials[0].state is expected
    assert (0 in source.endings) != is_feasible


def test_a_failure_is_tried_again_under_its_number(reopen: Open, tmp_path: Path):
    """With its proposal, once after every start, and whatever was known of it is superseded."""
    source = reopen(num_trials=3)
    first, second = started(source), started(source)
    source.ended(first, Ending("failed", "out of memory"))
    finish(source, second)
    assert len(source) == 1  # not before the search is started again
    for reason in ("a bad file", "a worse file"):
        source = reopen(num_trials=3)
        assert source.endings == {}
        assert len(source) == 2
        again = started(source)
        assert again == first
        source.ended(again, Ending("failed", reason))
        assert source.endings == {0: Ending("failed", reason)}
        assert len(source) == 1
    source = reopen(num_trials=3)
    assert len(reopen(num_trials=3)) == 2  # one that was killed before it began
    finish(source, started(source))
    third = started(source)
    assert isinstance(third, TrialJob)
    assert third.number not in (0, 1)
    finish(source, third)
    assert source.endings == {}
    assert [o.trial for o in source.outcomes] == [0, 1, third.number]
    assert len(source) == len(reopen(num_trials=3)) == 0
    states = [trial.state for trial in plain(tmp_path).trials]
    assert states.count(TrialState.FAIL) == 3
    assert states.count(TrialState.COMPLETE) == 3


def test_what_was_under_way_is_handed_out_again_under_its_number(reopen: Open, tmp_path: Path):
    source = reopen(targets=TARGETS)
    done, *lost = [started(source) for _ in range(3)]
    finish(source, done)
    del source  # and with it everything that was not written down

    again = reopen(targets=TARGETS)
    assert len(again) == 4
    repeated = [started(again) for _ in range(2)]
    assert repeated == lost
    for job in repeated:
        finish(again, job)
    new = started(again)
    assert new.number == 3
    finish(again, new)
    states = [trial.state for trial in plain(tmp_path).trials]
    assert states == [TrialState.COMPLETE] * 4


def test_an_interruption_of_the_repetition_loses_nothing_either(reopen: Open):
    first = started(reopen())
    second = started(reopen())
    third = started(reopen())
    assert first == second == third


@pytest.mark.parametrize("sampler_name", ["tpe", "nsga2", "random"])
def test_restarts_change_no_proposal(tmp_path: Path, sampler_name: str):
    """Whether every trial has a process of its own, begun twice, or all have the same one."""

    def proposals(name: str, *, restarted: bool) -> list[object]:
        folder = tmp_path / name
        folder.mkdir()
        source = opened(folder, 12, sampler_name=sampler_name)
        found: list[object] = []
        while len(source):
            if restarted:
                opened(folder, 12, sampler_name=sampler_name).next()
                source = opened(folder, 12, sampler_name=sampler_name)
            job = started(source)
            found.append(job.proposal)
            flops = job.proposal.target_flops
            finish(source, job, validation_score=flops / 2000, flops=flops)
        return found

    kept, restarted = (proposals(name, restarted=name == "two") for name in ("one", "two"))
    assert kept == restarted
    assert len({str(proposal) for proposal in kept}) == 12


def test_a_line_that_a_killed_process_left_unfinished_is_cut_off(reopen: Open, tmp_path: Path):
    source = reopen()
    finish(source, started(source))
    job = started(source)
    journal = tmp_path / "a-search" / JOURNAL
    with journal.open("ab") as stream:
        stream.write(b'{"op_code": 6, "trial_i')
    journal.with_name(f"{JOURNAL}.lock").symlink_to(journal)
    again = reopen()
    assert started(again) == job
    finish(again, job)
    assert len(reopen().outcomes) == 2


DAMAGES: dict[str, Callable[[list[bytes], int], list[bytes]]] = {
    "blank": lambda lines, n: [*lines[:n], b"\n", *lines[n:]],
    "cut": lambda lines, n: [*lines[:n], lines[n][: len(lines[n]) // 2] + b"\n", *lines[n + 1 :]],
    "glued": lambda lines, n: [*lines[:n], lines[n][: len(lines[n]) // 2], *lines[n + 1 :]],
    "joined": lambda lines, n: [*lines[:n], lines[n].rstrip(), *lines[n + 1 :]],
    "zeros": lambda lines, n: [*lines[:n], bytes(len(lines[n]) - 1) + b"\n", *lines[n + 1 :]],
    "no operation": lambda lines, n: [*lines[:n], b"[]\n", *lines[n + 1 :]],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_journal_costs_at_most_what_the_line_told(tmp_path: Path, damage: str):
    """Whichever line: every trial is made in the end, with its proposal, and none twice."""
    (tmp_path / "whole").mkdir()
    source = opened(tmp_path / "whole", targets=TARGETS)
    finish(source, started(source), validation_score=0.9)
    two, three = started(source), started(source)
    finish(source, three, validation_score=0.8)
    source.ended(two, Ending("failed", "no luck", is_final=True))
    started(source)
    lines = (tmp_path / "whole" / JOURNAL).read_bytes().splitlines(keepends=True)
    begin = next(n for n, line in enumerate(lines) if b'"op_code":4' in line)
    for number in range(begin, len(lines) - 1):  # a torn last line is another matter
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / JOURNAL).write_bytes(b"".join(DAMAGES[damage](lines, number)))
        told: list[str] = []
        study_storage(folder, tell=told.append)
        is_lossless = damage in ("blank", "joined")
        assert len(told) == (0 if is_lossless else 1), number
        again = opened(folder)
        if is_lossless:
            assert (len(again.outcomes), again.endings) == (2, source.endings)
        assert set(again.endings) <= set(source.endings)
        while job := again.next():
            finish(again, job)
        assert len(again) == 0
        settled = {job.number for job, _ in again.settled()}
        assert settled == set(range(5)), number
        assert (
            len(again.outcomes) == len({o.trial for o in again.outcomes}) == 5 - len(again.endings)
        )


def test_a_journal_that_lost_its_beginning_is_refused_in_one_line(reopen: Open, tmp_path: Path):
    reopen()
    journal = tmp_path / "a-search" / JOURNAL
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"x\n" + b"".join(lines[1:]) + b'{"op_code":5,"worker_id":"w"}\n')
    with pytest.raises(SearchStateError, match="is damaged"):
        reopen()


def test_by_products_follow_the_trial_that_they_came_of(reopen: Open):
    source = reopen()
    first, second = started(source), started(source)
    finish(source, second)
    products = [outcome("fine-tuned-0"), outcome("fine-tuned-0-t50", flops=500)]
    source.finished(first, products)
    keys = ["fine-tuned-0", "fine-tuned-0-t50", "fine-tuned-1"]
    assert [o.key for o in source.outcomes] == [o.key for o in reopen().outcomes] == keys
    assert len(source) == 3


def test_a_study_of_another_format_is_refused(reopen: Open, tmp_path: Path):
    reopen()
    plain(tmp_path).set_user_attr("espalier.format", 99)
    with pytest.raises(SearchStateError, match="is of format 99, this Espalier reads 4"):
        reopen()
    with pytest.raises(SearchStateError, match="is of format 99, this Espalier reads 4"):
        recorded_study(tmp_path / "a-search", "a-search")


def test_what_became_of_the_trials_is_read_without_a_trace(reopen: Open, tmp_path: Path):
    """Not even a line that a killed process left unfinished is touched."""
    folder = tmp_path / "a-search"
    source = reopen(2, targets=TARGETS)
    finish(source, started(source))
    source.ended(started(source), Ending("failed", "no luck"))
    with (folder / JOURNAL).open("ab") as stream:
        stream.write(b'{"op_code": 6, "trial_i')
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    found = recorded_study(folder, "a-search")
    assert found.outcomes == source.outcomes
    assert found.endings == {1: Ending("failed", "no luck")}
    assert found.params(1) == source.params(1)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    with pytest.raises(SearchStateError, match="holds no study 'another'"):
        recorded_study(folder, "another")


def test_a_study_lives_in_a_database_as_well(tmp_path: Path):
    url = f"sqlite:///{tmp_path / 'study.db'}"
    source = opened(tmp_path, url=url)
    job = started(source)
    finish(source, job)
    lost = started(source)
    again = opened(tmp_path, url=url)
    assert started(again) == lost
    assert [o.trial for o in again.outcomes] == [job.number]
    assert not (tmp_path / JOURNAL).exists()


@pytest.mark.parametrize("url", ["nonsense://x", "sqlite:////no/such/folder/study.db"])
def test_a_database_that_cannot_be_used_is_refused(tmp_path: Path, url: str):
    with pytest.raises(SearchStateError, match="study's database cannot be used"):
        opened(tmp_path, url=url)


def test_a_proposal_that_nothing_can_be_made_of_is_infeasible(tmp_path: Path):
    def propose(trial: optuna.Trial) -> TrialJob:
        if trial.number < 2:
            raise UnreachableBudgetError("too small")
        return TrialJob(trial.number, SPACE.propose(trial))

    study = open_study(study_storage(tmp_path), "a-search", ACCURACY)
    source = StudySource(study, propose, lambda seed: sampler("tpe", seed, 3), LIMITS, 3, seed=0)
    assert started(source).number == 2
    assert source.endings == dict.fromkeys((0, 1), Ending("infeasible", "too small"))


def test_what_a_trial_drew_can_be_asked_for(reopen: Open):
    source = reopen()
    job = started(source)
    assert SPACE.proposal(source.params(0)) == job.proposal
    for number in (-1, 1):
        with pytest.raises(SearchStateError, match=f"no trial {number}: it has 0 to 0"):
            source.params(number)


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
        job = started(source)
        numbers.append(job.number)
        finish(source, job)
    assert len(reopen()) == 0
    assert reopen().next() is None
    assert [o.trial for o in reopen().outcomes] == numbers == list(range(5))


def test_a_restart_does_not_propose_the_same_again(reopen: Open):
    proposals = []
    for _ in range(5):
        source = reopen()
        job = started(source)
        proposals.append(job.proposal)
        finish(source, job)
    assert len(set(map(str, proposals))) == 5


def test_more_trials_can_be_asked_of_a_finished_study(reopen: Open):
    finish(source := reopen(num_trials=1), started(source))
    assert len(reopen(num_trials=1)) == 0
    assert len(reopen(num_trials=4)) == 3
