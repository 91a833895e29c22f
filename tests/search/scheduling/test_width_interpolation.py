"""The searched dimension of families: between a found shape and the uniformly narrowed one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import optuna
import pytest
from optuna.storages import InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from samples import Workers, outcome, quick_config, small_config, stored_outcome

import copycat
import search
from pruning import Budget
from search.config.search_config import SearchConfig
from search.config.study_config import StudyConfig
from search.scheduling.from_scratch_jobs import members
from search.scheduling.optuna_study import open_study
from search.scheduling.width_interpolation import tempered_source
from search.tasks.score import ACCURACY
from search.trials.jobs import FromScratchJob, Job, Outcome
from search.trials.preflight import Preflight
from search.trials.trial import perform

KNOWN = "known beforehand"


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


def trained(jobs: Sequence[FromScratchJob]) -> list[Outcome]:
    """As if these members had been trained, each a bit better than the one before."""
    return [
        outcome(
            job.key,
            origin=job.origin,
            trial=job.trial,
            rung=job.rung,
            validation_score=0.5 + n / 100,
            flops=1000 + n,
        )
        for n, job in enumerate(jobs)
    ]


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
    source = tempered_source(study, config, preflight, trials, [])
    for rung, percent in ((1.0, 100), (0.5, 50)):
        for rho, origin in ((1.0, "copycat-0"), (0.0, "uniform")):
            study.enqueue_trial({"shape": "fine-tuned-0", "rung": rung, "rho": rho})
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
    source = tempered_source(in_memory(), config, preflight, trials, [])
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
        study.enqueue_trial({"shape": "fine-tuned-0", "rung": 1.0, "rho": rho})
    source = tempered_source(study, config, preflight, trials, [])
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
        study.enqueue_trial({"shape": "fine-tuned-0", "rung": 1.0, "rho": 0.0})
        member = outcome(origin="from-scratch", profile=digest, **changes)
        source = tempered_source(study, config, preflight, trials, [member])
        job = source.next()
        assert isinstance(job, FromScratchJob)
        assert (job.profile.digest != digest) == is_known


# ---- what it learns from


def test_it_learns_from_copycats_and_uniform_networks_once(
    config: SearchConfig, preflight: Preflight, trials: list[Outcome]
):
    jobs, _ = members(config, preflight, trials)
    family = trained(jobs)
    study = in_memory()
    for _ in range(2):  # the second time as after a restart
        source = tempered_source(study, config, preflight, trials, family)
        known = [trial for trial in study.trials if trial.user_attrs.get(KNOWN)]
        assert known == study.trials
        found = [(t.params["shape"], t.params["rung"], t.params["rho"], t.values) for t in known]
        expected = []
        for member in family:
            values = [member.validation_score, member.flops]
            if member.origin == "uniform":
                expected += [(f"fine-tuned-{n}", member.rung, 0.0, values) for n in (1, 0)]
            elif member.origin == "copycat":
                expected.append((f"fine-tuned-{member.trial}", member.rung, 1.0, values))
        assert sorted(found) == sorted(expected)
        assert len({m.origin for m in family if m.rung}) == 2
    assert len(source) == 3  # none of them counts as a tempered shape
    assert (source.outcomes, source.endings) == ([], {})


def test_it_keeps_to_the_shapes_that_it_began_with(
    config: SearchConfig, preflight: Preflight, trials: list[Outcome]
):
    """Though a larger allowance has led to further trials since, with better shapes."""
    study = in_memory()
    first = tempered_source(study, config, preflight, trials[:1], [])
    job = first.next()
    assert isinstance(job, FromScratchJob)
    first.finished(job, [outcome(job.key)])
    source = tempered_source(study, config, preflight, trials, [])
    while (job := source.next()) is not None:
        assert isinstance(job, FromScratchJob)
        assert job.trial == 0
        source.finished(job, [outcome(job.key)])
    assert len(source.outcomes) == 3


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
    proposed = [trial for trial in study.trials if not trial.user_attrs.get(KNOWN)]
    assert len(proposed) == 3
    own = [trial for trial in proposed if trial.user_attrs["outcomes"]]
    assert [trial.values for trial in own] == [[o.validation_score, o.flops] for o in tempered]
    assert [trial.params["rho"] for trial in own] == [o.details["rho"] for o in tempered]
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * len(study.trials)
    num_known = len(study.trials) - 3
    assert num_known >= 2  # a uniform network on each rung
    workers.performed = []
    assert search.run(config).results == result.results
    assert len(tempered_study(config).trials) == num_known + 3
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
