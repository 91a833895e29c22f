"""Further shapes from scratch: found ones, between two of them, or one and the uniform one."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.storages import InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from samples import Workers, outcome, quick_config, small_config, stored_outcome

import copycat
import search
from copycat.families import Family, TemperedCopycat
from copycat.width_profile import WidthProfile
from pruning import Budget
from pruning.errors import SearchStateError
from search.config.search_config import SearchConfig
from search.config.study_config import StudyConfig
from search.scheduling.from_scratch_jobs import members
from search.scheduling.optuna_study import open_study
from search.scheduling.shape_selection import shape_source
from search.scheduling.shape_surrogate import Described, ShapeSurrogate, expected_gain
from search.tasks.score import ACCURACY
from search.trials.candidates import Candidate
from search.trials.jobs import FromScratchJob, Job, Outcome
from search.trials.pareto import Hypervolume, Reference
from search.trials.preflight import Preflight
from search.trials.trial import perform


@pytest.fixture
def config(tmp_path: Path) -> SearchConfig:
    return small_config(tmp_path, study=StudyConfig(tempered_trials=3))


@pytest.fixture
def trials(config: SearchConfig, preflight: Preflight) -> list[Outcome]:
    """Of a search with one trial for each rung of its ladder."""
    found = []
    for number, (width, accuracy) in enumerate(((9, 0.75), (6, 0.5))):
        widths = {name: width + (name.endswith("2")) for name in preflight.groups}
        found.append(stored_outcome(config, preflight, number, widths, accuracy))
    return found


def in_memory() -> optuna.Study:
    return open_study(InMemoryStorage(), "tempered", ACCURACY)


# ---- proposals


def test_the_ends_are_copycat_and_uniform(
    config: SearchConfig, preflight: Preflight, trials: list[Outcome]
):
    """With ρ = 1 the member of the copycat family, with ρ = 0 the uniform one, on every rung."""
    jobs, _ = members(config, preflight, trials)
    by_key = {job.key: job for job in jobs}
    study = in_memory()
    source = shape_source(study, config, preflight, trials, [])
    for rung, percent in ((1.0, 100), (0.5, 50)):
        for rho, origin in ((1.0, "copycat-0"), (0.0, "uniform")):
            study.enqueue_trial(
                {"shape": "fine-tuned-0", "towards": "uniform", "rung": rung, "rho": rho}
            )
            job = source.next()
            assert isinstance(job, FromScratchJob)
            assert job.widths == by_key[f"{origin}-b{percent}"].widths
            assert (job.origin, job.trial, job.rung, job.rho) == ("tempered", 0, rung, rho)
            source.finished(job, [outcome(job.key)])
            if len(source) == 0:
                break


def test_what_is_proposed_is_within_its_rung(
    config: SearchConfig, preflight: Preflight, trials: list[Outcome]
):
    source = shape_source(in_memory(), config, preflight, trials, [])
    rhos = []
    while (job := source.next()) is not None:
        assert isinstance(job, FromScratchJob)
        cost = preflight.graph.cost(job.widths)
        assert preflight.limits.scaled(job.rung or 0).allows(cost)
        assert job.rung in config.ladder
        rhos.append(job.rho)
        source.finished(job, [outcome(job.key, rung=job.rung)])
    assert len({*rhos}) == 3
    assert all(0 <= rho <= 1 for rho in rhos)


def test_a_shape_that_was_trained_before_is_not_trained_again(
    config: SearchConfig, preflight: Preflight, trials: list[Outcome]
):
    """Its result is told to the study and counts; longer training and repetitions are others."""
    study = in_memory()
    for rho in (1.0, 1.0, 0.0):
        study.enqueue_trial(
            {"shape": "fine-tuned-0", "towards": "uniform", "rung": 1.0, "rho": rho}
        )
    source = shape_source(study, config, preflight, trials, [])
    first = source.next()
    assert isinstance(first, FromScratchJob)
    source.finished(first, [outcome(first.key, profile=first.profile.digest, flops=77)])
    last = source.next()
    assert isinstance(last, FromScratchJob)
    assert (last.key, last.rho, len(source)) == ("tempered-2", 0.0, 0)
    again = study.trials[1]
    assert (again.state, again.values[1]) == (TrialState.COMPLETE, 77)
    assert [o.key for o in source.outcomes] == ["tempered-0"]
    assert [job.key for job, _ in source.settled()] == ["tempered-0"]

    digest = last.profile.digest
    for changes, is_known in (
        ({"key": "uniform-b100"}, True),
        ({"key": "uniform-b100-s1"}, False),
        ({"key": "from-scratch-0-longer", "equal_compute": True}, False),
    ):
        study = in_memory()
        study.enqueue_trial(
            {"shape": "fine-tuned-0", "towards": "uniform", "rung": 1.0, "rho": 0.0}
        )
        widths = dict(last.widths)
        stored = stored_outcome(config, preflight, 7, widths, 0.5)
        assert stored.profile == digest
        member = dataclasses.replace(stored, origin="from-scratch", **changes)
        source = shape_source(study, config, preflight, trials, [member])
        job = source.next()
        assert isinstance(job, FromScratchJob)
        assert (job.profile.digest != digest) == is_known


def test_two_found_shapes_can_be_mixed(
    config: SearchConfig, preflight: Preflight, trials: list[Outcome]
):
    study = in_memory()
    profiles = [copycat.read(config.directory / found.path).profile for found in trials]
    for rho in (1.0, 0.5, 0.0):
        study.enqueue_trial(
            {"shape": "fine-tuned-0", "towards": "fine-tuned-1", "rung": 0.5, "rho": rho}
        )
    source = shape_source(study, config, preflight, trials, [])
    base = preflight.base_network(config.restrictions)
    for rho in (1.0, 0.5, 0.0):
        job = source.next()
        assert isinstance(job, FromScratchJob)
        kind = TemperedCopycat(profiles[0], rho, profiles[1])
        expected = Family(base, kind).member(preflight.limits.scaled(0.5))
        assert (job.profile, job.alpha) == (expected.profile, expected.parameter)
        assert job.between == ("fine-tuned-0", "fine-tuned-1")
        source.finished(job, [outcome(job.key)])


# ---- what is chosen


def narrowed(preflight: Preflight, width: int) -> WidthProfile:
    return WidthProfile(dict.fromkeys(preflight.groups, width))


def judged(config: SearchConfig, preflight: Preflight, found: Outcome, *widths: int) -> None:
    """As if the trial had judged these shapes, all layers as wide as each other, on its way."""
    rows = []
    for number, width in enumerate(widths):
        profile = narrowed(preflight, width)
        cost = preflight.graph.cost(profile.widths)
        candidate = Candidate(0.5, f"score/cost^{number}", profile, cost.flops, cost.params, 0.5)
        rows.append(candidate.to_mapping())
    file = config.directory / found.path / "candidates.json"
    file.write_text(json.dumps(rows), encoding="utf-8")


def test_what_trials_have_judged_on_their_way_is_chosen_among(
    config: SearchConfig, preflight: Preflight, trials: list[Outcome]
):
    judged(config, preflight, trials[1], 4, 5)
    source = shape_source(in_memory(), config, preflight, trials, [])
    names = set()
    for _ in range(3):
        job = source.next()
        assert isinstance(job, FromScratchJob)
        names |= {*job.between}
        source.finished(job, [outcome(job.key, profile=job.profile.digest)])
    choices = source._study.trials[0].distributions["shape"]
    assert set(choices.choices) == {
        *("fine-tuned-0", "fine-tuned-1"),
        *("fine-tuned-1/0.5/score/cost^0", "fine-tuned-1/0.5/score/cost^1"),
    }
    assert names <= {"uniform", *choices.choices}


@pytest.mark.parametrize("content", ["", "{", "[{}]", "[[]]", "7", '[{"rung": "x"}]'])
def test_candidates_that_cannot_be_read_are_left_out(
    config: SearchConfig, preflight: Preflight, trials: list[Outcome], content: str
):
    file = config.directory / trials[0].path / "candidates.json"
    file.write_text(content, encoding="utf-8")
    job = shape_source(in_memory(), config, preflight, trials, []).next()
    assert isinstance(job, FromScratchJob)


def test_proposals_are_the_same_after_a_restart(
    config: SearchConfig, preflight: Preflight, trials: list[Outcome], tmp_path: Path
):
    family = learned_from(config, preflight, trials)
    proposed: list[list[str]] = []
    for restarts in (False, True):
        study, keys = in_memory(), []
        source = shape_source(study, config, preflight, trials, family)
        for number in range(3):
            if restarts:
                source = shape_source(study, config, preflight, trials, family)
            job = source.next()
            assert isinstance(job, FromScratchJob)
            keys.append(job.profile.digest)
            found = outcome(job.key, profile=keys[-1], flops=900, validation_score=number / 10)
            source.finished(job, [found])
        proposed.append(keys)
    assert proposed[0] == proposed[1]
    assert len(set(proposed[0])) == 3


def learned_from(
    config: SearchConfig, preflight: Preflight, trials: list[Outcome]
) -> list[Outcome]:
    """What has been trained from scratch before, with its shapes stored."""
    jobs, _ = members(config, preflight, trials)
    return [
        stored_outcome(config, preflight, 100 + n, dict(job.widths), 0.5 + n / 100)
        for n, job in enumerate(jobs)
    ]


def test_shapes_like_those_that_were_good_are_expected_to_be_good():
    """At the same cost, what leaves more of the second layer."""
    shapes = [Described({"first": 1 - s, "second": s}, 1000) for s in np.linspace(0.1, 0.9, 17)]
    known = [(shape, shape.shares["second"]) for shape in shapes[::4]]
    means, deviations = ShapeSurrogate(shapes, 0).predicted(known, shapes)
    assert np.corrcoef(means, [shape.shares["second"] for shape in shapes])[0, 1] > 0.95
    assert all(deviations > 0)
    assert max(deviations) == max(deviations[2::4])  # between those that are known


def test_hints_count_as_far_as_they_have_proved_right():
    shares = {"first": 0.5}
    shapes = [Described(shares, 1000, hint) for hint in (-2.0, -1.0, 0.0, 1.0, 2.0)]
    right = [(shape, 0.5 + shape.hint / 10) for shape in shapes]
    wrong = [(shape, 0.5 - shape.hint / 10) for shape in shapes]
    for known, is_rising in ((right, True), (wrong, False)):
        means, _ = ShapeSurrogate(shapes, 0).predicted(known, shapes)
        assert (means[-1] > means[0]) == is_rising


@given(
    known=st.lists(st.tuples(st.floats(1, 90), st.floats(0.2, 0.9)), max_size=4),
    flops=st.floats(1, 90),
    mean=st.floats(0.1, 0.9),
)
@settings(max_examples=30)
def test_the_expected_gain_is_that_in_hypervolume(
    known: list[tuple[float, float]], flops: float, mean: float
):
    """For a score that is certain, that of the product's own hypervolume, in its unit."""
    reference = Reference(0.1, 100.0, 10.0)
    volume = Hypervolume(reference, ACCURACY)
    for cost, score in known:
        volume.add(outcome(flops=cost, validation_score=score))
    before = volume.value or 0.0
    volume.add(outcome(flops=flops, validation_score=mean))
    expected = ((volume.value or 0.0) - before) * math.log(10.0) * (1 - 0.1)
    limits = {"least_flops": 10.0, "most_flops": 100.0, "guessed": 0.1}
    gain = expected_gain(flops, (mean, 0.0), known, **limits)
    assert gain == pytest.approx(expected, abs=1e-9)


def test_what_is_uncertain_may_gain_where_what_is_certain_would_not():
    known = [(10.0, 0.5)]
    limits = {"least_flops": 1.0, "most_flops": 100.0, "guessed": 0.1}
    gains = [
        expected_gain(20.0, (0.5, deviation), known, **limits) for deviation in (0.0, 0.1, 0.2)
    ]
    assert gains[0] == 0 < gains[1] < gains[2]
    drawn = np.random.default_rng(0).normal(0.5, 0.2, 100_000)
    expected = np.maximum(drawn - 0.5, 0).mean() * math.log(5)
    assert gains[2] == pytest.approx(expected, rel=0.02)


def test_it_keeps_to_the_shapes_that_it_began_with(
    config: SearchConfig, preflight: Preflight, trials: list[Outcome]
):
    """Though a larger allowance has led to further trials since, with better shapes."""
    study = in_memory()
    first = shape_source(study, config, preflight, trials[:1], [])
    job = first.next()
    assert isinstance(job, FromScratchJob)
    first.finished(job, [outcome(job.key)])
    source = shape_source(study, config, preflight, trials, [])
    while (job := source.next()) is not None:
        assert isinstance(job, FromScratchJob)
        assert job.trial == 0
        source.finished(job, [outcome(job.key)])
    assert len(source.outcomes) == 3


def test_shapes_that_better_ones_have_replaced_since_are_still_chosen_among(
    config: SearchConfig, preflight: Preflight, trials: list[Outcome]
):
    """As where a larger limit has led to more trials: what was proposed must still be known."""
    study = in_memory()
    job = shape_source(study, config, preflight, trials, []).next()
    assert isinstance(job, FromScratchJob)
    better = [
        stored_outcome(config, preflight, number, dict.fromkeys(preflight.groups, width), 0.99)
        for number, width in ((7, 6), (8, 4))
    ]
    source = shape_source(study, config, preflight, [*better, *trials], [])
    again = source.next()
    assert isinstance(again, FromScratchJob)
    assert (again.key, again.profile, again.between) == (job.key, job.profile, job.between)


def test_a_shape_that_is_gone_is_told_in_one_line(
    config: SearchConfig, preflight: Preflight, trials: list[Outcome]
):
    judged(config, preflight, trials[1], 4, 5)
    study = in_memory()
    assert shape_source(study, config, preflight, trials, []).next()
    (config.directory / trials[1].path / "candidates.json").unlink()
    with pytest.raises(SearchStateError, match="no longer there: fine-tuned-1/"):
        shape_source(study, config, preflight, trials, [])


def test_a_ladder_that_no_shape_can_reach_comes_to_nothing(
    config: SearchConfig, preflight: Preflight, trials: list[Outcome]
):
    low = dataclasses.replace(config, ladder=(1e-6,))
    source = shape_source(in_memory(), low, preflight, trials, [])
    assert source.next() is None
    assert [ending.state for ending in source.endings.values()] == ["infeasible"] * 3


# ---- in a search


def tempered_study(config: SearchConfig) -> optuna.Study:
    storage = JournalStorage(JournalFileBackend(str(config.directory / "study.journal")))
    return optuna.load_study(study_name=f"{config.name}/tempered", storage=storage)


def quick(folder: Path) -> SearchConfig:
    """A search with six layers to narrow, so that not all points are shapes that are known."""
    return small_config(folder, study=StudyConfig(by_products=0, tempered_trials=3))


def test_a_search_has_tempered_networks_within_budget(tmp_path: Path, workers: Workers):
    config = quick(tmp_path)
    result = search.run(config)
    tempered = [o for o in result.results.everything if o.origin == "tempered"]
    assert tempered
    assert [key for key in workers.performed if key.startswith("tempered-")] == [
        o.key for o in tempered
    ]
    limits = Budget.parse(*config.budget).absolute(result.results.base)
    for found in tempered:
        stored = copycat.verify(config.directory / found.path, trust=["samples"])
        assert limits.scaled(found.rung or 0).allows(stored.cost)
        assert 0 <= found.details["rho"] <= 1
        assert stored.provenance["details"] == found.details
    study = tempered_study(config)
    assert len(study.trials) == 3
    own = [trial for trial in study.trials if trial.user_attrs["outcomes"]]
    assert [trial.values for trial in own] == [[o.validation_score, o.flops] for o in tempered]
    assert [trial.params["rho"] for trial in own] == [o.details["rho"] for o in tempered]
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * len(study.trials)
    workers.performed = []
    assert search.run(config).results == result.results
    assert len(tempered_study(config).trials) == 3
    assert workers.performed == []


def test_a_stopped_search_goes_on_with_the_shape_it_was_at(tmp_path: Path, workers: Workers):
    whole = search.run(quick(tmp_path / "whole"))
    stopped: list[str] = []

    def stop(job: Job, *rest: object) -> tuple[Outcome, ...]:
        if job.key.startswith("tempered-") and len(stopped) < 2:
            stopped.append(job.key)
            raise KeyboardInterrupt
        return perform(job, *rest)

    config = quick(tmp_path / "pieces")
    workers.perform = stop
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            search.run(config)
    assert stopped[0] == stopped[1]
    assert search.run(config).results == whole.results
    ends = [len(tempered_study(quick(tmp_path / part)).trials) for part in ("whole", "pieces")]
    assert ends[0] == ends[1]


def test_none_are_asked_for_none_are_made(tmp_path: Path, workers: Workers):
    config = quick_config(tmp_path, study=StudyConfig(tempered_trials=0))
    result = search.run(config)
    assert "tempered" not in {o.origin for o in result.results.everything}
    with pytest.raises(KeyError):
        tempered_study(config)
