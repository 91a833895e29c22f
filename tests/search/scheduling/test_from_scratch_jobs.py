"""The members of the family stage, against the closed form of their cost."""

import dataclasses
import math
import shutil
from pathlib import Path

import pytest
from samples import small_config, stored_outcome

from copycat import WidthProfile
from pruning import Budget, Cost
from search.config.search_config import SearchConfig
from search.config.training_config import TrainingConfig
from search.scheduling.from_scratch_jobs import compared, members, num_members
from search.trials.jobs import FromScratchJob, Outcome
from search.trials.preflight import Preflight, check

LADDER = (1.0, 0.5, 0.25)
SHAPES = ((8, 9, 10, 11, 12, 13), (4, 20, 5, 16, 6, 7), (3, 4, 6, 5, 4, 3))
"""Widths of three trials, from dear to cheap."""


@pytest.fixture
def config(tmp_path: Path) -> SearchConfig:
    return small_config(tmp_path, ladder=LADDER, profiles=2)


def widths_of(preflight: Preflight, numbers: tuple[int, ...]) -> dict[str, int]:
    return dict(zip(preflight.groups, numbers, strict=True))


@pytest.fixture
def trials(config: SearchConfig, preflight: Preflight) -> list[Outcome]:
    """Three trials on the front, the dearest the most accurate, and one that is dominated."""
    found = [
        stored_outcome(config, preflight, number, widths_of(preflight, shape), 0.9 - number / 10)
        for number, shape in enumerate(SHAPES)
    ]
    costs = [o.flops for o in found]
    assert sorted(costs, reverse=True) == costs
    dominated = stored_outcome(config, preflight, 3, widths_of(preflight, SHAPES[0]), 0.1)
    return [dominated, *found]


def narrowed(widths: dict[str, int], alpha: float) -> dict[str, int]:
    """Every width times α, rounded half up, at least one."""
    return {name: max(1, math.floor(alpha * w + 0.5 + 1e-9)) for name, w in widths.items()}


def by_origin(jobs: list[FromScratchJob], origin: str) -> list[FromScratchJob]:
    return [job for job in jobs if job.origin == origin]


def test_both_ends_of_the_front_are_rescaled_over_the_ladder(config, preflight, trials):
    jobs, notes = members(config, preflight, trials)
    assert notes == []
    assert {job.trial for job in jobs} == {0, 2, None}
    for origin, expected in (("copycat", [0, 2]), ("uniform", [None])):
        found = [(job.trial, job.rung) for job in by_origin(jobs, origin)]
        assert sorted(found, key=str) == sorted(
            ((trial, rung) for trial in expected for rung in LADDER), key=str
        )


def test_every_rung_is_met_by_the_closed_form_and_hardly_missed(config, preflight, trials):
    jobs, _ = members(config, preflight, trials)
    for job in jobs:
        if job.rung is None:
            continue
        limits = preflight.limits.scaled(job.rung)
        assert limits.allows(preflight.graph.cost(job.widths)), job.key
        start = WidthProfile.of(preflight.graph, preflight.groups).widths
        if job.trial is not None:
            start = widths_of(preflight, SHAPES[job.trial])
        wider = narrowed(dict(start), job.alpha * 1.02 + 0.5 / min(start.values()))
        assert not limits.allows(preflight.graph.cost(wider)), job.key


def test_a_pair_has_the_very_widths_of_its_trial(config, preflight, trials):
    """Trained for as many epochs as all, and for longer at equal compute."""
    jobs, _ = members(config, preflight, trials)
    pairs = by_origin(jobs, "from-scratch")
    assert [(job.trial, job.equal_compute) for job in pairs] == [
        *((2, False), (2, True), (0, False), (0, True)),
    ]
    for job in pairs:
        assert (job.alpha, job.rung, job.seed) == (1.0, None, None)
        assert job.widths == widths_of(preflight, SHAPES[job.trial])
        longer = "-longer" if job.equal_compute else ""
        assert job.key == f"from-scratch-{job.trial}{longer}"


def test_equal_compute_can_be_left_out(tmp_path, preflight, trials):
    config = small_config(tmp_path, equal_compute_pairs=False)
    jobs, _ = members(config, preflight, trials)
    assert not any(job.equal_compute for job in jobs)


@pytest.mark.parametrize("settings", [{"compute_limit": 1.0}, {"equal_compute": True}])
def test_what_is_no_longer_training_is_not_done_twice(tmp_path, preflight, trials, settings):
    training = TrainingConfig(1, 1, 1, **settings)
    jobs, _ = members(small_config(tmp_path, training=training), preflight, trials)
    assert not any(job.key.endswith("-longer") for job in jobs)


def test_every_rung_has_the_pair_of_its_most_accurate_trial(tmp_path, preflight, trials):
    """The verdict holds it against the fine-tuned network, also where it is no end of the front."""
    middle = trials[2]
    share = middle.flops / preflight.limits.limit("flops")
    config = small_config(tmp_path, profiles=1, ladder=(1.0, share * 1.001))
    assert [o.key for o in compared(config, preflight, trials)] == ["fine-tuned-0", "fine-tuned-1"]
    jobs, _ = members(config, preflight, trials)
    assert {job.trial for job in by_origin(jobs, "from-scratch")} == {0, 1}
    assert {job.trial for job in by_origin(jobs, "copycat")} == {0}


def test_pairs_of_by_products_have_names_of_their_own(config, preflight, trials):
    first = trials[1]
    folder = config.directory / "architectures"
    shutil.copytree(folder / first.key, folder / "fine-tuned-0-t50")
    product = dataclasses.replace(
        trials[3],
        key="fine-tuned-0-t50",
        trial=0,
        path="architectures/fine-tuned-0-t50",
        validation_score=0.95,
    )
    keys = [job.key for job in members(config, preflight, [first, product])[0]]
    assert {"from-scratch-0-t50", "from-scratch-0-t50-longer", "copycat-0-t50-b50"} <= set(keys)
    assert len(set(keys)) == len(keys)


def test_seeds_repeat_every_network_after_the_first_of_all(tmp_path, preflight, trials):
    config = small_config(tmp_path, ladder=LADDER, seeds=3)
    once, _ = members(small_config(tmp_path, ladder=LADDER), preflight, trials)
    jobs, _ = members(config, preflight, trials)
    assert jobs[: len(once)] == once
    assert len(jobs) == 3 * len(once)
    for repeat in (1, 2):
        again = jobs[repeat * len(once) : (repeat + 1) * len(once)]
        for first, other in zip(once, again, strict=True):
            seed = config.seed_of(first.trial or 0, repeat)
            assert other == dataclasses.replace(first, key=f"{first.key}-s{repeat}", seed=seed)
    assert len({job.key for job in jobs}) == len(jobs)


def test_random_widths_fill_the_rungs_anew_with_each_seed(tmp_path, preflight, trials):
    config = small_config(tmp_path, ladder=LADDER, seeds=2, random_widths=True)
    jobs, notes = members(config, preflight, trials)
    assert notes == []
    found = by_origin(jobs, "random")
    assert [job.key for job in found] == [
        *("random-b100", "random-b50", "random-b25"),
        *("random-b100-s1", "random-b50-s1", "random-b25-s1"),
    ]
    for job in found:
        limit = preflight.limits.scaled(job.rung).limit("flops")
        assert 0.9 * limit < preflight.graph.cost(job.widths).flops <= limit
    shares = [
        tuple(
            round(width / preflight.graph.group(name).width, 1) for name, width in t.widths.items()
        )
        for t in (found[0], found[3])
    ]
    assert shares[0] != shares[1]
    assert all(len(set(share)) > 1 for share in shares)
    assert members(config, preflight, trials)[0] == jobs


@pytest.mark.parametrize("changes", [{}, {"seeds": 2, "random_widths": True}, {"profiles": 3}])
def test_no_more_is_trained_than_was_estimated(tmp_path, preflight, trials, changes):
    config = small_config(tmp_path, ladder=LADDER, trials=4, **changes)
    jobs, _ = members(config, preflight, trials)
    spent = sum(2 if job.equal_compute else 1 for job in jobs)
    assert 0.5 * num_members(config) < spent <= num_members(config)


def test_one_factor_rescales_every_group(config, preflight, trials):
    """To the nearest width, or to the next wider one where the budget holds that as well."""
    full = dict(WidthProfile.of(preflight.graph, preflight.groups).widths)
    for job in members(config, preflight, trials)[0]:
        start = full if job.trial is None else widths_of(preflight, SHAPES[job.trial])
        nearest = narrowed(start, job.alpha)
        assert job.widths.keys() == nearest.keys()
        extra = {name: width - nearest[name] for name, width in job.widths.items()}
        assert set(extra.values()) <= {0, 1}, job.key
        if job.rung is None:
            assert not any(extra.values())
            continue
        limits = preflight.limits.scaled(job.rung)
        for name, width in job.widths.items():
            if width < job.alpha * start[name]:  # rounded down
                wider = {**job.widths, name: width + 1}
                assert not limits.allows(preflight.graph.cost(wider)), (job.key, name)


def test_a_divisor_holds_in_every_member(tmp_path, preflight, trials):
    config = small_config(tmp_path, ladder=(1.0, 0.5), divisor=8)
    jobs, notes = members(config, preflight, trials)
    assert notes == []
    rescaled = [job for job in jobs if job.rung is not None]
    assert {job.origin for job in rescaled} == {"uniform", "copycat"}
    for job in rescaled:
        assert all(width % 8 == 0 for width in job.widths.values()), job.key


def test_a_shape_without_channels_left_to_scale_has_no_copycat(tmp_path, preflight):
    """A profile of no group cannot fill a rung above its cost: the uniform member stays."""
    config = small_config(tmp_path, ladder=(0.5,))
    limits = Budget.parse(f"flops={4 * preflight.base.flops}")
    dear = dataclasses.replace(preflight, limits=limits, budget=limits)
    trial = stored_outcome(config, preflight, 0, {}, 0.9)
    jobs, notes = members(config, dear, [trial])
    assert [job.key for job in jobs] == ["from-scratch-0", "uniform-b50"]
    (note,) = notes
    assert note.startswith("rung 0.5 of the ladder has no copycat: the budget flops=")
    assert "is above the largest copycat" in note


def test_keys_name_origin_trial_and_percent_of_the_budget(config, preflight, trials):
    keys = [job.key for job in members(config, preflight, trials)[0]]
    assert len(set(keys)) == len(keys)
    assert {"uniform-b100", "uniform-b25", "copycat-2-b50", "from-scratch-0"} <= set(keys)


def test_a_percentage_with_a_fraction_makes_a_plain_key(tmp_path, preflight):
    config = small_config(tmp_path, ladder=(0.125,))
    jobs, _ = members(config, preflight, [])
    assert [job.key for job in jobs] == ["uniform-b12_5"]


def test_without_trials_there_is_the_baseline_alone(config, preflight):
    jobs, notes = members(config, preflight, [])
    assert [job.origin for job in jobs] == ["uniform"] * 3
    assert notes == []


@pytest.mark.parametrize(("profiles", "chosen"), [(1, {0}), (2, {0, 2}), (3, {0, 1, 2})])
def test_so_many_shapes_are_chosen(tmp_path, preflight, trials, profiles, chosen):
    config = small_config(tmp_path, profiles=profiles)
    jobs, _ = members(config, preflight, trials)
    assert {job.trial for job in by_origin(jobs, "from-scratch")} == chosen


def test_a_rung_out_of_reach_becomes_a_note(tmp_path, preflight, trials):
    config = small_config(tmp_path, ladder=(1.0, 0.001))
    jobs, notes = members(config, preflight, trials)
    assert {job.rung for job in jobs} == {1.0, None}
    (note,) = notes
    floor = preflight.graph.cost(dict.fromkeys(preflight.groups, 1)).flops
    assert note.startswith("rung 0.001 of the ladder is left out: the budget cannot be reached")
    assert f"nearest reachable: {floor:,}" in note


def test_a_network_is_not_trained_twice(tmp_path, preflight, trials):
    """The second rung is filled by the same widths, so by the same weights from the same seed."""
    config = small_config(tmp_path, ladder=(0.5, 0.500001))
    jobs, _ = members(config, preflight, trials)
    assert {job.rung for job in jobs} == {0.5, None}


def test_a_shape_that_fills_a_rung_is_not_copied(tmp_path, preflight):
    config = small_config(tmp_path, ladder=(1.0,))
    shape = WidthProfile(widths_of(preflight, SHAPES[0]))
    cost = preflight.graph.cost(shape.widths)
    limits = Budget.parse(f"flops={cost.flops}")
    exact = dataclasses.replace(preflight, limits=limits, budget=limits)
    trial = stored_outcome(config, preflight, 0, dict(shape.widths), 0.9)
    jobs, _ = members(config, exact, [trial])
    assert [job.key for job in jobs] == [
        *("from-scratch-0", "from-scratch-0-longer", "uniform-b100"),
    ]


def test_several_budgets_hold_together(tmp_path, preflight, digits, trials):
    config = small_config(tmp_path, budget=("flops=10%", "params=5k"), ladder=LADDER)
    both = check(config, preflight.builder, preflight.sample)
    for job in members(config, both, trials)[0]:
        if job.rung is not None:
            cost: Cost = both.graph.cost(job.widths)
            assert cost.flops <= both.base.flops * 0.1 * job.rung
            assert cost.params <= 5000 * job.rung


def test_without_a_shape_to_choose_nothing_is_trained_from_scratch(config, preflight, trials):
    alone = dataclasses.replace(config, profiles=0)
    assert members(alone, preflight, trials) == ([], [])
    assert (num_members(alone), alone.num_tempered) == (0, 0)
    assert config.num_tempered == config.study.tempered_trials > 0
