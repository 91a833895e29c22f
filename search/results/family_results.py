"""What came of a family study: every run, and the curve of each kind of network."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.table import Table

from pruning.cost import format_count
from search.results.contests import deviation
from search.results.recommendation import against_base
from search.results.report import readable_results
from search.tasks.score import ACCURACY, Score
from search.terminal.text_table import text_table
from search.trials.jobs import Outcome


@dataclass(frozen=True)
class FamilyRun:
    """One trained network.

    kind: as it was asked for, such as tempered:0.5, or fine-tuned.  place: what it shares with
    the runs that are averaged: its budget, or the trial whose shape it has.
    search: that a fine-tuned network comes from, empty for others.
    """

    kind: str
    place: str
    seed: int
    outcome: Outcome
    search: str = ""


@dataclass(frozen=True)
class Point:
    """The mean of all runs of one kind at one place of the ladder.

    The test score and its deviation (of a sample; 0 of a single run): each run was measured once,
    and none is left out. score_against_base: how much better it is than that of the base network;
    None where that was not trained.
    """

    kind: str
    place: str
    num_runs: int
    params: float
    flops: float
    test_score: float
    deviation: float
    score_against_base: float | None = None


@dataclass(frozen=True)
class FamilyStudy:
    """Everything that a finished study knows.

    num_test: images of the test split.  score: what networks are measured by.
    base_network: the base network, trained by the same recipe; None where it was not trained.
    """

    runs: tuple[FamilyRun, ...]
    num_test: int
    failures: dict[str, str]
    notes: tuple[str, ...]
    files: tuple[Path, ...]
    score: Score = ACCURACY
    base_network: Outcome | None = None

    @property
    def base(self) -> tuple[Point, ...]:
        """The base network, where it was trained: the first row of every table."""
        return () if self.base_network is None else (self._point("base", "", [self.base_network]),)

    @property
    def points(self) -> tuple[Point, ...]:
        """Kind by kind in the order of the runs, each by rising parameters."""
        groups: dict[tuple[str, str], list[Outcome]] = {}
        for run in self.runs:
            groups.setdefault((run.kind, run.place), []).append(run.outcome)
        points = [self._point(*key, outcomes) for key, outcomes in groups.items()]
        kinds = list(dict.fromkeys(point.kind for point in points))
        return tuple(sorted(points, key=lambda p: (kinds.index(p.kind), p.params)))

    @property
    def curves(self) -> dict[str, list[tuple[float, float, float]]]:
        """Per kind its points as (parameters, what `measure` names, its deviation), shares in %.

        The base network is the first, where it was trained.
        """
        curves: dict[str, list[tuple[float, float, float]]] = {}
        for point in (*self.base, *self.points):
            value, spread = self.measured(point.test_score), point.deviation
            row = (point.params, self.score.plotted(value), self.score.plotted(spread))
            curves.setdefault(point.kind, []).append(row)
        return curves

    @property
    def measure(self) -> str:
        """What tables and figures show: the error rate where samples are right or wrong."""
        return "test error" if self.score.counts_samples else f"test {self.score.name}"

    def measured(self, test_score: float) -> float:
        """The test score as `measure` names it."""
        return 1 - test_score if self.score.counts_samples else test_score

    @property
    def measured_score(self) -> Score:
        """The kind of what `measured` gives: a rate of errors, or the score itself."""
        score = self.score
        return replace(score, direction="minimize") if score.counts_samples else score

    def _point(self, kind: str, place: str, outcomes: Sequence[Outcome]) -> Point:
        test_scores = [outcome.test_score for outcome in outcomes]
        mean = statistics.mean(test_scores)
        return Point(
            kind=kind,
            place=place,
            num_runs=len(outcomes),
            params=statistics.mean(outcome.params for outcome in outcomes),
            flops=statistics.mean(outcome.flops for outcome in outcomes),
            test_score=mean,
            deviation=deviation(test_scores),
            score_against_base=against_base(mean, self.base_network, self.score),
        )

    @classmethod
    def read(cls, file: Path) -> FamilyStudy:
        """What the file of a finished study holds.

        Raises SearchStateError where there is none that can be read.
        """
        with readable_results(file) as content:
            return replace(cls.from_mapping(content), files=(file,))

    @classmethod
    def from_mapping(cls, content: Mapping[str, Any]) -> FamilyStudy:
        """The inverse of `to_mapping`; KeyError, TypeError or ValueError if it is none."""
        runs = [
            FamilyRun(**{**run, "outcome": Outcome.from_mapping(run["outcome"])})
            for run in content["runs"]
        ]
        num_test, notes = int(content["num_test"]), tuple(content["notes"])
        score = Score.from_mapping(content.get("score"))
        base = content.get("base_network")
        return cls(
            *(tuple(runs), num_test, dict(content["failures"]), notes, (), score),
            None if base is None else Outcome.from_mapping(base),
        )

    def to_mapping(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "num_test": self.num_test,
            "score": self.score.to_mapping(),
            "base_network": self.base_network and asdict(self.base_network),
            "points": [asdict(point) for point in self.points],
            "runs": [asdict(run) for run in self.runs],
            "failures": self.failures,
            "notes": list(self.notes),
        }


def study_table(study: FamilyStudy) -> Table:
    """One row per point: the mean on the test split and its deviation over the runs.

    The first is that of the base network, if there is one: the others say what they gave up.
    """
    numbers = ["params", "FLOPs", study.measure, *["against base"] * bool(study.base), "runs"]
    table = text_table("kind", "place", *numbers, numbers=numbers)
    for point in (*study.base, *study.points):
        spread = point.deviation if point.num_runs > 1 else None
        table.add_row(
            point.kind,
            point.place,
            format_count(point.params),
            format_count(point.flops),
            study.score.mean_text(study.measured(point.test_score), spread, decimals=2),
            *[_gave_up(point, study)] * bool(study.base),
            str(point.num_runs),
        )
    return table


def _gave_up(point: Point, study: FamilyStudy) -> str:
    if point in study.base:
        return "–"
    return study.measured_score.gain_text(point.score_against_base)
