"""Searches from end to end without Ray: what becomes of failures, interruptions and restarts."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from samples import (
    ABSOLUTE_ERROR,
    Perform,
    ProbabilityError,
    Workers,
    espalier,
    quick_config,
    small_config,
)
from torch import nn

import copycat
import search
from mlflow_server import MemoryRecorder, schema
from pruning import Budget, measure_cost
from pruning.errors import (
    DataError,
    EspalierError,
    SearchFailedError,
    SearchStateError,
    TrainingDivergedError,
)
from search.config.data_config import DataConfig
from search.config.search_config import SearchConfig
from search.config.settings import from_mapping
from search.config.training_config import TrainingConfig
from search.data import datasets
from search.results.pictures import draw_all
from search.results.report import Results, open_results
from search.studies import publishing, search_study, session
from search.tasks import registry as tasks
from search.tasks.score import ACCURACY
from search.trials.jobs import Job, JobSource, Outcome
from search.trials.pareto import front
from search.trials.trial import perform


@pytest.fixture
def config(tmp_path: Path) -> SearchConfig:
    return quick_config(tmp_path)


PLOTLY = r'<script id="plotly".*?</script>'
"""In a report: the library that draws it."""


def study_of(config: SearchConfig) -> optuna.Study:
    """Read by Optuna alone."""
    storage = JournalStorage(JournalFileBackend(str(config.directory / "study.journal")))
    return optuna.load_study(study_name=config.name, storage=storage)


def trials_of(config: SearchConfig) -> list[optuna.trial.FrozenTrial]:
    """The study's trials, read by Optuna alone."""
    return study_of(config).trials


def statuses(memory: MemoryRecorder) -> dict[str, str]:
    return {run.key: run.status for run in map(memory.read, memory.keys())}


def own_keys(results: Results) -> list[str]:
    """Of the networks that are no by-products, which have the names of their jobs."""
    networks = [o for o in results.networks if not o.key.startswith("fine-tuned")]
    trials = [f"fine-tuned-{o.trial}" for o in results.everything if o.origin == "fine-tuned"]
    return sorted({*trials, *(o.key for o in networks)})


def failing(*keys: str, error: BaseException | None = None) -> Perform:
    """Performs jobs, but raises for these."""

    def perform_or_raise(job: Job, *rest: object) -> tuple[Outcome, ...]:
        if job.key in keys:
            raise error or TrainingDivergedError(f"{job.key} had no luck")
        return perform(job, *rest)

    return perform_or_raise


@pytest.mark.parametrize(
    "budget",
    [("params=60%",), ("flops=50%", "params=400"), ("flops=20k",), ("weight_bytes=60%",)],
    ids=" ".join,
)
def test_whatever_is_bounded_everything_is_within(
    tmp_path: Path, workers: Workers, budget: tuple[str, ...]
):
    config = quick_config(tmp_path, budget=budget)
    result = search.run(config)
    limits = Budget.parse(*budget).absolute(result.results.base)
    assert result.path == config.directory
    assert own_keys(result.results) == sorted(workers.performed)
    assert len(workers.performed) >= 4
    for stored in result.results.everything:
        network = copycat.load(result.path / stored.path, trust=["samples"])
        assert limits.allows(measure_cost(network, torch.zeros(1, 1, 8, 8))), stored.key
    assert result.front == tuple(front(result.results.everything, ACCURACY))
    assert [contest.label.partition(" ")[0] for contest in result.results.contests] == [
        budget[0].partition("=")[0]
    ] * 2


def test_a_score_to_minimise_has_its_name_and_direction_in_everything_there_is(
    tmp_path: Path, workers: Workers, memory: MemoryRecorder, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(tasks._TASKS, "errors", ProbabilityError)
    config = quick_config(tmp_path, task="errors", trials=3)
    found = search.run(config).results
    assert found.score == open_results(config.directory).score == ABSOLUTE_ERROR
    everything = sorted(found.everything, key=lambda o: (o.validation_score, o.flops))
    assert found.front[-1].key == everything[0].key
    for dearer in found.front[1:]:
        assert dearer.validation_score < found.front[0].validation_score
    stored = copycat.read(config.directory / found.front[0].path)
    assert stored.provenance["score"] == ABSOLUTE_ERROR.to_mapping()
    assert study_of(config).metric_names == ["validation mean absolute error", "FLOPs"]
    recorded = {name for run in map(memory.read, memory.keys()) for name in run.metrics}
    assert "test_mean_absolute_error" in recorded
    told = [*recorded, *(run.description for run in map(memory.read, memory.keys()))]
    suffixes = (".json", ".jsonl", ".html", ".journal")
    files = [file for file in config.directory.rglob("*") if file.suffix in suffixes]
    assert {"results.json", "events.jsonl", "report.html"} <= {file.name for file in files}
    for text in [*told, *(re.sub(PLOTLY, "", file.read_text(), flags=re.S) for file in files)]:
        assert "accura" not in text.lower()


def test_activations_can_be_bounded(tmp_path: Path, workers: Workers):
    """Beside the closed form: the first convolution writes what the second one reads."""
    config = quick_config(tmp_path, budget=("peak_activation_bytes=3kB", "weight_bytes=2kB"))
    result = search.run(config)
    assert len(result.results.everything) >= 4
    for stored in result.results.everything:
        network = copycat.load(result.path / stored.path, trust=["samples"])
        widths = [layer.out_channels for layer in network if isinstance(layer, nn.Conv2d)]
        most = max(sum(widths), 2 * max(widths))  # two layers, or a norm and its activation
        assert 4 * 64 * most == stored.peak_activation_bytes <= 3000, stored.key
        assert stored.weight_bytes <= 2000, stored.key
    assert open_results(result.path).base.weight_bytes == result.results.base.weight_bytes
    label = result.results.contests[0].label
    assert label.startswith("peak_activation_bytes ≤ 3k (73.2 % of base), weight_bytes ≤ 2k")


@pytest.mark.parametrize("scope", ["global", "uniform"])
def test_channels_can_be_bounded(tmp_path: Path, workers: Workers, scope: str):
    """Of two convolutions of 8, half may stay, on the second rung a quarter: 8 and 4."""
    config = quick_config(
        tmp_path, budget=("channels=50%",), scope=scope, criterion=("magnitude-l1",), min_channels=2
    )
    result = search.run(config)
    assert {contest.limits.limit("channels") for contest in result.results.contests} == {8, 4}
    assert result.results.contests[0].label == "channels ≤ 8 (50 % of base)"
    for stored in result.results.everything:
        network = copycat.load(result.path / stored.path, trust=["samples"])
        widths = [layer.out_channels for layer in network if isinstance(layer, nn.Conv2d)]
        assert sum(widths) == stored.channels <= 8, stored.key
        assert scope == "global" or stored.trial is None or widths[0] == widths[1]
    assert result.results.base_network is not None
    assert result.results.base_network.channels == 16
    assert open_results(result.path).base.channels == 16
    report = espalier("report", config.study_name, "--runs", config.runs, "--json")
    assert all(row["channels"] <= 8 for row in json.loads(report.out)["networks"])
    shown = espalier("pareto", config.study_name, "--runs", config.runs, "--max=channels=25%")
    assert shown.status == 0, shown.err
    listed = espalier("list", "--runs", config.runs)
    assert config.study_name in listed.out
    kinds = ("--kinds=copycat,uniform,width", "--budgets=channels=50%", "--json")
    source = f"{config.study_name}/{result.front[0].key}"
    ladder = espalier("family", source, *kinds, "--runs", config.runs, "--trust=samples")
    assert ladder.status == 0, ladder.err
    assert [row["channels"] for row in json.loads(ladder.out)] == [8, 8, 8]
    kept = espalier("inspect", source, "--runs", config.runs, "--trust=samples")
    assert f"{result.front[0].channels} channels, " in kept.out


def test_equal_settings_give_equal_searches(
    tmp_path: Path, workers: Workers, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(session, "run_recorder", lambda *_: MemoryRecorder())
    one, two, three = (
        search.run(quick_config(tmp_path / folder, seed=seed))
        for folder, seed in (("one", 0), ("two", 0), ("three", 1))
    )
    assert one.results == two.results
    assert one.results != three.results


def test_wrong_test_labels_change_no_choice(
    tmp_path: Path, workers: Workers, monkeypatch: pytest.MonkeyPatch
):
    """Not the proposals, not the shapes, not the front; only what is reported of them."""
    settings = TrainingConfig(3, 3, 3, batch_size=16)
    honest = search.run(quick_config(tmp_path / "honest", training=settings)).results
    load = datasets.load

    def poisoned(*arguments: object, **options: object) -> datasets.ImageData:
        data = load(*arguments, **options)
        test = dataclasses.replace(data.test, labels=(data.test.labels + 1) % 10)
        return dataclasses.replace(data, test=test)

    monkeypatch.setattr(datasets, "load", poisoned)
    fooled = search.run(quick_config(tmp_path / "fooled", training=settings)).results
    best_honest, best_fooled = (
        max(o.test_score for o in results.everything) for results in (honest, fooled)
    )
    assert best_honest > best_fooled + 0.1

    def blind(outcomes: tuple[Outcome, ...]) -> list[Outcome]:
        return [dataclasses.replace(o, test_score=0.0) for o in outcomes]

    assert blind(honest.everything) == blind(fooled.everything)
    assert blind(honest.front) == blind(fooled.front)
    for one, two in zip(honest.contests, fooled.contests, strict=True):
        assert {origin: o.key for origin, o in one.entries.items()} == {
            origin: o.key for origin, o in two.entries.items()
        }


# ---- failures


def test_a_trial_that_fails_is_told_once_and_the_search_goes_on(
    config: SearchConfig, workers: Workers, memory: MemoryRecorder
):
    workers.perform = failing("fine-tuned-0")
    result = search.run(config)
    assert result.results.failures == {"trial 0": "fine-tuned-0 had no luck"}
    assert [t.state for t in trials_of(config)] == [TrialState.FAIL, TrialState.COMPLETE]
    assert memory.read("trial/0").status == "failed"
    assert memory.read("trial/0").tags[schema.TAG_FAILURE] == "fine-tuned-0 had no luck"
    assert "architecture/fine-tuned-0" not in statuses(memory)
    assert memory.read("search").status == "finished"
    assert {o.trial for o in result.results.everything} == {1, None}


def test_a_member_that_fails_is_tried_again_by_the_same_command(
    config: SearchConfig, workers: Workers, memory: MemoryRecorder
):
    workers.perform = failing("uniform-b100")
    assert search.run(config).results.failures == {"uniform-b100": "uniform-b100 had no luck"}
    assert memory.read("architecture/uniform-b100").status == "failed"
    workers.perform, workers.performed = perform, []
    again = search.run(config)
    assert workers.performed == ["uniform-b100"]
    assert again.results.failures == {}
    assert "uniform-b100" in [o.key for o in again.results.everything]
    assert memory.read("architecture/uniform-b100").status == "finished"


def test_a_search_fails_if_all_its_trials_do(
    config: SearchConfig, workers: Workers, memory: MemoryRecorder
):
    workers.perform = failing("fine-tuned-0", "fine-tuned-1")
    expected = "all 2 trials failed, the first of them because: fine-tuned-0 had no luck"
    for _ in range(2):  # the second time nothing is left to be tried: they would diverge again
        with pytest.raises(SearchFailedError, match=f"^{expected}$"):
            search.run(config)
    assert memory.read("search").status == "failed"
    assert memory.read("search").tags[schema.TAG_FAILURE] == expected
    with pytest.raises(SearchStateError, match="has not finished"):
        open_results(config.directory)


def test_what_failed_for_a_reason_that_may_be_mended_is_tried_again(
    config: SearchConfig, workers: Workers, memory: MemoryRecorder
):
    """By the same command: under their numbers, and with their proposals."""
    keys = ("fine-tuned-0", "fine-tuned-1")
    workers.perform = failing(*keys, error=DataError("cannot read image a.png"))
    expected = (
        "all 2 trials failed, the first of them because: cannot read image a.png; the "
        "same command tries them again"
    )
    with pytest.raises(SearchFailedError, match=f"^{expected}$"):
        search.run(config)
    before = [trial.params for trial in trials_of(config)]
    workers.perform, workers.performed = perform, []
    result = search.run(config)
    assert workers.performed[:2] == list(keys)
    assert result.results.failures == {}
    after = trials_of(config)
    assert [trial.params for trial in after] == before * 2
    assert {o.trial for o in result.results.everything} >= {0, 1}
    assert {memory.read(f"trial/{number}").status for number in (0, 1)} == {"finished"}
    assert memory.read("search").status == "finished"
    workers.performed = []
    search.run(config)
    assert workers.performed == []


def imitating(config: SearchConfig) -> SearchConfig:
    training = dataclasses.replace(config.training, distill=True)
    return dataclasses.replace(config, training=training)


class AskedTwice:
    """A source that is asked for another job while the base network is trained."""

    def __init__(self, source: JobSource, beside: list[Job | None]) -> None:
        self._source, self._beside = source, beside

    def next(self) -> Job | None:
        job = self._source.next()
        if job is not None and job.key == "base":
            self._beside.append(self._source.next())
        return job

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)


def test_the_base_is_trained_before_those_that_imitate_it(
    config: SearchConfig, workers: Workers, monkeypatch: pytest.MonkeyPatch
):
    """Before them, not beside them, however many jobs are performed at once."""
    beside: list[Job | None] = []
    plain = workers.cluster

    @contextmanager
    def cluster(*arguments: Any) -> Iterator[Callable[..., None]]:
        with plain(*arguments) as perform_all:
            yield lambda source, observer: perform_all(AskedTwice(source, beside), observer)

    executor = SimpleNamespace(cluster=cluster)
    monkeypatch.setattr("search.studies.session.ray_executor", executor)
    results = search.run(imitating(config)).results
    assert beside == [None]
    assert workers.performed[0] == "base"
    folders = [config.directory / outcome.path for outcome in results.everything]
    assert len(folders) > 4
    assert {copycat.read(f).provenance.get("distill_from") for f in folders} == {"base"}
    base = config.directory / "architectures" / "base"
    assert "distill_from" not in copycat.read(base).provenance


def test_without_the_base_nothing_is_trained_that_would_imitate_it(
    config: SearchConfig, workers: Workers
):
    workers.perform = failing("base")
    expected = "there is no base network to learn from: base had no"
    with pytest.raises(SearchFailedError, match=f"^{expected} luck$"):
        search.run(imitating(config))
    assert workers.performed == []
    workers.perform = perform
    assert search.run(imitating(config)).results.failures == {}
    assert workers.performed[0] == "base"


def test_divergence_of_every_trial_is_such_a_failure(tmp_path: Path, workers: Workers):
    wild = TrainingConfig(1, 1, 1, batch_size=32, learning_rate=1e30)
    with pytest.raises(SearchFailedError, match="because: training diverged in epoch 1"):
        search.run(quick_config(tmp_path, training=wild))


def test_an_accuracy_that_is_no_number_never_reaches_the_front(
    config: SearchConfig, workers: Workers
):
    def lost(job: Job, *rest: object) -> tuple[Outcome, ...]:
        own, *others = perform(job, *rest)
        if job.key == "fine-tuned-0":
            own = dataclasses.replace(own, validation_score=math.nan)
        return (own, *others)

    workers.perform = lost
    result = search.run(config)
    assert result.results.failures == {"trial 0": "validation accuracy is nan"}
    assert "fine-tuned-0" not in [o.key for o in result.results.everything]


# ---- interruptions


class Stop:
    """Presses Ctrl-C in the `at`-th epoch."""

    def __init__(self, at: int) -> None:
        self.left = at

    def __call__(self, job: Job, context, data, report) -> tuple[Outcome, ...]:
        def counted(records: Sequence[object]) -> None:
            self.left -= len(records) == 1  # more are those of an earlier process
            if self.left == 0:
                raise KeyboardInterrupt
            report(records)

        return perform(job, context, data, counted)


@pytest.mark.parametrize("epoch", [1, 2, 4, 5, 8])
def test_a_search_goes_on_wherever_it_was_stopped(
    config: SearchConfig, workers: Workers, memory: MemoryRecorder, epoch: int
):
    """One epoch is of the base network, six of trials, the rest of members."""
    workers.perform = Stop(epoch)
    with pytest.raises(KeyboardInterrupt):
        search.run(config)
    finished = list(workers.performed)
    assert "running" not in statuses(memory).values()
    assert memory.read("search").status == "killed"
    before = trials_of(config)
    workers.perform, workers.performed = perform, []
    result = search.run(config)
    assert not set(finished) & set(workers.performed)
    after = trials_of(config)
    complete = [trial for trial in after if trial.state is TrialState.COMPLETE]
    assert len(complete) == config.trials
    assert all(trial.state.is_finished() for trial in after)
    lost = [trial.params for trial in before if trial.state is TrialState.RUNNING]
    assert all(params in [trial.params for trial in complete] for params in lost)
    assert result.results.failures == {}
    assert own_keys(result.results) == sorted(finished + workers.performed)
    assert "running" not in statuses(memory).values()
    assert memory.read("search").status == "finished"


@pytest.mark.parametrize("epoch", [1, 4, 6])
def test_what_a_killed_process_left_running_is_put_in_order(
    config: SearchConfig,
    workers: Workers,
    memory: MemoryRecorder,
    monkeypatch: pytest.MonkeyPatch,
    epoch: int,
):
    workers.perform = Stop(epoch)
    with monkeypatch.context() as patch:
        patch.setattr(session.StudyRuns, "interrupted", lambda self: None)
        with pytest.raises(KeyboardInterrupt):
            search.run(config)
    assert "running" in statuses(memory).values()
    workers.perform = perform
    assert search.run(config).front
    assert "running" not in statuses(memory).values()


def test_an_interruption_at_the_very_end_costs_no_training(
    config: SearchConfig, workers: Workers, monkeypatch: pytest.MonkeyPatch
):
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(publishing, "front_figure", stop)
        with pytest.raises(KeyboardInterrupt):
            search.run(config)
    workers.performed = []
    assert search.run(config).front
    assert workers.performed == []


def test_curves_that_were_cut_off_keep_no_search_from_going_on(
    config: SearchConfig, workers: Workers
):
    expected = search.run(config).results
    curves = [*config.directory.glob("architectures/*/curve.json")]
    assert curves
    for curve in curves:
        curve.write_bytes(curve.read_bytes()[:-20])
    (config.directory / "results.json").unlink()
    workers.performed = []
    assert search.run(config).results.front == expected.front
    assert workers.performed == []


def test_a_finished_search_returns_at_once(
    config: SearchConfig, workers: Workers, memory: MemoryRecorder
):
    first = search.run(config)
    keys, workers.performed = memory.keys(), []
    again = search.run(config)
    assert workers.performed == []
    assert again.results == first.results == open_results(config.directory)
    assert again.verdict == first.verdict
    assert memory.keys() == keys


@pytest.mark.parametrize("how", ["missing", "damaged"])
def test_a_member_that_is_gone_is_made_again(config: SearchConfig, workers: Workers, how: str):
    search.run(config)
    folder = config.directory / "architectures" / "uniform-b50"
    if how == "missing":
        shutil.rmtree(folder)
    else:
        (folder / "architecture.json").write_text("{")
    workers.performed = []
    again = search.run(config)
    assert workers.performed == ["uniform-b50"]
    assert "uniform-b50" in [o.key for o in again.results.everything]


def test_damaged_weights_are_left_out_with_a_note(config: SearchConfig, workers: Workers):
    search.run(config)
    weights = config.directory / "architectures" / "fine-tuned-0" / "weights.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-400] + bytes(400))
    results = search.run(config).results
    assert "fine-tuned-0" not in [o.key for o in (*results.everything, *results.front)]
    assert any(note.startswith("fine-tuned-0 is left out: ") for note in results.notes)
    assert all(o.key != "fine-tuned-0" for c in results.contests for o in c.entries.values())


def test_at_the_end_only_networks_of_earlier_processes_are_loaded(
    config: SearchConfig, workers: Workers, monkeypatch
):
    """The others were by their workers, while others trained."""
    loaded: list[str] = []

    def certify(outcomes: Sequence[Outcome], *rest: object) -> None:
        loaded.extend(o.key for o in outcomes)

    monkeypatch.setattr("search.studies.publishing.certify", certify)
    search.run(config)
    assert loaded == []
    results = search.run(config).results
    assert set(loaded) >= {outcome.key for outcome in results.everything}


def test_a_search_of_which_nothing_can_be_certified_has_failed(
    config: SearchConfig, workers: Workers
):
    search.run(config)
    for weights in (config.directory / "architectures").glob("*/weights.safetensors"):
        weights.write_bytes(b"")
    with pytest.raises(SearchFailedError, match="no architecture could be certified"):
        search.run(config)


# ---- folders


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"trials": 3}, "trials"),
        ({"budget": ("flops=20%",)}, "budget"),
        ({"training": TrainingConfig(2, 1, 1, batch_size=32)}, r"training\.epochs"),
        ({"data": DataConfig(limit_train=250)}, r"data\.limit_train"),
        ({"seed": 1, "profiles": 3}, r"profiles \(it has 1, now 3\), seed"),
    ],
)
def test_another_search_in_the_same_folder_is_refused(
    config: SearchConfig, workers: Workers, changes: dict[str, object], named: str
):
    config.directory.mkdir(parents=True)
    search_study.settings_file(config).write()
    before = sorted(config.directory.rglob("*"))
    with pytest.raises(SearchStateError, match=rf"holds another search, which differs in {named}"):
        search.run(dataclasses.replace(config, **changes))
    assert sorted(config.directory.rglob("*")) == before
    assert workers.performed == []


def test_settings_of_the_machine_may_change(config: SearchConfig, workers: Workers):
    workers.perform = Stop(3)
    with pytest.raises(KeyboardInterrupt):
        search.run(config)
    workers.perform = perform
    data = dataclasses.replace(config.data, root="elsewhere", download=True)
    search.run(dataclasses.replace(config, concurrency=1, device="auto", data=data))


@pytest.mark.parametrize("content", [None, "", "3", "[]", "{}"])
def test_a_folder_of_something_else_is_refused(
    config: SearchConfig, workers: Workers, content: str | None
):
    config.directory.mkdir(parents=True)
    (config.directory / "precious").write_text("")
    if content is not None:
        (config.directory / "search.json").write_text(content)
    with pytest.raises(SearchStateError, match=r"holds (no|another) search"):
        search.run(config)
    assert workers.performed == []


def test_an_empty_folder_is_welcome(config: SearchConfig, workers: Workers):
    config.directory.mkdir(parents=True)
    assert search.run(config).front


@pytest.mark.parametrize("level", ["runs", "runs/small"])
def test_a_file_in_the_way_is_refused(tmp_path: Path, workers: Workers, level: str):
    (tmp_path / level).parent.mkdir(exist_ok=True)
    (tmp_path / level).write_text("precious")
    with pytest.raises(EspalierError):
        search.run(quick_config(tmp_path))
    assert (tmp_path / level).read_text() == "precious"


def test_the_folder_says_what_was_asked_for(
    config: SearchConfig, workers: Workers, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(publishing, "draw_all", draw_all)
    search.run(config)
    content = json.loads((config.directory / "search.json").read_text())
    assert from_mapping(SearchConfig, content) == config.resolved()
    assert sorted(path.name for path in config.directory.iterdir()) == [
        ".lock",
        "architectures",
        "events.jsonl",
        "front.png",
        "jobs",
        "pictures",
        "report.html",
        "results.json",
        "search.json",
        "spent.json",
        "study.journal",
        "summary.jsonl",
    ]


def test_a_network_of_the_users_own_is_searched_like_any_other(
    tmp_path: Path, workers: Workers, monkeypatch: pytest.MonkeyPatch
):
    """Also through a name that only refers to where the network is defined."""
    (tmp_path / "own_definition.py").write_text(
        "from search.models import digits_vgg\n\n\n"
        "def make(num_classes):\n    return digits_vgg(num_classes)\n"
    )
    (tmp_path / "own_network.py").write_text("from own_definition import make\n")
    monkeypatch.chdir(tmp_path)
    config = small_config(tmp_path, model="own_network:make", trials=1, profiles=1)
    result = search.run(config)
    assert result.results.notes == ()
    for stored in result.front:
        trusted = ("own_network", "own_definition")
        network = copycat.load(result.path / stored.path, trust=trusted)
        assert measure_cost(network, torch.zeros(1, 1, 8, 8)).flops == stored.flops


def test_a_search_expects_as_many_epochs_as_it_takes(
    tmp_path: Path, workers: Workers, monkeypatch: pytest.MonkeyPatch
):
    expected: list[int] = []
    monkeypatch.setattr(session.Progress, "expect", lambda self, steps: expected.append(steps))
    config = quick_config(tmp_path, training=TrainingConfig(2, 1, 3, batch_size=32))
    results = search.run(config).results
    scratch = [o for o in results.everything if o.origin not in ("fine-tuned", "tempered")]
    longer = [o for o in scratch if o.equal_compute]
    at_most, members, left = expected
    tempered = config.training.scratch_epochs
    trained = config.training.scratch_epochs * (len(scratch) - len(longer))
    assert trained + 3 * len(longer) <= members - tempered <= trained + 6 * len(longer)
    # those at equal compute, for which nothing waits, come after the tempered one
    assert 3 * len(longer) <= left - tempered <= 6 * len(longer)
    assert 2 * (2 + 2 * 1) + members <= at_most
