"""What to take within each budget, in one sentence: tables, pages and records begin with it.

Networks are chosen by their score in validation. Beside it stands that on the test split, which
chooses nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pruning.cost import Cost
from search.results.contests import Contest, Contestant, contestants, within
from search.results.statistics.contrasts import difference_of_networks
from search.results.statistics.differences import LEVEL, Difference
from search.results.statistics.test_samples import TestSamples
from search.tasks.score import ACCURACY, Score
from search.trials.jobs import Outcome
from search.trials.pareto import best


@dataclass(frozen=True)
class Recommendation:
    """The network to take within one budget, and what it gives up.

    label: the budget in words.  chosen: by the validation score, of equal ones the cheaper; None
    where no network is within the budget.  num_others: further networks within it.
    num_within_chance: those of them whose test score differs from that of the chosen one by no
    more than chance would explain, each tested by itself (see `difference_of_networks`).
    num_untold: those of which nothing tells.  lost: how much better the chosen one's test score is
    than the base network's, with its interval; None without either.  The chosen one's own score is
    that of its first run, which is the network to take.
    base: the base network, None where it was not trained.  base_flops: what it costs.
    is_base_within: whether the budget allows the base network itself.  score: of all of them.
    """

    label: str
    chosen: Contestant | None
    num_others: int
    num_within_chance: int
    base: Outcome | None
    base_flops: int
    is_base_within: bool = False
    num_untold: int = 0
    score: Score = ACCURACY
    lost: Difference | None = None

    @property
    def key(self) -> str | None:
        """Of the architecture to take: of several seeds the first, not the luckiest."""
        if self.chosen is None:
            return None
        return min((run.key for run in self.chosen.runs), key=lambda key: (len(key), key))

    @property
    def text(self) -> str:
        """The sentence."""
        own = "; the base network itself is within this budget" if self.is_base_within else ""
        if self.chosen is None:
            return f"Nothing to take within {self.label}{own}."
        return f"Take {self.key} within {self.label}: {self._measures}{self._others}{own}."

    @property
    def _measures(self) -> str:
        assert self.chosen is not None
        score, share = self.score, share_text(self.chosen.flops / self.base_flops)
        name = "" if score.name == ACCURACY.name else f"{score.name} "
        own = score.mean_text(self.chosen.runs[0].test_score)
        told = "; ".join(part for part in (self._against_base, self._further_runs) if part)
        return f"{name}{own}{f' ({told})' if told else ''} at {share} of the FLOPs"

    @property
    def _against_base(self) -> str:
        if self.base is None or self.lost is None:
            return ""
        told = f"base {self.score.mean_text(self.base.test_score)}"
        change = self.score.interval_text(self.lost.value, self.lost.low, self.lost.high)
        return f"{told}: {change}" if self.lost.is_told else told

    @property
    def _further_runs(self) -> str:
        """What the same network came to with other seeds, which chose nothing."""
        assert self.chosen is not None
        others = Contestant(self.chosen.runs[1:])
        if not others.runs:
            return ""
        runs = "another run" if others.num_judged == 1 else f"{others.num_judged} other runs"
        return f"{others.score_text(self.score)} in {runs}"

    @property
    def _others(self) -> str:
        if not self.num_others:
            return "; there is no other"
        if self.num_untold == self.num_others:
            others = "the other is" if self.num_others == 1 else f"{self.num_others} others are"
            return f"; nothing tells whether {others} within chance of it"
        if self.num_others == 1:
            is_not = "" if self.num_within_chance else "not "
            return f"; the other one is {is_not}within chance of it"
        untold = f", of {self.num_untold} nothing tells" if self.num_untold else ""
        within_chance = f"{self.num_within_chance} of {self.num_others} others"
        return f"; {within_chance} within chance of it{untold}"

    def to_mapping(self) -> dict[str, Any]:
        """JSON-able, for machines; the network's numbers are None where there is none."""
        chosen = self.chosen
        return {
            "budget": self.label,
            "text": self.text,
            "architecture": self.key,
            "origin": chosen and chosen.origin,
            "score": self.score.name,
            "validation_score": chosen and chosen.validation_score,
            "test_score": chosen and chosen.runs[0].test_score,
            "flops_share": chosen and chosen.flops / self.base_flops,
            "base_test_score": self.base and self.base.test_score,
            "score_against_base": chosen
            and against_base(chosen.runs[0].test_score, self.base, self.score),
            "against_base_low": self.lost and self.lost.low,
            "against_base_high": self.lost and self.lost.high,
            "num_others": self.num_others,
            "num_within_chance": self.num_within_chance,
            "num_untold": self.num_untold,
            "is_base_within": self.is_base_within,
        }


def recommendations(
    contests: Sequence[Contest],
    everything: Sequence[Outcome],
    base_network: Outcome | None,
    base: Cost,
    samples: TestSamples,
) -> tuple[Recommendation, ...]:
    """One per contest, in their order.

    everything: the networks that were found, without the base network.
    """
    networks = contestants(everything)
    return tuple(
        _recommendation(contest, networks, base_network, base, samples) for contest in contests
    )


def _recommendation(
    contest: Contest,
    networks: Sequence[Contestant],
    base_network: Outcome | None,
    base: Cost,
    samples: TestSamples,
) -> Recommendation:
    score = contest.score
    chosen = best(list(contest.entries.values()), score)
    others = [c for c in within(networks, contest.limits) if chosen and c.key != chosen.key]
    gaps = (
        [difference_of_networks(chosen, c, samples, score).p_value for c in others]
        if chosen
        else []
    )
    told = [p for p in gaps if p is not None]
    lost = None
    if chosen is not None and base_network is not None:
        lost = difference_of_networks(chosen, Contestant((base_network,)), samples, score)
    return Recommendation(
        label=contest.label,
        chosen=chosen,
        num_others=len(others),
        num_within_chance=sum(p >= LEVEL for p in told),
        base=base_network,
        base_flops=base.flops,
        is_base_within=contest.limits.allows(base if base_network is None else base_network.cost),
        num_untold=len(gaps) - len(told),
        score=score,
        lost=lost,
    )


def note(num_test: int, score: Score) -> str:
    """What the sentences rest on."""
    chosen = (
        f"Chosen by validation {score.name}; what is shown is test {score.name}, which chose "
        "nothing."
    )
    if not score.sums:
        return f"{chosen} What is chance is told by seeds, where there are several."
    return (
        f"{chosen} In brackets the 95 % confidence interval of the difference on the same "
        f"{num_test:,} test samples."
    )


def against_base(test_score: float, base: Outcome | None, score: Score) -> float | None:
    """How much better a score is than that of the base network; negative where it is worse."""
    return None if base is None else score.gain(test_score, base.test_score)


def share_text(share: float) -> str:
    """Such as 12 %, to three digits."""
    return f"{100 * share:.3g} %"
