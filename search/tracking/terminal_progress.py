"""What a person sees while a search runs: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text

from pruning.cost import format_count
from pruning.scaling_factors.gating import GRANULARITIES
from search.tasks.score import ACCURACY, Score
from search.terminal.durations import duration_text
from search.terminal.text_table import text_table
from search.tracking.epoch_count import EpochCount
from search.trials.jobs import Ending, EpochRecord, FromScratchJob, Job, Observer, Outcome, TrialJob
from search.trials.pareto import best, without_base

_SHOWN_ROWS = 24
_SECONDS_PER_LINE = 60.0
"""Between the lines that say how far a study is, where the output is no terminal."""

_LOOK_SECONDS = 1.0
"""So often it is looked whether such a line is due while nothing is heard of any job."""


@dataclass
class _Row:
    """One job as it stands."""

    job: Job
    state: str = "starting"
    value: float | None = None
    outcome: Outcome | None = None


class Progress(Observer):
    """Shows every job: a table on a terminal, elsewhere a line when one begins, changes or ends.

    There, a line a minute says how far the study is: epochs, scores, time left.

    score: what networks are measured by.
    now: seconds since some moment, by default of this machine's clock; who passes on what another
    process did, or does, gives the time at which it happened.
    """

    def __init__(
        self,
        console: Console,
        score: Score = ACCURACY,
        now: Callable[[], float] | None = None,
    ) -> None:
        self._console, self._now = console, now or time.monotonic
        self._epochs = EpochCount()
        self.begun(score)
        self._rows: dict[str, _Row] = {}
        self._last_row: _Row | None = None
        self._saying = threading.Lock()
        self._best: Outcome | None = None
        self._num_done = 0

    @contextmanager
    def showing(self) -> Iterator[None]:
        """The live table inside the block, if the console is a terminal; else lines, see above."""
        if not self._console.is_terminal:
            with self._saying_each_minute():
                yield
            return
        live = Live(
            get_renderable=self._render, console=self._console, refresh_per_second=4, transient=True
        )
        with live:
            yield

    @contextmanager
    def _saying_each_minute(self) -> Iterator[None]:
        """Also while no epoch ends."""
        is_over = threading.Event()

        def say() -> None:
            with suppress(OSError):  # of a reader that is gone, whom the next epoch tells of
                while not is_over.wait(_LOOK_SECONDS):
                    if self._last_row is not None:
                        self._say_how_far(self._last_row)

        thread = threading.Thread(target=say, name="a line a minute", daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()

    def begun(self, score: Score) -> None:
        """A process has begun, or continued, the search just now: time counts from here."""
        self._score, self._line_at = score, self._now()
        self._epochs.begin(self._line_at)

    def expect(self, epochs: int) -> None:
        """Correct the number of epochs that are still to come."""
        self._epochs.expect(epochs)

    def started(self, job: Job) -> None:
        self._rows[job.key] = _Row(job)
        self._changed(f"{_title(job)}: started, {_what(job)}")

    def epochs(self, job: Job, records: Sequence[EpochRecord]) -> None:
        row, record = self._rows.setdefault(job.key, _Row(job)), records[-1]
        changed_stage = row.state != record.stage
        is_replay = len(records) > 1
        self._epochs.count(job.key, record.step, record.num_steps, is_replay=is_replay)
        row.state = record.stage
        row.value = record.validation_score
        self._changed(f"{_title(job)}: {record.stage}" if changed_stage else None)
        self._say_how_far(row)

    def scored(self, job: Job, stage: str, done: int, total: int) -> None:
        row = self._rows.setdefault(job.key, _Row(job))
        is_new = not row.state.startswith(stage)
        row.state = f"{stage} {done:,} of {total:,}"
        self._changed(f"{_title(job)}: {stage}" if is_new else None)
        self._say_how_far(row)

    def finished(self, job: Job, outcomes: Sequence[Outcome]) -> None:
        row, outcome = self._rows.setdefault(job.key, _Row(job)), outcomes[0]
        self._epochs.settle(job.key, is_finished=True)
        self._num_done += row.outcome is None
        row.state, row.outcome = "done", outcome
        rivals = without_base([*filter(None, [self._best]), outcome])
        self._best = best(rivals, self._score)
        row.value, score = outcome.validation_score, self._score
        pruned = outcome.details.get("score_after_pruning")
        before = outcome.details.get("score_before_pruning")
        how = ""
        if before is not None and pruned is not None:
            how = f" (before pruning {score.text(before, 1)}, just after {score.text(pruned, 1)})"
        further = "".join(f"; and {self._found(product)}" for product in outcomes[1:])
        self._changed(
            f"{_title(job)}: validation {score.name} {score.text(row.value, 1)}{how}, "
            f"{format_count(outcome.flops)} FLOPs{further}; {self._time_left}"
        )

    def ended(self, job: Job, ending: Ending) -> None:
        row = self._rows.setdefault(job.key, _Row(job))
        self._epochs.settle(job.key, is_finished=False)
        row.state = str(ending)
        self._changed(f"{_title(job)}: {ending}")

    @property
    def _time_left(self) -> str:
        """Such as "about 3 min left"; empty before there is anything to go by."""
        seconds = self._epochs.seconds_left(self._now())
        return "" if seconds is None else f"about {duration_text(seconds)} left"

    def _found(self, outcome: Outcome) -> str:
        shown = self._score.text(outcome.validation_score, 1)
        return f"{shown} at {format_count(outcome.flops)}"

    def _say_how_far(self, row: _Row) -> None:
        """The line of this minute, unless there was one; row: the job that was heard of last."""
        self._last_row = row
        with self._saying:
            now = self._now()
            if self._console.is_terminal or now - self._line_at < _SECONDS_PER_LINE:
                return
            self._line_at = now
        done, left, score = self._epochs.done, self._epochs.remaining, self._score
        value = "" if row.value is None else f", validation {score.name} {score.text(row.value, 1)}"
        leading = self._best
        parts = [
            f"{done:,} of {done + left:,} epochs",
            f"{_title(row.job)}: {row.state}{value}",
            "" if leading is None else f"best network {self._found(leading)} FLOPs",
            self._time_left,
        ]
        self._changed("; ".join(part for part in parts if part))

    def _changed(self, line: str | None) -> None:
        if line is not None and not self._console.is_terminal:
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _render(self) -> RenderableType:
        numbers = (f"validation\n{self._score.name}", "FLOPs")
        table = text_table("job", "what", "stage", "progress", *numbers, numbers=numbers)
        shown = list(islice(reversed(self._rows.values()), _SHOWN_ROWS))
        for row in reversed(shown):
            step, num_steps = self._epochs.steps(row.job.key)
            table.add_row(
                _title(row.job),
                _what(row.job),
                Text(row.state, style=_style(row.state)),
                ProgressBar(total=num_steps, completed=step, width=18),
                "" if row.value is None else self._score.text(row.value, 1),
                "" if row.outcome is None else format_count(row.outcome.flops),
            )
        footer = Text(f"\n{self._num_done} done   {self._time_left}", style="dim")
        return Group(table, footer)


def _title(job: Job) -> str:
    if isinstance(job, FromScratchJob):
        return job.key
    return f"trial {job.number}" + (f", seed {job.repeat}" if job.repeat else "")


def _what(job: Job) -> str:
    if isinstance(job, TrialJob):
        proposal = job.proposal
        target = proposal.target_flops
        goal = "" if target is None else f"target {format_count(target)}"
        schedule = "" if proposal.schedule == "one-shot" else proposal.schedule
        settings = "  ".join(f"{_symbol(n)} {v:.2g}" for n, v in proposal.settings.items())
        power = proposal.cost_exponent
        weighed = f"score / cost^{power:g}" if power else ""
        parts = (proposal.criterion, schedule, weighed, settings, goal)
        return "  ".join(part for part in parts if part)
    if job.origin == "base":
        return "the network itself"
    if job.budget:
        return f"{job.budget}  seed {job.seed}"
    if job.rung is None:
        longer = ", for longer" if job.equal_compute else ""
        return f"shape of trial {job.trial}{longer}"
    if job.rho is not None:
        return f"ρ {job.rho:.2f} of trial {job.trial}  {job.rung:.0%} of the budget"
    return f"α {job.alpha:.3f}  {job.rung:.0%} of the budget"


def _symbol(setting: str) -> str:
    """How the papers write a setting, such as rni.strength."""
    owner, _, name = setting.partition(".")
    if owner in GRANULARITIES:
        return f"λ_{owner}"
    return {"strength": "λ_S", "shift": "b"}.get(name, name)


def _style(state: str) -> str:
    if state == "done":
        return "green"
    if state.startswith("failed"):
        return "red"
    return "yellow" if state.startswith(("stopped early", "infeasible")) else "cyan"
