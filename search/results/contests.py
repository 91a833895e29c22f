"""Who competes within each budget: networks of each kind, trained once or with several seeds.

Contestants are chosen by the score in validation of their first run; further runs, where there are
any, tell what the choice is worth. The score on the test split is reported and chooses nothing.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pruning.cost import Bound, Budget
from search.results.styles import style_of
from search.tasks.score import ACCURACY, Score
from search.trials.jobs import ORIGINS, Origin, Outcome


@dataclass(frozen=True)
class Contestant:
    """One network, trained once or with several seeds; `runs` are those, at least one, in order.

    is_selected: whether its first run was chosen among others. Its luck is then no measure of the
    network, and further runs alone are `judged`, where there are any.
    Costs and test scores are means over those: repetitions of a pruned network may differ in their
    widths.
    """

    runs: tuple[Outcome, ...]
    is_selected: bool = False

    @property
    def judged(self) -> tuple[Outcome, ...]:
        """The runs that tell what it is worth."""
        return self.runs[1:] if self.is_selected and len(self.runs) > 1 else self.runs

    @property
    def key(self) -> str:
        """Name of the network, without a seed."""
        return self.runs[0].network

    @property
    def origin(self) -> Origin:
        """How its weights came about."""
        return self.runs[0].origin

    @property
    def equal_compute(self) -> bool:
        """Whether it trained longer for costing less."""
        return self.runs[0].equal_compute

    @property
    def kind(self) -> str:
        """What it competes as: its origin, those at equal compute apart."""
        return f"{self.origin}-longer" if self.equal_compute else self.origin

    @property
    def num_judged(self) -> int:
        """How many runs tell what it is worth."""
        return len(self.judged)

    @property
    def validation_score(self) -> float:
        """That of its first run, which decides who competes."""
        return self.runs[0].validation_score

    @property
    def test_score(self) -> float:
        """The mean."""
        return self._mean(lambda run: run.test_score)

    @property
    def deviation(self) -> float:
        """Of the test score over the seeds (of a sample); 0 of a single run."""
        return deviation([run.test_score for run in self.judged])

    @property
    def flops(self) -> float:
        """FLOPs of one forward run."""
        return self._mean(lambda run: run.flops)

    @property
    def compute(self) -> float:
        """Training images × FLOPs of the way to one network; 0 where it is not known."""
        return self._mean(lambda run: run.compute)

    def score_text(self, score: Score) -> str:
        """The test score, with its deviation where there is one to tell."""
        return score.mean_text(self.test_score, self.deviation if self.num_judged > 1 else None)

    def _mean(self, value: Callable[[Outcome], float]) -> float:
        return statistics.fmean(map(value, self.judged))


def deviation(values: Sequence[float]) -> float:
    """The standard deviation of a sample; 0 of a single value."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def contestants(outcomes: Iterable[Outcome]) -> list[Contestant]:
    """Outcomes gathered by network, in their order: those that differ in seeds alone are one."""
    runs_of: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        runs_of.setdefault(outcome.network, []).append(outcome)
    return [Contestant(tuple(sorted(runs, key=_repetition))) for runs in runs_of.values()]


def _repetition(run: Outcome) -> tuple[int, str]:
    """The first run before its repetitions, those in their order."""
    return len(run.key), run.key


@dataclass(frozen=True)
class Contest:
    """The best network of each kind within one budget.

    label: the budget in words.  limits: in absolute numbers.
    entries: per kind (from-scratch, from-scratch-longer …) who competes for it.
    score: what they are ranked by.
    tries: per kind how many networks were tried, of which the best by validation competes.
    """

    label: str
    limits: Budget
    entries: Mapping[str, Contestant]
    score: Score = ACCURACY
    tries: Mapping[str, int] = field(default_factory=dict)

    @property
    def ranking(self) -> list[Contestant]:
        """By the mean test score, best first: this reports, it chooses nothing."""
        return _ranked(self.entries.values(), self.score)

    @property
    def winner(self) -> Contestant | None:
        """The first, or none where nobody competes or two are equally good."""
        ranking = self.ranking
        is_tied = len(ranking) > 1 and _equal(*ranking[:2])
        return ranking[0] if ranking and not is_tied else None

    @classmethod
    def from_mapping(cls, content: Mapping[str, Any]) -> Contest:
        """The inverse of `dataclasses.asdict`."""
        entries = {
            kind: Contestant(
                tuple(map(Outcome.from_mapping, entry["runs"])), entry.get("is_selected", False)
            )
            for kind, entry in content["entries"].items()
        }
        bounds = tuple(Bound(**bound) for bound in content["limits"]["bounds"])
        score = Score.from_mapping(content.get("score"))
        tries = dict(content.get("tries", {}))
        return cls(content["label"], Budget(bounds), entries, score, tries)


def contests(
    everything: Sequence[Outcome], rungs: Sequence[tuple[str, Budget]], score: Score
) -> tuple[Contest, ...]:
    """For each rung, a label and an absolute budget, the best of each kind by validation."""
    networks = contestants(everything)
    return tuple(_contest(networks, label, budget, score) for label, budget in rungs)


def _contest(everything: Sequence[Contestant], label: str, budget: Budget, score: Score) -> Contest:
    """Where some of a kind were trained with several seeds they alone compete, as often tried."""
    entries, tries = {}, {}
    networks = within(everything, budget)
    for kind in kinds(networks):
        same = [c for c in networks if c.kind == kind]
        competing = [c for c in same if len(c.runs) > 1] or same
        chosen = max(competing, key=lambda c: (score.key(c.validation_score), -c.runs[0].flops))
        entries[kind] = replace(chosen, is_selected=len(same) > 1)
        tries[kind] = len(same)
    return Contest(label, budget, entries, score, tries)


def _ranked(entries: Iterable[Contestant], score: Score) -> list[Contestant]:
    return sorted(entries, key=lambda entry: -score.key(entry.test_score))


def within(everything: Iterable[Contestant], budget: Budget) -> list[Contestant]:
    """Those of which each run is within the budget."""
    return [c for c in everything if all(budget.allows(run.cost) for run in c.runs)]


def kinds(networks: Iterable[Contestant]) -> list[str]:
    """The kinds among them, in the order of the origins, at equal epochs first."""
    order = {origin: place for place, origin in enumerate(ORIGINS)}
    keys = {(order.get(c.origin, len(order)), c.equal_compute, c.kind) for c in networks}
    return [kind for *_, kind in sorted(keys)]


def short_name(entry: Contestant) -> str:
    """What a contestant is called in tables."""
    name, length = style_of(entry.origin).name, _length(entry)
    return f"{name}, {length}" if length else name


def in_words(entry: Contestant) -> str:
    """What a contestant is called in sentences."""
    name, length = style_of(entry.origin).words, _length(entry)
    return f"{name} at {length}" if length else name


def _length(entry: Contestant) -> str:
    """How long it trained, where networks like it trained for different times."""
    if entry.equal_compute:
        return "equal compute"
    return "equal epochs" if entry.origin == "from-scratch" else ""


def _equal(first: Contestant, second: Contestant) -> bool:
    return math.isclose(first.test_score, second.test_score, abs_tol=1e-12)
