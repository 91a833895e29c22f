"""Who wins within each budget, by how much, and whether that means anything.

Contestants are chosen by their score in validation; that on the test split is reported and chooses
nothing.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pruning.cost import Bound, Budget, format_count
from pruning.lazy_imports import lazy_modules
from search.results.styles import style_of
from search.tasks.score import ACCURACY, Score
from search.trials.jobs import ORIGINS, Origin, Outcome

(scipy_stats,) = lazy_modules("scipy.stats")

SIGNIFICANCE = 0.05
"""A difference that chance brings about less often than this, two-sided, is called a win."""

_NOTABLE = 0.05
"""Share by which the compute or images of two networks may differ without it being told."""


@dataclass(frozen=True)
class Contestant:
    """One network, trained once or with several seeds; `runs` are those, at least one.

    Costs and scores are means: repetitions of a pruned network may differ in their widths.
    """

    runs: tuple[Outcome, ...]

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
    def num_seeds(self) -> int:
        """How often it was trained."""
        return len(self.runs)

    @property
    def validation_score(self) -> float:
        """The mean; it decides who competes."""
        return self._mean(lambda run: run.validation_score)

    @property
    def test_score(self) -> float:
        """The mean."""
        return self._mean(lambda run: run.test_score)

    @property
    def deviation(self) -> float:
        """Of the test score over the seeds (of a sample); 0 of a single run."""
        return deviation([run.test_score for run in self.runs])

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
        return score.mean_text(self.test_score, self.deviation if self.num_seeds > 1 else None)

    def _mean(self, value: Callable[[Outcome], float]) -> float:
        return statistics.fmean(map(value, self.runs))


def deviation(values: Sequence[float]) -> float:
    """The standard deviation of a sample; 0 of a single value."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def contestants(outcomes: Iterable[Outcome]) -> list[Contestant]:
    """Outcomes gathered by network, in their order: those that differ in seeds alone are one."""
    runs_of: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        runs_of.setdefault(outcome.network, []).append(outcome)
    return [Contestant(tuple(runs)) for runs in runs_of.values()]


@dataclass(frozen=True)
class Contest:
    """The best network of each kind within one budget.

    label: the budget in words.  limits: in absolute numbers.
    entries: per kind (from-scratch, from-scratch-longer …) who competes for it.
    score: what they are ranked by.
    """

    label: str
    limits: Budget
    entries: Mapping[str, Contestant]
    score: Score = ACCURACY

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
            kind: Contestant(tuple(map(Outcome.from_mapping, entry["runs"])))
            for kind, entry in content["entries"].items()
        }
        bounds = tuple(Bound(**bound) for bound in content["limits"]["bounds"])
        score = Score.from_mapping(content.get("score"))
        return cls(content["label"], Budget(bounds), entries, score)


def contests(
    everything: Sequence[Outcome], rungs: Sequence[tuple[str, Budget]], score: Score
) -> tuple[Contest, ...]:
    """For each rung, a label and an absolute budget, the best of each kind by validation."""
    networks = contestants(everything)
    return tuple(
        Contest(label, budget, _best_within(networks, budget, score), score)
        for label, budget in rungs
    )


def _ranked(entries: Iterable[Contestant], score: Score) -> list[Contestant]:
    return sorted(entries, key=lambda entry: -score.key(entry.test_score))


def _best_within(
    everything: Sequence[Contestant], budget: Budget, score: Score
) -> dict[str, Contestant]:
    """The best of each kind by validation.

    Where some of a kind were trained with several seeds they alone compete: the luckiest of
    many single runs would look better than the mean of any.
    """
    best: dict[str, Contestant] = {}
    networks = within(everything, budget)
    for kind in kinds(networks):
        same = [c for c in networks if c.kind == kind]
        repeated = [c for c in same if c.num_seeds > 1]
        competing = repeated or same
        best[kind] = max(competing, key=lambda c: (score.key(c.validation_score), -c.flops))
    return best


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


def _words(entry: Contestant) -> str:
    name, length = style_of(entry.origin).words, _length(entry)
    return f"{name} at {length}" if length else name


def _length(entry: Contestant) -> str:
    """How long it trained, where networks like it trained for different times."""
    if entry.equal_compute:
        return "equal compute"
    return "equal epochs" if entry.origin == "from-scratch" else ""


@dataclass(frozen=True)
class Comparison:
    """Two contestants, the one with the better mean test score first.

    By Welch's t-test over seeds where both were trained more than once, otherwise by two
    standard errors of the difference on `num_test` images: the binomial error of both, where the
    score counts samples. Of other scores nothing tells then what chance does. Within a budget the
    two are picked by the numbers that are tested, which makes p a little small where many kinds
    compete.
    """

    first: Contestant
    second: Contestant
    num_test: int
    score: Score

    @classmethod
    def of(cls, one: Contestant, other: Contestant, num_test: int, score: Score) -> Comparison:
        """The two in the right order."""
        first, second = _ranked((one, other), score)
        return cls(first, second, num_test, score)

    @property
    def lead(self) -> float:
        """How far the first is ahead, never negative."""
        return abs(self.first.test_score - self.second.test_score)

    @property
    def p_value(self) -> float | None:
        """Of Welch's t-test, two-sided; None where seeds do not allow one.

        Equal numbers from every seed allow none: their deviation of 0 would make anything certain.
        """
        samples = [[run.test_score for run in c.runs] for c in (self.first, self.second)]
        deviates = any(max(sample) - min(sample) > 1e-12 for sample in samples)
        if min(map(len, samples)) < 2 or not deviates:
            return None

        one, other = ((c.test_score, c.deviation, c.num_seeds) for c in (self.first, self.second))
        return float(scipy_stats.ttest_ind_from_stats(*one, *other, equal_var=False).pvalue)

    @property
    def margin(self) -> float | None:
        """Two standard errors of the difference of two accuracies on `num_test` images each.

        None where a test over seeds answers, or nothing does.
        """
        if self.p_value is not None or not self.score.counts_samples:
            return None
        shares = self.first.test_score, self.second.test_score
        return 2 * math.sqrt(sum(share * (1 - share) for share in shares) / self.num_test)

    @property
    def is_clear(self) -> bool:
        """Whether the lead is more than chance would explain."""
        p_value, margin = self.p_value, self.margin
        if p_value is not None:
            return p_value < SIGNIFICANCE
        return margin is not None and self.lead > margin

    @property
    def is_told(self) -> bool:
        """Whether anything tells what chance would explain."""
        return self.p_value is not None or self.margin is not None

    @property
    def test(self) -> str:
        """What the answer rests on."""
        p_value = self.p_value
        if self.margin is not None:
            return f"± two standard errors on {self.num_test:,} test images"
        if p_value is None:
            return "without several runs of both nothing tells what is chance"
        shown = f"p = {p_value:.2g}" if p_value >= 0.0001 else "p < 0.0001"
        seeds = f"{self.first.num_seeds} and {self.second.num_seeds} seeds"
        return f"Welch's t-test over {seeds}, {shown}"

    def text(self, name: Callable[[Contestant], str] = _words) -> str:
        """The answer in words; where compute differs by more than 5 %, how much of it was spent."""
        first, second = name(self.first), name(self.second)
        ahead = self.score.difference_text(self.lead, self.margin)
        if self.is_clear:
            answer = f"{first} won, {ahead} ahead of {second}"
        elif not self.is_told:
            answer = f"{first} is {ahead} ahead of {second}"
        else:
            answer = f"no difference beyond chance; {first} is {ahead} ahead of {second}"
        return f"{answer}{self._compute()} ({self.test})"

    def _compute(self) -> str:
        if not self.first.compute or not self.second.compute:
            return ""
        ratio = self.first.compute / self.second.compute
        if abs(ratio - 1) <= _NOTABLE:
            return ""
        return f", with {ratio:.3g} times the compute"


def verdict(
    contests: Sequence[Contest], everything: Sequence[Outcome], num_test: int, score: Score
) -> list[str]:
    """Lines: the plain narrow network where it is first, each budget, each shape both ways."""
    lines = [_contest_line(contest, num_test) for contest in contests]
    return [
        *headline(contests),
        *lines,
        *_pair_lines(everything, num_test, score),
        _caveat(everything),
    ]


def headline(contests: Sequence[Contest]) -> list[str]:
    """That the plain narrow network is first, where it is: one line or none."""
    winners = [contest.winner for contest in contests]
    num_first = sum(winner is not None and winner.origin == "uniform" for winner in winners)
    if not num_first:
        return []
    return [
        f"The uniformly narrowed network came first at {num_first} of {len(contests)} budgets: "
        "there the search found no better shape."
    ]


def _contest_line(contest: Contest, num_test: int) -> str:
    ranking = contest.ranking
    if len(ranking) < 2:
        only = f", just {_words(ranking[0])}" if ranking else ""
        return f"{contest.label}: nothing to compare{only}."
    return f"{contest.label}: {Comparison(ranking[0], ranking[1], num_test, contest.score).text()}."


def _pair_lines(everything: Sequence[Outcome], num_test: int, score: Score) -> list[str]:
    """Fine-tuned against the very same shape from scratch."""
    networks = contestants(everything)
    return [
        f"Shape of {tuned.key}, {format_count(tuned.flops)} FLOPs: "
        f"{Comparison.of(tuned, other, num_test, score).text(short_name)}."
        for tuned in networks
        for other in networks
        if tuned.origin == "fine-tuned" and other.key in _keys_of_pairs(tuned)
    ]


def _keys_of_pairs(tuned: Contestant) -> tuple[str, str]:
    key = "from-scratch" + tuned.key.removeprefix("fine-tuned")
    return key, f"{key}-longer"


def _caveat(everything: Sequence[Outcome]) -> str:
    most = max((entry.num_seeds for entry in contestants(everything)), default=1)
    if most > 1:
        runs = f"Up to {most} training runs each; a win is a difference at the level of "
        runs += f"{100 * SIGNIFICANCE:g} %, two-sided."
    else:
        runs = "One training run each: --seeds tells how much of a lead is chance."
    if any(outcome.equal_compute for outcome in everything):
        runs += (
            " Equal compute goes as far as --compute-limit times the epochs; the table tells what "
            "was spent."
        )
    return runs + _unequal_epochs(everything)


def _unequal_epochs(everything: Sequence[Outcome]) -> str:
    """What equal epochs amount to where --scratch-epochs makes them others."""
    tuned, scratch = (
        [o.images for o in everything if o.origin == origin and o.images and not o.equal_compute]
        for origin in ("fine-tuned", "from-scratch")
    )
    if not tuned or not scratch:
        return ""
    ratio = statistics.fmean(scratch) / statistics.fmean(tuned)
    if abs(ratio - 1) <= _NOTABLE:
        return ""
    return (
        f" Epochs are not equal here: by --scratch-epochs, training from scratch saw {ratio:.2g} "
        "times the images."
    )


def _equal(first: Contestant, second: Contestant) -> bool:
    return math.isclose(first.test_score, second.test_score, abs_tol=1e-12)
