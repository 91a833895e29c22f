"""How networks of each kind compare, in lines: effects first, what chance makes of them beside."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from search.results.contests import Contest
from search.results.statistics.contrasts import Contrast
from search.results.statistics.differences import LEVEL
from search.trials.jobs import Outcome

_NOTABLE = 0.05
"""Share by which the images of two networks may differ without it being told."""


def verdict(
    contests: Sequence[Contest], contrasts: Sequence[Contrast], everything: Sequence[Outcome]
) -> list[str]:
    """Lines: the plain narrow network where it is first, each contrast, what they rest on."""
    return [
        *headline(contests),
        *(contrast.text for contrast in contrasts),
        basis(contrasts, everything),
    ]


def remarks(
    contests: Sequence[Contest], contrasts: Sequence[Contrast], everything: Sequence[Outcome]
) -> list[str]:
    """What is to be said beside a table of the contrasts."""
    return [*headline(contests), basis(contrasts, everything)]


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


def basis(contrasts: Sequence[Contrast], everything: Sequence[Outcome]) -> str:
    """What the contrasts rest on and cover, in sentences."""
    num_told = len({c.pair for c in contrasts if c.adjusted_p is not None})
    sentences = []
    if num_told:
        what = (
            "This contrast was" if len(contrasts) == 1 else f"These {len(contrasts)} contrasts were"
        )
        sentences.append(
            f"{what} fixed before the search; p-values are adjusted for {num_told} by Holm's "
            f"procedure, at the level of {100 * LEVEL:g} %; intervals are of each by itself."
        )
    covered = {contrast.difference.covers for contrast in contrasts}
    if "networks" in covered:
        sentences.append(
            "Tests on the same samples are of these trained networks, not of their shapes: "
            "--seeds trains them again."
        )
    selected = any(c.first.is_selected or c.second.is_selected for c in contrasts)
    if selected and "shapes" in covered:
        sentences.append(
            "What was chosen by its first run is judged by the other runs, which chose nothing."
        )
    if any(outcome.equal_compute for outcome in everything):
        sentences.append(
            "Equal compute goes as far as --compute-limit times the epochs; the table tells what "
            "was spent."
        )
    return " ".join([*sentences, *_unequal_epochs(everything)]) or "There is nothing to compare."


def _unequal_epochs(everything: Sequence[Outcome]) -> list[str]:
    """What equal epochs amount to where --scratch-epochs makes them others."""
    tuned, scratch = (
        [o.images for o in everything if o.origin == origin and o.images and not o.equal_compute]
        for origin in ("fine-tuned", "from-scratch")
    )
    if not tuned or not scratch:
        return []
    ratio = statistics.fmean(scratch) / statistics.fmean(tuned)
    if abs(ratio - 1) <= _NOTABLE:
        return []
    return [
        f"Epochs are not equal here: by --scratch-epochs, training from scratch saw {ratio:.2g} "
        "times the images."
    ]
