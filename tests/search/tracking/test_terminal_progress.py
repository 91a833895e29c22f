"""What a person sees: lines where the output is no terminal, a table where it is."""

from __future__ import annotations

import dataclasses
import io
import time
from collections.abc import Callable

import pytest
from rich.console import Console
from samples import ABSOLUTE_ERROR, epoch_record, from_scratch_job, outcome, trial_job
from serving import eventually

from search.tasks.score import ACCURACY
from search.tracking import terminal_progress
from search.tracking.terminal_progress import Progress
from search.trials.jobs import Ending, State

JOB = trial_job(3, target_flops=123_456, strength=0.0123)
DETAILS = {"score_before_pruning": 0.5, "score_after_pruning": 0.25}
DONE = outcome("fine-tuned-3", trial=3, flops=120_000, validation_score=0.75, details=DETAILS)


def progress_on(console: Console, epochs: int, **options: Callable[[], float]) -> Progress:
    """Progress of a search that will take so many epochs."""
    progress = Progress(console, **options)
    progress.expect(epochs)
    return progress


class Clock:
    """The clock of this machine, put forward by the test."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(terminal_progress, "time", clock)
    return clock


def console(is_terminal: bool = False) -> Console:
    return Console(
        file=io.StringIO(),
        force_terminal=is_terminal,
        width=120,
        height=60,
        color_system=None,
        legacy_windows=False,
    )


def text(on: Console) -> str:
    assert isinstance(on.file, io.StringIO)
    return on.file.getvalue()


def test_a_member_of_a_family_study_is_told_by_its_budget_and_seed():
    screen = console()
    job = dataclasses.replace(from_scratch_job("uniform-s1"), budget="params=3k", seed=1)
    progress_on(screen, 1).started(job)
    assert text(screen) == "uniform-s1: started, params=3k  seed 1\n"


def test_lines_tell_the_story_of_a_trial():
    screen = console()
    shown = progress_on(screen, 4)
    with shown.showing():
        shown.started(JOB)
        shown.epochs(JOB, [epoch_record(1, 3)])
        shown.epochs(JOB, [epoch_record(2, 3)])
        shown.epochs(JOB, [epoch_record(3, 3, stage="fine-tuning")])
        shown.finished(JOB, [DONE])
    lines = text(screen).splitlines()
    assert lines[:3] == [
        "trial 3: started, rni  λ_S 0.012  b 1.5  target 123k",
        "trial 3: sparse training",
        "trial 3: fine-tuning",
    ]
    assert lines[3].startswith(
        "trial 3: validation accuracy 75.0% (before pruning 50.0%, just after 25.0%), 120k FLOPs; "
    )
    assert len(lines) == 4


def test_lines_tell_the_story_of_a_member():
    screen = console()
    shown = progress_on(screen, 4)
    member, pair = from_scratch_job(), from_scratch_job("from-scratch-3", trial=3, rung=None)
    shown.started(member)
    shown.started(pair)
    shown.epochs(member, [epoch_record(stage="from scratch")])
    shown.finished(member, [outcome("uniform-b100", flops=5000, validation_score=0.5)])
    lines = text(screen).splitlines()
    assert lines[:3] == [
        "uniform-b100: started, α 0.500  100% of the budget",
        "from-scratch-3: started, shape of trial 3",
        "uniform-b100: from scratch",
    ]
    assert lines[3].startswith("uniform-b100: validation accuracy 50.0%, 5k FLOPs; ")


def test_a_score_has_its_own_name_and_form():
    screen = console()
    shown = Progress(screen, ABSOLUTE_ERROR)
    shown.finished(JOB, [DONE, outcome("half", flops=500, validation_score=0.125)])
    assert (
        "validation mean absolute error 0.75 (before pruning 0.5, just after 0.25), 120k FLOPs; "
        "and 0.125 at 500" in text(screen)
    )
    live = console(is_terminal=True)
    with Progress(live, ABSOLUTE_ERROR).showing():
        pass
    assert "accuracy" not in text(screen) + text(live)
    assert "mean absolute error" in text(live)


def test_an_accuracy_of_nothing_after_pruning_is_not_hushed_up():
    screen = console()
    shown = progress_on(screen, 4)
    shown.started(JOB)
    details = DETAILS | {"score_after_pruning": 0.0}
    shown.finished(JOB, [outcome("fine-tuned-3", details=details)])
    assert "(before pruning 50.0%, just after 0.0%)" in text(screen)


@pytest.mark.parametrize("state", ["failed", "stopped early", "infeasible"])
def test_an_ending_is_one_line_with_its_reason(state: State):
    screen = console()
    shown = progress_on(screen, 4)
    shown.started(JOB)
    shown.ended(JOB, Ending(state, "the loss is [nan]"))
    assert text(screen).splitlines()[-1] == f"trial 3: {state}: the loss is [nan]"


def test_by_products_are_told_beside_the_trials_own_network():
    screen = console()
    half = outcome("fine-tuned-3-t50", trial=3, flops=60_000, validation_score=0.5)
    progress_on(screen, 4).finished(JOB, [DONE, half])
    (line,) = text(screen).splitlines()
    assert "validation accuracy 75.0%" in line
    assert "120k FLOPs; and 50.0% at 60k; " in line


def test_a_repetition_is_told_from_its_trial():
    screen = console()
    progress_on(screen, 4).started(dataclasses.replace(JOB, repeat=2))
    assert text(screen).startswith("trial 3, seed 2: started, ")


def test_a_tempered_shape_is_told_by_how_much_it_keeps():
    screen = console()
    job = from_scratch_job("tempered-0", origin="tempered", trial=3, rung=0.5, rho=0.25)
    progress_on(screen, 4).started(job)
    assert text(screen) == "tempered-0: started, ρ 0.25 of trial 3  50% of the budget\n"


def test_a_long_line_is_not_broken():
    screen = console()
    progress_on(screen, 4).ended(JOB, Ending("failed", "because " * 60))
    assert len(text(screen).splitlines()) == 1


def test_a_terminal_shows_what_is_going_on():
    screen = console(is_terminal=True)
    shown = progress_on(screen, 4)
    with shown.showing():
        shown.started(JOB)
        shown.epochs(JOB, [epoch_record(1, 2, validation_score=0.625)])
    whole = text(screen)
    for heading in ("job", "what", "stage", "progress", "validation", "FLOPs"):
        assert heading in whole
    for word in ("trial 3", "λ_S 0.012", "target 123k", "sparse training", "━", "62.5%", "left"):
        assert word in whole


def test_a_terminal_shows_what_is_done_and_no_lines():
    screen = console(is_terminal=True)
    shown = progress_on(screen, 4)
    with shown.showing():
        shown.started(JOB)
        shown.finished(JOB, [DONE])
        shown.started(from_scratch_job())
        shown.ended(from_scratch_job(), Ending("failed", "no [luck]"))
    whole = text(screen)
    for word in ("75.0%", "120k", "uniform-b100", "failed: no [luck]", "1 done"):
        assert word in whole
    assert "started" not in whole


def test_more_jobs_than_fit_show_the_latest():
    screen = console(is_terminal=True)
    shown = progress_on(screen, 4)
    with shown.showing():
        for number in range(40):
            shown.started(trial_job(number))
    whole = text(screen)
    assert "trial 39" in whole
    assert "trial 16" in whole
    assert "trial 15" not in whole


def test_the_time_left_is_that_of_the_epochs_left(clock: Clock):
    screen = console()
    shown = progress_on(screen, 10)
    shown.finished(trial_job(2), [outcome("fine-tuned-2")])
    assert text(screen).splitlines()[-1].endswith("; ")
    shown.started(JOB)
    for step in (1, 2):
        clock.ahead += 5
        shown.epochs(JOB, [epoch_record(step, 2)])
    shown.finished(JOB, [DONE])
    assert text(screen).splitlines()[-1].endswith("; about 40 s left")
    shown.expect(60)
    shown.finished(JOB, [DONE])
    assert text(screen).splitlines()[-1].endswith("; about 5 min left")
    shown.expect(3600)
    shown.finished(JOB, [DONE])
    assert text(screen).splitlines()[-1].endswith("; about 5.0 h left")


def test_no_time_is_left_when_more_epochs_ran_than_expected(clock: Clock):
    screen = console()
    shown = progress_on(screen, 1)
    for step in (1, 2, 3):
        clock.ahead += 5
        shown.epochs(JOB, [epoch_record(step, 3)])
    shown.finished(JOB, [DONE])
    assert text(screen).splitlines()[-1].endswith("about 0 s left")


def test_epochs_of_an_earlier_process_take_no_time_of_this_one(clock: Clock):
    """Eight of ten epochs are over when this process begins; the ninth takes 5 s."""
    screen = console()
    shown = progress_on(screen, 10)
    shown.started(JOB)
    shown.epochs(JOB, [epoch_record(step, 10) for step in range(1, 9)])
    shown.finished(JOB, [DONE])
    assert text(screen).splitlines()[-1].endswith("; ")
    clock.ahead += 5
    shown.started(other := trial_job(4))
    shown.epochs(other, [epoch_record(1, 2)])
    shown.finished(other, [DONE])
    assert text(screen).splitlines()[-1].endswith("; about 5 s left")


def test_what_ended_before_its_last_epoch_is_expected_no_more(clock: Clock):
    screen = console()
    shown = progress_on(screen, 10)
    shown.started(JOB)
    clock.ahead += 5
    shown.epochs(JOB, [epoch_record(1, 8)])
    shown.ended(JOB, Ending("stopped early", "others were better"))
    shown.finished(from_scratch_job(), [outcome("uniform-b100")])
    assert text(screen).splitlines()[-1].endswith("; about 10 s left")


def test_time_goes_by_the_clock_that_is_given():
    """What another process did is shown as late as one likes: its own times count."""
    screen, seconds = console(), 1000.0
    shown = progress_on(screen, 4, now=lambda: seconds)
    shown.started(JOB)
    seconds += 5
    shown.epochs(JOB, [epoch_record(1, 4)])
    shown.finished(JOB, [DONE])
    assert text(screen).splitlines()[-1].endswith("; about 15 s left")


def test_a_line_a_minute_says_how_far_a_study_is():
    """One for all jobs together, of the one that was just heard of; the first after a minute."""
    screen, seconds = console(), 0.0
    shown = progress_on(screen, 100, now=lambda: seconds)
    other = trial_job(4)
    for job in (JOB, other):
        shown.started(job)
        shown.epochs(job, [epoch_record(1, 50)])
    said = len(text(screen).splitlines())
    lines: list[tuple[float, str]] = []
    for step in range(2, 20):
        for job in (JOB, other):
            seconds += 10
            shown.epochs(job, [epoch_record(step, 50, validation_score=step / 100)])
            lines += [(seconds, line) for line in text(screen).splitlines()[said + len(lines) :]]
    assert [at for at, _ in lines] == [60, 120, 180, 240, 300, 360]
    assert lines[0][1] == (
        "8 of 100 epochs; trial 4: sparse training, validation accuracy 4.0%; about 12 min left"
    )


def test_a_line_a_minute_is_said_also_while_an_epoch_takes_hours(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(terminal_progress, "_LOOK_SECONDS", 0.01)
    screen = console()
    shown = progress_on(screen, 100)
    with shown.showing():
        shown.epochs(JOB, [epoch_record(1, 50)])
        said = len(text(screen).splitlines())
        for number in (1, 2):
            clock.ahead += 60
            eventually(lambda n=number: len(text(screen).splitlines()) == said + n, 30)
    clock.ahead += 60
    time.sleep(0.1)
    lines = text(screen).splitlines()[said:]
    assert len(lines) == 2
    assert all(line.startswith("1 of 100 epochs; trial 3: sparse training, ") for line in lines)


def test_the_line_of_a_minute_tells_the_best_network_but_not_the_base():
    screen, seconds = console(), 0.0
    shown = progress_on(screen, 9, now=lambda: seconds)
    base = from_scratch_job("base", origin="base")
    shown.finished(base, [outcome("base", origin="base", flops=2_000_000, validation_score=0.99)])
    shown.started(JOB)
    shown.scored(JOB, "oracle", 1, 400)
    seconds += 60
    shown.scored(JOB, "oracle", 2, 400)
    assert text(screen).splitlines()[-1] == "1 of 10 epochs; trial 3: oracle 2 of 400"
    shown.finished(JOB, [DONE])
    seconds += 60
    shown.epochs(trial_job(4), [epoch_record(1, 2, validation_score=0.5)])
    last = text(screen).splitlines()[-1]
    assert (
        "trial 4: sparse training, validation accuracy 50.0%; best network 75.0% at 120k FLOPs; "
        in last
    )


def test_a_terminal_has_its_table_and_no_line_a_minute():
    screen, seconds = console(is_terminal=True), 0.0
    shown = progress_on(screen, 9, now=lambda: seconds)
    for step in (1, 2, 3):
        seconds += 100
        shown.epochs(JOB, [epoch_record(step, 9)])
    assert text(screen) == ""


def test_another_process_that_goes_on_has_a_minute_of_its_own():
    screen, seconds = console(), 0.0
    shown = progress_on(screen, 9, now=lambda: seconds)
    shown.epochs(JOB, [epoch_record(1, 9)])
    seconds += 1000
    shown.begun(ACCURACY)
    shown.epochs(JOB, [epoch_record(step, 9) for step in (1, 2)])
    assert len(text(screen).splitlines()) == 1


def test_time_counts_anew_when_another_process_goes_on(clock: Clock):
    screen = console()
    shown = progress_on(screen, 4)
    shown.started(JOB)
    clock.ahead += 1000
    shown.epochs(JOB, [epoch_record(1, 4)])
    shown.begun(ACCURACY)
    shown.expect(3)
    clock.ahead += 5
    shown.epochs(JOB, [epoch_record(2, 4)])
    shown.finished(JOB, [DONE])
    assert text(screen).splitlines()[-1].endswith("; about 10 s left")
