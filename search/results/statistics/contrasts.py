"""The comparisons that a search makes, fixed before it begins, each with what chance makes of it.

At each rung of the ladder every kind of network against the uniformly narrowed one; each pruned
shape trained from scratch against fine-tuned; at each rung the network to take against the base.
Which networks stand for a kind is decided by validation alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pruning.cost import format_count
from search.results.contests import Contest, Contestant, contestants, in_words
from search.results.statistics.differences import (
    LEVEL,
    Difference,
    holm,
    paired_by_seed,
    welch,
)
from search.results.statistics.test_samples import TestSamples
from search.tasks.score import Score
from search.trials.jobs import Outcome
from search.trials.pareto import best

EQUIVALENT = 0.005
"""Shares that differ by less, with their whole interval, are told to be the same."""

_NOTABLE = 0.05
"""Share by which FLOPs or compute of two networks may differ without it being told."""


@dataclass(frozen=True)
class Contrast:
    """Two networks, or shapes, that are compared.

    place: within what, or of which shape, in words.
    difference: how much better the first one's score on the test split is.
    adjusted_p: its p-value, adjusted by Holm's procedure for all contrasts of the search.
    tries: how many networks of either kind were tried there; the best by validation stands for all.
    """

    place: str
    first: Contestant
    second: Contestant
    difference: Difference
    score: Score
    adjusted_p: float | None = None
    tries: tuple[int, int] = (1, 1)

    @property
    def pair(self) -> tuple[str, str]:
        """Names of the two."""
        return self.first.key, self.second.key

    @property
    def finding(self) -> str:
        """What the numbers come to, in words, of the first."""
        if self.adjusted_p is None:
            return "untested"
        if self.adjusted_p < LEVEL:
            what = "better" if self.difference.value > 0 else "worse"
            return f"{what} network" if self.difference.covers == "networks" else what
        if self.is_equivalent:
            return f"same within {self.score.difference_text(EQUIVALENT)}"
        return "undecided"

    @property
    def is_equivalent(self) -> bool:
        """Whether the whole interval lies within EQUIVALENT of zero; of shares alone."""
        low, high = self.difference.low, self.difference.high
        if not self.score.is_share or low is None or high is None:
            return False
        return -EQUIVALENT <= low <= high <= EQUIVALENT

    @property
    def effect(self) -> str:
        """The difference and its 95 % confidence interval, such as "+0.8 points [−0.3, +1.9]"."""
        told = self.difference
        return self.score.interval_text(told.value, told.low, told.high)

    @property
    def text(self) -> str:
        """One line: effect, finding, what they rest on, and what the first costs."""
        first, second = in_words(self.first), in_words(self.second)
        parts = [f"{self.place}: {first} against {second} {self.effect}: {self.finding}"]
        if self.adjusted_p is not None:
            parts.append(f"{p_text(self.adjusted_p)}, {self.difference.test}")
        if costs := self._costs_text():
            parts.append(costs)
        if max(self.tries) > 1:
            parts.append(f"best of {self.tries[0]} against best of {self.tries[1]} by validation")
        return "; ".join(parts) + "."

    @property
    def costs(self) -> dict[str, tuple[float, float]]:
        """FLOPs and training compute of both; zeros where they are not known."""
        return {
            "FLOPs": (self.first.flops, self.second.flops),
            "training compute": (self.first.compute, self.second.compute),
        }

    def _costs_text(self) -> str:
        """How many times the FLOPs and the training compute, where they differ."""
        told = [
            f"{one / other:.3g} times the {name}"
            for name, (one, other) in self.costs.items()
            if one and other and abs(one / other - 1) > _NOTABLE
        ]
        return f"at {' and '.join(told)}" if told else ""

    def to_mapping(self) -> dict[str, Any]:
        """JSON-able, for machines."""
        return {
            "place": self.place,
            "first": self.first.key,
            "second": self.second.key,
            "kinds": [self.first.kind, self.second.kind],
            "score": self.score.name,
            "difference": self.difference.value,
            "low": self.difference.low,
            "high": self.difference.high,
            "p_value": self.difference.p_value,
            "adjusted_p": self.adjusted_p,
            "test": self.difference.test,
            "covers": self.difference.covers,
            "tries": list(self.tries),
            "finding": self.finding,
            "text": self.text,
        }


def p_text(p_value: float) -> str:
    """Such as "p = 0.21" or "p < 0.0001"."""
    return f"p = {p_value:.2g}" if p_value >= 0.0001 else "p < 0.0001"


def contrasts(
    contests: Sequence[Contest],
    everything: Sequence[Outcome],
    base: Outcome | None,
    samples: TestSamples,
    score: Score,
) -> tuple[Contrast, ...]:
    """All of a search, rungs first, adjusted for each other.

    everything: the networks that were found, without the base network.
    base: that, trained; None where it was not.
    """
    made = [
        *_against_uniform(contests, samples, score),
        *_both_ways(everything, samples, score),
        *_against_base(contests, base, samples, score),
    ]
    # A pair may meet on several rungs, and is one question all the same.
    pairs = {contrast.pair: contrast.difference.p_value for contrast in made}
    adjusted = dict(zip(pairs, holm(list(pairs.values())), strict=True))
    return tuple(
        dataclasses.replace(contrast, adjusted_p=adjusted[contrast.pair]) for contrast in made
    )


def _against_uniform(
    contests: Iterable[Contest], samples: TestSamples, score: Score
) -> Iterator[Contrast]:
    for contest in contests:
        uniform = contest.entries.get("uniform")
        for kind, entry in contest.entries.items():
            if uniform is None or entry.origin == "uniform":
                continue
            tries = contest.tries.get(kind, 1), contest.tries.get("uniform", 1)
            told = difference(entry, uniform, samples, score)
            yield Contrast(contest.label, entry, uniform, told, score, tries=tries)


def _both_ways(
    everything: Sequence[Outcome], samples: TestSamples, score: Score
) -> Iterator[Contrast]:
    """Each pruned shape from scratch against fine-tuned."""
    networks = {network.key: network for network in contestants(everything)}
    for tuned in networks.values():
        if tuned.origin != "fine-tuned":
            continue
        key = "from-scratch" + tuned.key.removeprefix("fine-tuned")
        for name in (key, f"{key}-longer"):
            if (scratch := networks.get(name)) is not None:
                place = f"shape of {tuned.key}, {format_count(tuned.flops)} FLOPs"
                told = difference(scratch, tuned, samples, score)
                yield Contrast(place, scratch, tuned, told, score)


def _against_base(
    contests: Iterable[Contest], base: Outcome | None, samples: TestSamples, score: Score
) -> Iterator[Contrast]:
    if base is None:
        return
    for contest in contests:
        chosen = best(list(contest.entries.values()), score)
        if chosen is not None:
            tries = sum(contest.tries.values()), 1
            own = Contestant((base,))
            told = difference(chosen, own, samples, score)
            yield Contrast(contest.label, chosen, own, told, score, tries=tries)


def difference(
    first: Contestant, second: Contestant, samples: TestSamples, score: Score
) -> Difference:
    """Of what is compared, on the test split: shapes, where seeds tell, otherwise networks."""
    return _over_seeds(first, second, score) or _of_networks(
        first.judged[0], second.judged[0], samples, score
    )


def difference_of_networks(
    first: Contestant, second: Contestant, samples: TestSamples, score: Score
) -> Difference:
    """Of their first runs, on the same samples; of shapes, over seeds, where those tell nothing."""
    told = _of_networks(first.runs[0], second.runs[0], samples, score)
    return told if told.is_told else _over_seeds(first, second, score) or told


def _over_seeds(first: Contestant, second: Contestant, score: Score) -> Difference | None:
    """Paired where both have the same seeds, otherwise by Welch; None where they tell nothing."""
    one, other = (
        {run.seed: score.key(run.test_score) for run in c.judged} for c in (first, second)
    )
    if one.keys() == other.keys() and len(one) == len(first.judged) == len(second.judged):
        return paired_by_seed(list(one.values()), [other[seed] for seed in one])
    return welch(*([score.key(run.test_score) for run in c.judged] for c in (first, second)))


def _of_networks(first: Outcome, second: Outcome, samples: TestSamples, score: Score) -> Difference:
    """On the same samples; where those are not known, nothing but the difference itself."""
    untold = Difference(score.gain(first.test_score, second.test_score))
    return samples.difference(first, second, score) or untold
