"""The stages of a search: repetitions, and what a killed process could not tell of."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from samples import Workers, hypervolume, quick_config

import search
from mlflow_server import MemoryRecorder, RunRecorder, schema
from mlflow_server.runs import Entry
from pruning.errors import EspalierError
from search.config.search_config import SearchConfig
from search.config.study_config import StudyConfig
from search.config.training_config import TrainingConfig
from search.results.report import Results
from search.scheduling.optuna_study import StudySource
from search.scheduling.shape_selection import shape_source
from search.storage.layout import EVENTS_FILE
from search.studies import search_stages, session
from search.tasks.score import ACCURACY
from search.tracking.event_file import EventFile
from search.trials.jobs import EpochRecord, Job, Outcome
from search.trials.pareto import Reference
from search.trials.trial import perform


@pytest.fixture
def config(tmp_path: Path) -> SearchConfig:
    return quick_config(tmp_path)


def statuses(memory: MemoryRecorder) -> set[str]:
    return {memory.read(key).status for key in memory.keys()}  # noqa: SIM118 - no mapping


def test_no_more_threads_are_used_than_control_groups_leave_cores(
    config: SearchConfig, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(session, "usable_cores", lambda: 2)
    monkeypatch.setattr("torch.get_num_threads", lambda: 64)
    threads: list[int] = []
    monkeypatch.setattr("torch.set_num_threads", threads.append)

    def stopped(*_: object) -> None:
        raise EspalierError("that is all")

    monkeypatch.setattr(session, "FolderLock", stopped)
    with pytest.raises(EspalierError, match="that is all"):
        search.run(config)
    assert threads == [2]


class Closed(RunRecorder):
    """Notes how it is closed."""

    def __init__(self) -> None:
        self.how: list[tuple[float, bool]] = []

    def write(self, entry: Entry) -> None:
        """Nobody reads it."""

    def close(self, timeout_seconds: float = 30.0, *, outages_pass: bool = True) -> int:
        self.how.append((timeout_seconds, outages_pass))
        return 0


@pytest.mark.parametrize(
    ("error", "how"),
    [(None, (60.0, True)), (EspalierError, (60.0, True)), (KeyboardInterrupt, (15.0, False))],
)
def test_who_interrupts_a_search_does_not_wait_for_mlflow(
    config: SearchConfig,
    workers: Workers,
    monkeypatch: pytest.MonkeyPatch,
    error: type[BaseException] | None,
    how: tuple[float, bool],
):
    """What it has not taken by then is in the spool, for the process that goes on."""
    recorder = Closed()
    monkeypatch.setattr(session, "run_recorder", lambda *_: recorder)

    def ended(*arguments: Any) -> tuple[Outcome, ...]:
        if error is not None:
            raise error("no more")
        return perform(*arguments)

    workers.perform = ended
    with nullcontext() if error is None else pytest.raises((error, EspalierError)):
        search.run(config)
    assert recorder.how == [how]


# ---- repetitions


def repeated(folder: Path, seeds: int = 2) -> SearchConfig:
    return quick_config(folder, trials=3, seeds=seeds)


def test_compared_trials_and_all_members_are_repeated_with_other_seeds(
    tmp_path: Path, workers: Workers, memory: MemoryRecorder
):
    config = repeated(tmp_path, seeds=3)
    results = search.run(config).results
    by_key = {o.key: o for o in results.everything}
    compared = {o.trial for o in results.everything if o.origin == "from-scratch"}
    assert compared
    for repeat in (1, 2):
        again = {
            o.trial
            for o in results.everything
            if o.key.endswith(f"-s{repeat}") and o.origin != "tempered"  # of any trial
        }
        assert again - {None} == compared
        for key, first in by_key.items():
            if "-s" in key or first.origin == "tempered" or first.trial not in {*compared, None}:
                continue
            other = by_key[f"{key}-s{repeat}"]
            assert other.network == first.network == key
            assert first.seed == config.seed_of(first.trial or 0)
            assert other.seed == config.seed_of(first.trial or 0, repeat)
            assert other.rung == first.rung
            if first.origin != "fine-tuned":  # whose shape another seed may change
                assert (other.profile, other.flops) == (first.profile, first.flops)
    assert len(workers.performed) == len({*workers.performed})
    for trial in compared:
        assert memory.read(f"trial/{trial}-s1").status == "finished"
        assert f"fine-tuned-{trial}-s2" in workers.performed
        folder = config.directory / "architectures" / f"fine-tuned-{trial}-s1"
        assert (folder / "architecture.json").exists()
    assert not [*(config.directory / "jobs").iterdir()]


def test_the_best_interpolated_shapes_are_repeated_as_well(
    tmp_path: Path, workers: Workers, monkeypatch: pytest.MonkeyPatch
):
    """What competes in means has several runs; those that no rung prefers have one."""
    monkeypatch.setattr(search_stages, "shape_source", knowing_nothing)
    study = StudyConfig(by_products=0, tempered_trials=3)
    results = search.run(dataclasses.replace(repeated(tmp_path), study=study)).results
    runs: dict[str, list[int]] = {}
    for found in results.everything:
        if found.origin == "tempered":
            runs.setdefault(found.network, []).append(found.seed)
    repeated_networks = {name for name, seeds in runs.items() if len(set(seeds)) == 2}
    competing = [c.entries["tempered"] for c in results.contests if "tempered" in c.entries]
    assert competing
    assert {entry.key for entry in competing} == repeated_networks
    assert all(len(seeds) == 1 for name, seeds in runs.items() if name not in repeated_networks)


def test_a_repetition_ends_elsewhere_than_its_trial(tmp_path: Path, workers: Workers):
    config = repeated(tmp_path)
    results = search.run(config).results
    (again, *_) = (o for o in results.everything if o.key.endswith("-s1"))
    folder = config.directory / "architectures"
    weights = [folder / key / "weights.safetensors" for key in (again.key, again.network)]
    assert weights[0].read_bytes() != weights[1].read_bytes()


def test_with_one_seed_nothing_is_repeated(tmp_path: Path, workers: Workers):
    results = search.run(repeated(tmp_path, seeds=1)).results
    assert {o.network for o in results.everything} == {o.key for o in results.everything}


@pytest.fixture(scope="module")
def uninterrupted() -> dict[str, tuple[Results, list[int]]]:
    """By name: what a search finds that nobody stops, and the seeds of its trainings, in order."""
    return {}


@pytest.mark.parametrize("part", ["fine-tuned", "uniform"])
def test_stopped_among_the_repetitions_none_is_made_twice(
    tmp_path: Path,
    workers: Workers,
    memory: MemoryRecorder,
    trained: list[int],
    uninterrupted: dict[str, tuple[Results, list[int]]],
    *,
    part: str,
):
    if "repeated" not in uninterrupted:
        found = search.run(repeated(tmp_path / "whole")).results
        uninterrupted["repeated"] = found, sorted(trained)
    whole, seeds = uninterrupted["repeated"]
    trained[:], workers.performed = [], []

    def stop(job: Job, context, data, report) -> tuple[Outcome, ...]:
        def then_stop(records: Sequence[EpochRecord]) -> None:
            report(records)
            if job.key.startswith(part) and job.key.endswith("-s1"):
                raise KeyboardInterrupt

        return perform(job, context, data, then_stop)

    config = repeated(tmp_path / "pieces")
    workers.perform = stop
    with pytest.raises(KeyboardInterrupt):
        search.run(config)
    workers.perform = perform
    assert search.run(config).results == whole
    assert sorted(trained) == seeds
    assert len(workers.performed) == len({*workers.performed})
    assert statuses(memory) == {"finished"}


# ---- what a killed process could not tell of


def knowing_nothing(*arguments: Any) -> StudySource:
    """The tempered shapes, also those that are there already: so small a network has no others."""
    source = shape_source(*arguments)
    source._known = lambda _: None
    return source


@pytest.mark.parametrize("key", ["fine-tuned-1", "uniform-b50", "tempered"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_what_was_finished_when_the_process_was_killed_is_told_of_by_the_next(
    tmp_path: Path,
    workers: Workers,
    memory: MemoryRecorder,
    trained: list[int],
    monkeypatch: pytest.MonkeyPatch,
    *,
    uninterrupted: dict[str, tuple[Results, list[int]]],
    key: str,
    when: str,
):
    """Killed before the record heard of it, or after that and before its states were removed."""
    monkeypatch.setattr(search_stages, "shape_source", knowing_nothing)
    if "quick" not in uninterrupted:
        found = search.run(quick_config(tmp_path / "whole")).results
        uninterrupted["quick"] = found, sorted(trained)
    whole, seeds = uninterrupted["quick"]
    trained[:] = []
    told = session.MlflowRecord.finished

    def dying(self: session.MlflowRecord, job: Job, outcomes: Sequence[Outcome]) -> None:
        if when == "after":
            told(self, job, outcomes)
        if job.key.startswith(key):
            raise KeyboardInterrupt
        if when == "before":
            told(self, job, outcomes)

    config = quick_config(tmp_path / "pieces")
    with monkeypatch.context() as patch:
        patch.setattr(session.MlflowRecord, "finished", dying)
        patch.setattr(session.StudyRuns, "interrupted", lambda self: None)
        with pytest.raises(KeyboardInterrupt):
            search.run(config)
    result = search.run(config).results
    assert result == whole
    assert sorted(trained) == seeds
    assert statuses(memory) == {"finished"}
    for outcome in result.everything:
        run = memory.read(f"architecture/{outcome.key}")
        assert run.metrics[schema.METRIC_FLOPS][-1][1] == outcome.flops
    assert not [*(config.directory / "jobs").iterdir()]


def test_why_a_trial_ended_is_told_by_the_next_process_too(
    tmp_path: Path, workers: Workers, memory: MemoryRecorder, monkeypatch: pytest.MonkeyPatch
):
    def dying(self: session.MlflowRecord, job: Job, ending: object) -> None:
        raise KeyboardInterrupt

    wild = TrainingConfig(1, 1, 1, batch_size=32)
    config = quick_config(tmp_path, training=wild)

    def diverging(job: Job, context, data, report) -> tuple[Outcome, ...]:
        if job.key != "fine-tuned-0":
            return perform(job, context, data, report)

        def nowhere(records: Sequence[EpochRecord]) -> None:
            report(records)
            raise EspalierError("no luck")

        return perform(job, context, data, nowhere)

    workers.perform = diverging
    with monkeypatch.context() as patch:
        patch.setattr(session.MlflowRecord, "ended", dying)
        patch.setattr(session.StudyRuns, "interrupted", lambda self: None)
        with pytest.raises(KeyboardInterrupt):
            search.run(config)
    assert memory.read("trial/0").status == "running"
    search.run(config)
    run = memory.read("trial/0")
    assert (run.status, run.tags[schema.TAG_FAILURE]) == ("failed", "no luck")
    assert not (config.directory / "jobs" / "fine-tuned-0").exists()


def test_the_hypervolume_goes_on_where_it_was(
    tmp_path: Path, workers: Workers, memory: MemoryRecorder
):
    """A step for each network, over restarts; the last is that of all of them."""
    config = quick_config(tmp_path)
    left = [4]

    def stop(job: Job, *rest: object) -> tuple[Outcome, ...]:
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return perform(job, *rest)

    workers.perform = stop
    with pytest.raises(KeyboardInterrupt):
        search.run(config)
    results = search.run(config).results
    curve = memory.read("search").metrics[schema.METRIC_HYPERVOLUME]
    assert [step for step, _ in curve] == list(range(1, len(results.everything) + 1))
    values = [value for _, value in curve]
    assert values == sorted(values)
    launched = next(EventFile(config.directory / EVENTS_FILE).read())
    expected = hypervolume(results.everything, Reference(**launched["reference"]), ACCURACY)
    assert values[-1] == pytest.approx(expected)
