"""What to take within each budget, in one sentence: tables, pages and records begin with it.

Networks are chosen by their score in validation. Beside it stands that on the test split, which
chooses nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pruning.cost import Cost
from search.results.verdict import Comparison, Contest, Contestant, contestants, within
from search.tasks.score import ACCURACY, Score
from search.trials.jobs import Outcome
from search.trials.pareto import best


@dataclass(frozen=True)
class Recommendation:
    """The network to take within one budget, and what it gives up.

    label: the budget in words.  chosen: by the validation score, of equal ones the cheaper; None
    where no network is within the budget.  num_others: further networks within it.
    num_within_chance: those of them whose test score differs from that of the chosen one by no
    more than chance would explain, see Comparison.  num_untold: those of which nothing tells.
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
        base = f" (base {Contestant((self.base,)).score_text(score)})" if self.base else ""
        return f"{name}{self.chosen.score_text(score)}{base} at {share} of the FLOPs"

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
            "test_score": chosen and chosen.test_score,
            "flops_share": chosen and chosen.flops / self.base_flops,
            "base_test_score": self.base and self.base.test_score,
            "score_against_base": chosen and against_base(chosen.test_score, self.base, self.score),
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
    num_test: int,
) -> tuple[Recommendation, ...]:
    """One per contest, in their order.

    everything: the networks that were found, without the base network.
    """
    networks = contestants(everything)
    return tuple(
        _recommendation(contest, networks, base_network, base, num_test) for contest in contests
    )


def _recommendation(
    contest: Contest,
    networks: Sequence[Contestant],
    base_network: Outcome | None,
    base: Cost,
    num_test: int,
) -> Recommendation:
    score = contest.score
    chosen = best(list(contest.entries.values()), score)
    others = [c for c in within(networks, contest.limits) if chosen and c.key != chosen.key]
    compared = [Comparison.of(chosen, c, num_test, score) for c in others] if chosen else []
    told = [comparison for comparison in compared if comparison.is_told]
    return Recommendation(
        label=contest.label,
        chosen=chosen,
        num_others=len(others),
        num_within_chance=sum(not comparison.is_clear for comparison in told),
        base=base_network,
        base_flops=base.flops,
        is_base_within=contest.limits.allows(base if base_network is None else base_network.cost),
        num_untold=len(compared) - len(told),
        score=score,
    )


def note(num_test: int, score: Score) -> str:
    """What the sentences rest on."""
    chosen = (
        f"Chosen by validation {score.name}; what is shown is test {score.name}, which chose "
        "nothing. Within chance: "
    )
    if not score.counts_samples:
        return f"{chosen}by Welch's t-test where both were trained with several seeds."
    return (
        f"{chosen}± two standard errors on {num_test:,} test images, or Welch's t-test where both "
        "were trained with several seeds."
    )


def against_base(test_score: float, base: Outcome | None, score: Score) -> float | None:
    """How much better a score is than that of the base network; negative where it is worse."""
    return None if base is None else score.gain(test_score, base.test_score)


def share_text(share: float) -> str:
    """Such as 12 %, to three digits."""
    return f"{100 * share:.3g} %"
