"""What `--set` fixes: what it is read from, what it refuses, how large a grid it makes."""

from __future__ import annotations

import pytest

from pruning.errors import ConfigError
from search.config.fixed_settings import FixedSettings
from search.config.iterative_config import IterativeConfig
from search.config.search_config import SearchConfig
from search.config.study_config import StudyConfig
from search.config.training_config import TrainingConfig

ITERATIVE = {"criterion": ("taylor",), "schedule": ("iterative",)}


def test_values_are_given_one_by_one_or_joined_by_commas_each_once():
    fixed = FixedSettings.parse(
        ["rni.shift=3, 0", "rni.strength = 1e-3", "rni.shift=3,1.5", "target_flops=30M,25%"]
    )
    assert fixed.settings == {"rni.shift": (3.0, 0.0, 1.5), "rni.strength": (1e-3,)}
    assert list(map(str, fixed.target_flops)) == ["flops=30M", "flops=25%"]
    assert fixed.has_several_values
    assert not FixedSettings.parse(["rni.strength=0"]).has_several_values


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"set": ("rni.strength",)}, "set must be NAME=VALUE, .* got 'rni.strength'"),
        ({"set": ("=3",)}, "set must be NAME=VALUE"),
        ({"set": ("rni.strength=much",)}, "rni.strength must be a finite number .* got 'much'"),
        ({"set": ("rni.strength=-1",)}, "rni.strength must be .* at least 0, got '-1'"),
        ({"set": ("rni.shift=nan",)}, "rni.shift must be a finite number .* got 'nan'"),
        ({"set": ("rni.shift=inf",)}, "rni.shift must be a finite number .* got 'inf'"),
        ({"set": ("rni.shift=3,",)}, "rni.shift must be a finite number .* got ''"),
        ({"set": ("target_flops=few",)}, "target_flops must be a number such as 30M or 25%"),
        (
            {"set": ("rni.strenght=1",)},
            r"set names an unknown setting 'rni.strenght': did you mean rni.strength",
        ),
        ({"set": ("depth=1",)}, "'depth': known: rni.shift, rni.strength, target_flops"),
        (
            {"set": ("slimming.strength=1",)},
            "set has no effect on slimming.strength: the search tries no slimming",
        ),
        (
            {"set": ("target_flops=5%",), "targets": ("flops=5%",)},
            "set has no effect on target_flops where targets are given",
        ),
        (
            {"set": ("rni.shift=0",), "training": TrainingConfig(0), "weights": "builder"},
            "set has no effect on rni.shift without sparse training",
        ),
        (
            {"set": ("iterative.units=1",)},
            "set has no effect on iterative.units without the schedule iterative",
        ),
        ({"set": ("iterative.unit=1",), **ITERATIVE}, "did you mean iterative.units"),
        ({"set": ("iterative.units=1.5",), **ITERATIVE}, "units must be a whole number, got 1.5"),
        ({"set": ("iterative.units=0",), **ITERATIVE}, "units must be at least 1, got 0"),
        ({"set": ("iterative.reset_momentum=2",), **ITERATIVE}, "reset_momentum must be 0 or 1"),
        (
            {"set": ("iterative.units=1",), "iterative": IterativeConfig(units=2), **ITERATIVE},
            "units has no effect where set gives it, too",
        ),
        (
            {"set": ("iterative.epochs=1,9",), "training": TrainingConfig(1, 3), **ITERATIVE},
            "iterative epochs are of those of fine-tuning, which are 3, got 9",
        ),
        (
            {"set": ("rni.strength=1,2,3", "rni.shift=0,1,2")},
            r"set makes a grid of 9 combinations, more than trials \(8\)",
        ),
        (
            {"criterion": ("magnitude-l1,taylor",), "targets": ("flops=5%",), "trials": 1}
            | {"set": ("branch.strength=1",), "granularity": ("filter", "filter+branch")},
            r"a grid of 4 combinations, more than trials \(1\)",
        ),
    ],
)
def test_what_is_refused_in_one_line(settings, message):
    with pytest.raises(ConfigError, match=message) as raised:
        SearchConfig(**settings)
    assert "\n" not in str(raised.value)


def test_iterative_pruning_has_names_of_its_own_which_only_its_trials_have():
    config = SearchConfig(
        criterion=("taylor",),
        schedule=("one-shot", "iterative"),
        targets=("flops=5%",),
        iterative=IterativeConfig(score_every=3),
        set=("iterative.units=1,10", "iterative.reset_momentum=1"),
    )
    assert config.num_trials == 3
    assert config.iterative_settings == [
        IterativeConfig(units=units, reset_momentum=True, score_every=3) for units in (1, 10)
    ]
    assert SearchConfig(**ITERATIVE).iterative_settings == [IterativeConfig()]


def test_values_outside_of_the_searched_range_are_taken():
    fixed = SearchConfig(set=("rni.strength=0", "rni.shift=100")).fixed
    assert fixed.settings == {"rni.strength": (0.0,), "rni.shift": (100.0,)}


def test_a_grid_counts_the_settings_that_each_choice_has():
    config = SearchConfig(
        criterion=("rni", "slimming", "taylor"),
        granularity=("filter", "filter+branch"),
        set=("rni.strength=1,2,3", "slimming.strength=1,2", "branch.strength=1,2"),
        trials=18,
    )
    assert config.is_grid
    assert config.num_trials == 18  # rni.shift is still searched
    with pytest.raises(ConfigError, match=r"grid of 18 combinations, more than trials \(17\)"):
        SearchConfig(
            criterion=config.criterion,
            granularity=config.granularity,
            set=config.set,
            trials=17,
        )


def test_where_nothing_is_left_to_search_every_trial_is_made_once():
    all_fixed = SearchConfig(set=("rni.strength=1,2", "rni.shift=0", "target_flops=5%"))
    assert (all_fixed.num_trials, all_fixed.trials) == (2, 8)
    assert SearchConfig(criterion=("taylor,fisher",), targets=("flops=5%",)).num_trials == 2
    assert SearchConfig(criterion=("taylor,fisher",)).num_trials == 8
    assert not SearchConfig(set=("rni.strength=1",), targets=("flops=5%",)).is_grid


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"budget": ("flops=5%",)}, r"budget has no effect where nothing is pruned"),
        ({"targets": ("flops=5%",)}, "targets has no effect where nothing is pruned"),
        ({"study": StudyConfig(by_products=3)}, "by_products has no effect where nothing is"),
        ({"set": ("target_flops=5%",)}, "no effect on target_flops where nothing is pruned"),
        ({"criterion": ("snip",)}, "snip trains no network that could be pruned later"),
        ({"criterion": ("scaling-factors",)}, "scaling-factors trains no network that could"),
        ({"granularity": ("filter+branch",)}, "gates of structures are lost where nothing is"),
        ({"training": TrainingConfig(0), "weights": "builder"}, "epochs must be at least 1"),
    ],
)
def test_what_sparse_training_alone_does_not_take(settings, message):
    with pytest.raises(ConfigError, match=message):
        SearchConfig(train_only=True, **settings)


def test_sparse_training_alone_has_no_budget():
    config = SearchConfig(train_only=True, set=("rni.strength=0",))
    assert str(config.bounds) == "flops=100%"
    assert config.study_name == "digits-vgg-digits-train-only"
