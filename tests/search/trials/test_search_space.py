"""Ranges follow from the training schedule; proposals stay inside them, whatever the method."""

import dataclasses
import math
import warnings

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution

from search.config.methods import METHODS, parts_of
from search.config.settings import choices
from search.config.study_config import StudyConfig
from search.config.training_config import TrainingConfig
from search.data.data import steps_per_epoch
from search.training.schedules import total_push
from search.trials.search_space import Proposal, SearchSpace, sampler

TARGETS = (1000.0, 9999.0)
PUSHED = 1234.5
CONDITIONAL = SearchSpace(PUSHED, TARGETS, tuple(METHODS), ("filter", "filter+branch"))


def ranges(push: float, name: str) -> dict[str, FloatDistribution]:
    """What a method's settings are drawn from in a space of its own."""
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(0)).ask()
    SearchSpace(push, TARGETS, (name,)).propose(trial)
    return {
        key.removeprefix(f"{name}."): distribution
        for key, distribution in trial.distributions.items()
        if isinstance(distribution, FloatDistribution)
    }


@given(st.floats(1e-3, 1e9))
def test_the_push_at_both_ends_of_the_strengths_is_that_of_the_papers_experiments(push):
    strength = ranges(push, "rni")["strength"]
    assert strength.log
    assert math.isclose(strength.low * push, 10)
    assert math.isclose(strength.high * push, 1000)


@given(st.integers(1, 300), st.integers(1, 5000))
def test_any_schedule_can_be_pushed_as_hard_as_the_papers_vgg_was(epochs, num_images):
    """λ_S 1e-3 over 160 epochs of 782 steps pushes 660; the range holds what pushes as much."""
    push = total_push(TrainingConfig(), epochs, steps_per_epoch(num_images, 1))
    strength = ranges(push, "rni")["strength"]
    assert strength.low < 660 / push < strength.high
    assert strength.low < 66 / push < strength.high


def test_other_settings_do_not_depend_on_the_schedule():
    for push in (1.0, 1e4):
        assert ranges(push, "rni")["shift"] == FloatDistribution(0.0, 3.0)
        assert ranges(push, "slimming")["strength"] == FloatDistribution(1e-5, 1e-2, log=True)
        assert ranges(push, "polarization")["t"] == FloatDistribution(1.0, 1.6)


def asked(
    space: SearchSpace, seed: int, count: int, name: str = "tpe"
) -> list[tuple[Proposal, dict[str, object]]]:
    """Proposals and what Optuna holds of each."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study(
            directions=["maximize", "minimize"],
            sampler=sampler(name, seed, count, is_conditional=space.is_conditional),
        )
    found = []
    for number in range(count):
        trial = study.ask()
        found.append((space.propose(trial), dict(trial.params)))
        study.tell(trial, [number / count, float(number % 5)])
    return found


def test_one_method_has_no_choices_and_its_own_settings():
    ((proposal, params),) = asked(SearchSpace(PUSHED, TARGETS), 0, 1)
    assert params.keys() == {"target_flops", "rni.strength", "rni.shift"}
    assert (proposal.criterion, proposal.granularity) == ("rni", "filter")
    assert proposal.settings_of_criterion == {
        "strength": params["rni.strength"],
        "shift": params["rni.shift"],
    }


def test_a_proposal_in_words_leaves_out_what_is_usual():
    settings = {"rni.strength": 0.00123456, "rni.shift": 3.0, "branch.strength": 2.0}
    assert Proposal("rni", "filter", {}, None).words == "rni"
    proposal = Proposal("rni", "filter+branch", settings, 7, "iterative")
    assert proposal.words == (
        "rni, filter+branch, iterative, strength 0.00123, shift 3, branch.strength 2"
    )


def test_each_method_has_its_settings_and_no_others():
    for proposal, params in asked(CONDITIONAL, 0, 40):
        own = {f"{proposal.criterion}.{name}" for name in METHODS[proposal.criterion].settings}
        gates = {f"{name}.strength" for name in parts_of(proposal.granularity)} - {
            "filter.strength"
        }
        assert proposal.settings.keys() == own | gates
        assert params.keys() == own | gates | {"target_flops", "criterion", "granularity"}


def test_the_first_trials_meet_every_target_method_and_granularity():
    openings = CONDITIONAL.openings([9999.0, 5000.0, 2500.0])
    assert len(openings) == len(METHODS)
    for name, values in {
        "target_flops": {9999.0, 5000.0, 2500.0},
        "criterion": set(METHODS),
        "granularity": {"filter", "filter+branch"},
    }.items():
        assert {opening[name] for opening in openings} == values
    assert SearchSpace(PUSHED, TARGETS).openings([7.0]) == [{"target_flops": 7.0}]
    assert SearchSpace(PUSHED, TARGETS).openings([]) == []


def test_schedules_are_a_dimension_where_there_are_several():
    space = SearchSpace(PUSHED, TARGETS, ("fisher",), schedules=("one-shot", "iterative"))
    assert space.is_conditional
    assert [o["schedule"] for o in space.openings([7.0])] == ["one-shot", "iterative"]
    for proposal, params in asked(space, 0, 8):
        assert params.keys() == {"target_flops", "schedule"}
        assert proposal.schedule == params["schedule"]
        assert space.proposal(params) == proposal
    only = SearchSpace(PUSHED, TARGETS, ("fisher",), schedules=("iterative",))
    ((proposal, params),) = asked(only, 0, 1)
    assert (proposal.schedule, params.keys()) == ("iterative", {"target_flops"})


def test_fixed_settings_are_no_dimensions_and_several_values_one_to_choose_from():
    fixed = {"rni.strength": (0.0,), "rni.shift": (3.0, 100.0), "target_flops": (5e3,)}
    space = SearchSpace(PUSHED, TARGETS, fixed=fixed)
    for proposal, params in asked(space, 0, 8):
        assert params.keys() == {"rni.shift"}
        assert proposal.settings == {"rni.strength": 0.0, "rni.shift": params["rni.shift"]}
        assert params["rni.shift"] in (3.0, 100.0)
        assert proposal.target_flops == 5000
        assert space.proposal(params) == proposal
    assert space.mildest("rni", "filter").settings == {"rni.strength": 0.0, "rni.shift": 3.0}
    assert space.openings([7.0]) == []


def test_a_grid_is_every_combination_once_in_order_at_one_target():
    fixed = {"rni.shift": (3.0, 0.0), "slimming.strength": (1.0,), "rni.strength": (1.0, 2.0)}
    space = SearchSpace(PUSHED, TARGETS, ("rni", "slimming"), fixed=fixed)
    shared = {"target_flops": 9.0}
    assert space.grid(9.0) == [
        *(
            shared | {"criterion": "rni", "rni.shift": shift, "rni.strength": strength}
            for shift in (3.0, 0.0)
            for strength in (1.0, 2.0)
        ),
        shared | {"criterion": "slimming"},
    ]
    targets = dataclasses.replace(space, fixed={"target_flops": (5.0, 7.0)}, criteria=("rni",))
    assert targets.grid(9.0) == [{"target_flops": 5.0}, {"target_flops": 7.0}]
    assert SearchSpace(PUSHED, None, ("fisher",)).grid(9.0) == []


def test_what_is_fixed_of_iterative_pruning_is_there_for_its_trials_only():
    fixed = {"iterative.units": (1.0, 10.0), "iterative.minibatches": (5.0,)}
    schedules = ("one-shot", "iterative")
    space = SearchSpace(0.0, None, ("fisher",), schedules=schedules, fixed=fixed)
    grid = space.grid(9.0)
    assert grid == [
        {"schedule": "one-shot"},
        *({"schedule": "iterative", "iterative.units": units} for units in (1.0, 10.0)),
    ]
    points = [space.proposal(point) for point in grid]
    assert [point.settings_of("iterative") for point in points if point] == [
        {},
        {"units": 1.0, "minibatches": 5.0},
        {"units": 10.0, "minibatches": 5.0},
    ]
    for proposal, params in asked(space, 0, 6):
        assert space.proposal(params) == proposal
        assert ("iterative.units" in params) == (proposal.schedule == "iterative")


def test_where_the_search_has_targets_they_are_no_dimension():
    space = SearchSpace(PUSHED, None, ("fisher",))
    assert space.openings([7.0]) == []
    assert asked(space, 0, 3) == [(Proposal("fisher", "filter", {}, None), {})] * 3
    assert SearchSpace(PUSHED, None).mildest("rni", "filter").settings.keys() == {
        *("rni.strength", "rni.shift")
    }


def test_where_only_one_target_is_reachable_it_is_the_only_one_proposed():
    for high in (2e5, 1.9e5):
        ((proposal, params),) = asked(SearchSpace(PUSHED, (2e5, high)), 0, 1)
        assert params["target_flops"] == 2e5
        assert proposal.target_flops == 200_000


def test_a_proposal_is_read_back_from_what_optuna_holds_if_that_is_complete():
    for proposal, params in asked(CONDITIONAL, 0, 10):
        assert CONDITIONAL.proposal(params) == proposal
        for name in params:
            part = {key: value for key, value in params.items() if key != name}
            assert CONDITIONAL.proposal(part) is None


@pytest.mark.parametrize("name", choices(StudyConfig, "sampler"))
@pytest.mark.parametrize("space", [SearchSpace(PUSHED, TARGETS), CONDITIONAL])
@pytest.mark.parametrize("seed", range(3))
def test_samples_lie_in_the_ranges_and_depend_on_the_seed_alone(space, seed, name):
    found = asked(space, seed, 12, name)
    assert found == asked(space, seed, 12, name) != asked(space, seed + 1, 12, name)
    for proposal, _ in found:
        assert 1000 <= proposal.target_flops <= 9999
        for setting, value in proposal.settings_of("rni").items():
            values = ranges(PUSHED, "rni")[setting]
            assert values.low <= value <= values.high


# ---- weights of costs


def test_exponents_are_tried_where_scores_rank_channels():
    space = SearchSpace(
        1.0,
        (1e4, 1e5),
        criteria=("taylor", "scaling-factors"),
        cost_exponents=(0.0, 0.5),
    )
    study = optuna.create_study(directions=["maximize", "minimize"])
    seen = set()
    for _ in range(40):
        trial = study.ask()
        proposal = space.propose(trial)
        assert space.proposal(trial.params) == proposal
        assert ("cost_exponent" in trial.params) == (proposal.criterion == "taylor")
        seen.add((proposal.criterion, proposal.cost_exponent))
    assert seen == {("taylor", 0.0), ("taylor", 0.5), ("scaling-factors", 0.0)}
    assert {part.get("cost_exponent") for part in space.openings([1e5])} == {0.0, 0.5}
    points = [(p["criterion"], p.get("cost_exponent")) for p in space.grid(1e5)]
    assert points == [("taylor", 0.0), ("taylor", 0.5), ("scaling-factors", None)]


def test_one_exponent_is_no_dimension():
    space = SearchSpace(1.0, (1e4, 1e5), criteria=("taylor",), cost_exponents=(1.0,))
    trial = optuna.create_study(directions=["maximize", "minimize"]).ask()
    proposal = space.propose(trial)
    assert proposal.cost_exponent == 1.0
    assert set(trial.params) == {"target_flops"}
    assert "score / cost^1" in proposal.words
