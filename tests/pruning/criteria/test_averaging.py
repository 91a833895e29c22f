"""The moving average of scores over pruning iterations."""

from __future__ import annotations

import pytest
import torch

from pruning import KeepPlan
from pruning.criteria import ScoreAverage
from pruning.errors import CriterionError


def test_the_first_scores_count_whole_and_later_ones_a_tenth() -> None:
    average = ScoreAverage()
    assert average.scores == {}
    assert torch.equal(average.update({"a": torch.tensor([1.0, 2])})["a"], torch.tensor([1.0, 2]))
    second = average.update({"a": torch.tensor([11.0, 2])})["a"]
    torch.testing.assert_close(second, torch.tensor([2.0, 2.0]))
    third = average.update({"a": torch.tensor([2.0, 12])})["a"]
    torch.testing.assert_close(third, torch.tensor([2.0, 3.0]))
    assert torch.equal(average.scores["a"], third)


def test_without_momentum_it_forgets_at_once() -> None:
    average = ScoreAverage(0.0)
    average.update({"a": torch.tensor([1.0])})
    assert average.update({"a": torch.tensor([5.0])})["a"].item() == 5


def test_removed_channels_are_forgotten() -> None:
    average = ScoreAverage(0.5)
    average.update({"a": torch.tensor([1.0, 2, 3]), "b": torch.tensor([4.0])})
    with pytest.raises(CriterionError, match=r"had 3 scores and now has 2: .* call keep\(plan\)"):
        average.update({"a": torch.zeros(2)})
    average.keep(KeepPlan({"a": (0, 2), "c": (1,)}))
    scores = average.update({"a": torch.zeros(2), "b": torch.zeros(1)})
    assert torch.equal(scores["a"], torch.tensor([0.5, 1.5]))
    assert torch.equal(scores["b"], torch.tensor([2.0]))
    with pytest.raises(CriterionError, match="keeps channel 2 of group 'a', which has 2 scores"):
        average.keep(KeepPlan({"a": (0, 2)}))


def test_groups_come_and_go() -> None:
    average = ScoreAverage(0.5)
    average.update({"a": torch.tensor([1.0]), "gone": torch.tensor([1.0])})
    scores = average.update({"a": torch.tensor([3.0]), "new": torch.tensor([7.0])})
    assert {name: value.item() for name, value in scores.items()} == {"a": 2, "new": 7}


def test_what_is_handed_out_is_no_handle_on_the_average() -> None:
    average = ScoreAverage(0.5)
    given = torch.tensor([1.0])
    average.update({"a": given})["a"] += 10
    given += 10
    average.scores["a"] += 10
    assert average.update({"a": torch.tensor([1.0])})["a"].item() == 1


@pytest.mark.parametrize("momentum", [-0.1, 1.0, float("nan")])
def test_a_momentum_out_of_range_is_refused(momentum: float) -> None:
    with pytest.raises(CriterionError, match=r"momentum must be in \[0, 1\)"):
        ScoreAverage(momentum)
