"""The lines that a search ends with: what comes first, what rests on what."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import pytest
from samples import outcome

from pruning import Budget
from search.results.contests import contests
from search.results.statistics.contrasts import contrasts
from search.results.statistics.test_samples import NO_SAMPLES
from search.results.verdict import verdict
from search.tasks.score import ACCURACY
from search.trials.jobs import Outcome

WIDE = (("wide", Budget.parse("flops=5000")),)
UNIFORM = {"origin": "uniform", "trial": None}


def verdict_of(everything: Sequence[Outcome]) -> list[str]:
    rivals = contests(everything, WIDE, ACCURACY)
    made = contrasts(rivals, everything, None, NO_SAMPLES, ACCURACY)
    return verdict(rivals, made, everything)


def seeds(key: str, scores: Sequence[float], **changes: object) -> list[Outcome]:
    return [
        outcome(f"{key}-s{i}" if i else key, test_score=s, seed=i, **changes)
        for i, s in enumerate(scores)
    ]


def test_the_uniform_network_comes_first_where_it_is_first():
    uniform = outcome("uniform-b100", test_score=0.9, **UNIFORM)
    first, *_ = verdict_of([uniform, outcome(test_score=0.8)])
    assert first.startswith("The uniformly narrowed network came first at 1 of 1 budgets")
    longer = dataclasses.replace(uniform, equal_compute=True)
    assert verdict_of([longer, outcome(test_score=0.8)])[0] == first


@pytest.mark.parametrize("accuracy", [0.7, 0.6])
def test_neither_a_tie_nor_a_second_place_is_a_victory(accuracy: float):
    uniform = outcome("uniform-b100", test_score=accuracy, **UNIFORM)
    for everything in itertools.permutations([uniform, outcome(test_score=0.7)]):
        lines = verdict_of(everything)
        assert lines[0].startswith("wide: ")
        assert "came first" not in " ".join(lines)


def test_each_contrast_has_its_line_before_what_they_rest_on():
    everything = [
        *seeds("fine-tuned-0", (0.90, 0.91, 0.92)),
        *seeds("uniform-b100", (0.86, 0.88, 0.87), **UNIFORM),
        outcome("from-scratch-0", origin="from-scratch"),
    ]
    tuned, scratch, shape, last = verdict_of(everything)
    assert tuned.startswith("wide: pruned and fine-tuned against the uniformly narrowed network +4")
    assert scratch.startswith("wide: a pruned shape from scratch at equal epochs against")
    assert shape.startswith("shape of fine-tuned-0, 1k FLOPs: ")
    assert last == (
        "These 3 contrasts were fixed before the search; p-values are adjusted for 1 by Holm's "
        "procedure, at the level of 5 %; intervals are of each by itself."
    )


def test_where_there_is_nothing_to_compare_that_is_said():
    assert verdict_of([outcome()]) == ["There is nothing to compare."]
    assert verdict_of([]) == ["There is nothing to compare."]


def test_what_chose_and_what_judged_are_told():
    everything = [
        *seeds("fine-tuned-0", (0.90, 0.91, 0.92), validation_score=0.9),
        *seeds("fine-tuned-1", (0.90, 0.91, 0.92), validation_score=0.8),
        *seeds("uniform-b100", (0.86, 0.88, 0.87), **UNIFORM),
    ]
    last = verdict_of(everything)[-1]
    assert "What was chosen by its first run is judged by the other runs" in last
    longer = dataclasses.replace(everything[0], equal_compute=True)
    assert "--compute-limit" in verdict_of([longer])[-1]


@pytest.mark.parametrize(("images", "told"), [(1000, False), (1049, False), (500, True)])
def test_epochs_that_are_not_equal_are_told(images: int, told: bool):
    scratch = {"origin": "from-scratch", "trial": 0}
    everything = [
        outcome("fine-tuned-0", images=1000),
        outcome("from-scratch-0", images=images, **scratch),
        outcome("from-scratch-0-longer", images=9000, equal_compute=True, **scratch),
    ]
    last = verdict_of(everything)[-1]
    assert ("Epochs are not equal here" in last) == told
    assert ("saw 0.5 times the images" in last) == told
