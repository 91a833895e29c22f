"""One trial of a search made again, beside what it came to in the search."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from copycat.architecture import read
from pruning.cost import format_count
from pruning.errors import SearchStateError
from search.config.search_config import SearchConfig
from search.scheduling.optuna_study import recorded_study
from search.storage.folder_lock import require_free
from search.studies.search_stages import trial_space
from search.studies.search_study import open_context
from search.tasks.score import ACCURACY, Score
from search.terminal.text_table import text_table
from search.tracking.terminal_progress import Progress
from search.trials.artifacts import surroundings
from search.trials.jobs import EpochRecord, Outcome, TrialJob
from search.trials.trial import perform


@dataclasses.dataclass(frozen=True)
class Rerun:
    """What a trial came to in its search, and what it comes to now.

    before: why it came to nothing in the search; empty where it did not.
    moved: what is other than it was then, such as the processor; last digits depend on it.
    score: what the networks are measured by.
    """

    first: tuple[Outcome, ...]
    again: tuple[Outcome, ...]
    before: str
    moved: tuple[str, ...] = ()
    score: Score = ACCURACY

    @property
    def is_unfinished(self) -> bool:
        """Whether the search has no result to compare with."""
        return not self.first

    @property
    def is_equal(self) -> bool:
        """Whether shapes, costs and scores are the same to the last bit."""
        return list(map(_numbers, self.first)) == list(map(_numbers, self.again))


def rerun(config: SearchConfig, number: int, elsewhere: SearchConfig, console: Console) -> Rerun:
    """Make trial `number` of the search `config` again, under the folder of `elsewhere`.

    It is not stopped early. Raises SearchStateError if the search has no such trial.
    """
    require_free(config.directory, "search")
    record = recorded_study(config.directory, config.study_name, config.study.storage)
    params = record.params(number)
    stored, data = open_context(config, Console(quiet=True))
    proposal = trial_space(stored, data).proposal(params)
    if proposal is None:
        raise SearchStateError(f"trial {number} was stopped before it was proposed in full")
    first = tuple(o for o in record.outcomes if o.trial == number)
    moved: tuple[str, ...] = ()
    if first:
        provenance = read(config.directory / first[0].path).provenance
        torch.set_num_threads(int(provenance.get("threads", torch.get_num_threads())))
        moved = tuple(_moved(provenance, surroundings(stored.device)))
    study = dataclasses.replace(elsewhere.study, early_stopping=False)
    context = dataclasses.replace(stored, config=dataclasses.replace(elsewhere, study=study))
    job = TrialJob(number, proposal)
    score = stored.preflight.score
    progress = Progress(console, score)

    def report(records: Sequence[EpochRecord]) -> None:
        if records:
            progress.epochs(job, records)

    progress.started(job)
    with progress.showing():
        again = perform(job, context, data, report)
    ending = record.endings.get(number)
    return Rerun(first, again, "" if ending is None else ending.why, moved, score)


def _moved(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for name, value in now.items():
        if name in before and before[name] != value:
            yield f"{name} {before[name]} then, {value} now"


def comparison_table(rerun: Rerun) -> Table:
    """One row per network: its numbers in the search and now."""
    numbers = ("FLOPs", "validation", "test", "in the search", "test in the search")
    table = text_table("architecture", *numbers, numbers=numbers)
    before = {outcome.key: outcome for outcome in rerun.first}
    for outcome in rerun.again:
        first = before.get(outcome.key)
        table.add_row(
            outcome.key,
            format_count(outcome.flops),
            *_score_texts(outcome, rerun.score),
            *(("–", "–") if first is None else _score_texts(first, rerun.score)),
        )
    return table


def _score_texts(outcome: Outcome, score: Score) -> list[str]:
    values = outcome.validation_score, outcome.test_score
    return [score.text(value, decimals=4) for value in values]


def _numbers(outcome: Outcome) -> tuple[object, ...]:
    return (
        outcome.key,
        outcome.profile,
        outcome.flops,
        outcome.validation_score,
        outcome.test_score,
    )
