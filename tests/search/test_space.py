"""Ranges follow from the training schedule; proposals stay inside them."""

import math
import warnings

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution

from search.config import TrainingConfig
from search.space import PUSH, SHIFT, Proposal, SearchSpace, sampler
from search.training import steps_per_epoch, total_push

pushes = st.floats(1e-3, 1e9)


@given(pushes)
def test_the_push_at_both_ends_of_the_strengths_is_that_of_the_papers_experiments(push):
    low, high = SearchSpace.derive(push, (10.0, 20.0)).strength
    assert math.isclose(low * push, 10)
    assert math.isclose(high * push, 1000)


@given(st.integers(1, 300), st.integers(1, 5000))
def test_any_schedule_can_be_pushed_as_hard_as_the_papers_vgg_was(epochs, num_images):
    """λ_S 1e-3 over 160 epochs of 782 steps pushes 660; the range holds what pushes as much."""
    steps = steps_per_epoch(num_images, 1)
    push = total_push(TrainingConfig(), epochs, steps)
    low, high = SearchSpace.derive(push, (10.0, 20.0)).strength
    assert low < 660 / push < high
    assert low < 66 / push < high


def test_strength_and_target_are_log_uniform_and_the_shift_is_uniform():
    space = SearchSpace.derive(100.0, (2e5, 1e6))
    assert space.distributions == {
        "strength": FloatDistribution(PUSH[0] / 100, PUSH[1] / 100, log=True),
        "shift": FloatDistribution(*SHIFT),
        "target_flops": FloatDistribution(2e5, 1e6, log=True),
    }


def test_where_only_one_target_is_reachable_it_is_the_only_one_proposed():
    for high in (2e5, 1.9e5):
        space = SearchSpace.derive(100.0, (2e5, high))
        assert space.distributions["target_flops"] == FloatDistribution(2e5, 2e5, log=True)


def test_a_proposal_rounds_its_target_down():
    space = SearchSpace.derive(100.0, (10.0, 20.0))
    params = {"strength": 0.5, "shift": 2.0, "target_flops": 12.9}
    assert space.proposal(params) == Proposal(0.5, 2.0, 12)


@pytest.mark.parametrize("seed", range(3))
def test_samples_lie_in_the_ranges_and_depend_on_the_seed_alone(seed):
    space = SearchSpace.derive(1234.5, (1000.0, 9999.0))

    def samples(seed: int) -> list[Proposal]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study = optuna.create_study(
                directions=["maximize", "minimize"], sampler=sampler(seed, 12)
            )
        found = []
        for number in range(12):
            trial = study.ask(space.distributions)
            found.append(space.proposal(trial.params))
            study.tell(trial, [number / 12, trial.params["target_flops"]])
        return found

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    found = samples(seed)
    assert found == samples(seed) != samples(seed + 1)
    for proposal in found:
        assert PUSH[0] <= proposal.strength * 1234.5 * (1 + 1e-9)
        assert proposal.strength * 1234.5 <= PUSH[1] * (1 + 1e-9)
        assert SHIFT[0] <= proposal.shift <= SHIFT[1]
        assert 1000 <= proposal.target_flops <= 9999
