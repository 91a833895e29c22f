"""search.run: from a SearchConfig to a front, a verdict and a folder of architectures."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from copycat.architecture import read, verify
from mlflow_server.runs import RunRecorder
from pruning.cost import Budget, format_count
from pruning.errors import (
    ArchitectureError,
    SearchFailedError,
)
from search import datasets, models
from search.config import SearchConfig, to_mapping
from search.distillation import check_teacher
from search.equipment import (
    SettingsFile,
    chosen_device,
    close_recorder,
    read_images,
    run_recorder,
    write_whole,
)
from search.families import members
from search.launch import cluster, run_tasks
from search.minibatches import steps_per_epoch
from search.pareto import front
from search.pictures import draw_all
from search.preflight import check
from search.progress import Progress
from search.recording import Recording
from search.report import CONFIG_FILE, RESULTS_FILE, Results, contests, plot_front
from search.space import SearchSpace
from search.study import StudySource
from search.tasks import EpochRecord, MemberTask, Observers, Outcome, Task, TaskList, TaskSource
from search.training import total_push
from search.trial import Workshop, member_epochs

_STUDY, _PLOT = "study.journal", "front.png"

_LEAST_TARGET = 0.25
"""Share of the budget that trials aim down to where the ladder has no rung below the whole."""


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    front: architectures that no other one beats in validation accuracy and FLOPs.
    verdict: which origin won at which budget, in words.
    path: the folder of the search; each outcome's `path` is below it.
    """

    front: tuple[Outcome, ...]
    verdict: str
    path: Path
    results: Results


def run(config: SearchConfig, *, console: Console | None = None) -> SearchResult:
    """Runs a search, or continues one that was stopped, and returns its result.

    Everything is checked before anything is trained or written: EspalierError says what is
    wrong. KeyboardInterrupt leaves what was finished in place; the same call continues.
    console: where progress is shown; none by default.
    """
    console = console or Console(quiet=True)
    device = chosen_device(config.device)
    settings = _settings_file(config)
    settings.require_same()
    data = read_images(config.data, config.model, config.seed, console)
    classes = tuple(data.classes)
    builder = models.resolve(
        config.model, num_classes=len(classes), in_channels=data.train.image_shape[0]
    )
    preflight = check(config, builder, data.train.image_shape, classes)
    if config.training.distill_from:
        check_teacher(config.training.distill_from, preflight.input_shape, classes)
    for line in preflight.describe():
        console.print(line, highlight=False, soft_wrap=True)
    recorder = run_recorder(config.runs, config.name, config.mlflow_url)
    settings.write()
    workshop = Workshop(config, preflight, device)
    return _Session(workshop, data, console, recorder).run()


class _Session:
    """One process's work on a search."""

    def __init__(
        self,
        workshop: Workshop,
        data: datasets.ImageData,
        console: Console,
        recorder: RunRecorder,
    ) -> None:
        self._workshop, self._data, self._console = workshop, data, console
        self._config, self._preflight = workshop.config, workshop.preflight
        self._recorder = recorder
        self._progress = Progress(console, 0)
        self._recording = Recording(recorder, self._config, self._preflight)
        self._failures: dict[str, str] = {}
        self._num_workers = self._config.concurrency or _default_workers(workshop.device)
        self._stack = ExitStack()
        self._has_cluster = False

    def run(self) -> SearchResult:
        try:
            results = self._stages()
            self._conclude(results)
        except SearchFailedError as error:
            self._recording.found_nothing(str(error))
            raise
        except BaseException:
            self._recording.interrupted()
            raise
        finally:
            close_recorder(self._recorder, self._console)
        return SearchResult(results.front, results.verdict, self._config.directory, results)

    def _stages(self) -> Results:
        source = self._study()
        for task in source.lost:
            self._recording.lost(task)
        self._progress.expect(self._expected_steps(len(source)))
        with ExitStack() as self._stack:
            self._stack.enter_context(self._progress.showing())
            self._perform(source)
            trials = source.outcomes
            if not trials:
                raise SearchFailedError(
                    f"all {len(source.failures)} trials failed, the first of them because: "
                    f"{next(iter(source.failures.values()))}"
                )
            tasks, notes = members(self._config, self._preflight, trials)
            missing = [task for task in tasks if self._stored(task) is None]
            self._progress.expect(sum(member_epochs(task, self._workshop) for task in missing))
            self._perform(TaskList(missing))
        self._failures.update((f"trial {n}", why) for n, why in source.failures.items())
        found = [self._stored(task) for task in tasks]
        return self._results([*trials, *(o for o in found if o is not None)], notes)

    def _perform(self, source: TaskSource) -> None:
        if len(source) == 0:
            return
        if not self._has_cluster:
            self._stack.enter_context(cluster(self._num_workers))
            self._has_cluster = True
        observer = Observers([self._progress, self._recording, _Failures(self._failures)])
        run_tasks(source, self._workshop, self._data, observer, num_workers=self._num_workers)

    def _expected_steps(self, num_trials: int) -> int:
        training, rungs = self._config.training, len(self._config.ladder)
        num_members = self._config.profiles * (1 + rungs) + rungs
        per_trial = training.epochs + training.fine_tune_epochs
        return num_trials * per_trial + num_members * training.scratch_epochs

    def _stored(self, task: MemberTask) -> Outcome | None:
        """What an earlier process of this search made of the task; the folder is the record."""
        path = f"architectures/{task.key}"
        try:
            return stored_outcome(self._config.directory, path)
        except ArchitectureError:
            return None

    def _results(self, everything: list[Outcome], notes: list[str]) -> Results:
        certified = [o for o in everything if self._is_certified(o, notes)]
        preflight = self._preflight
        within = [o for o in certified if preflight.limits.allows(o.cost)]
        if not within:
            raise SearchFailedError(f"no architecture could be certified: {'; '.join(notes[:1])}")
        rungs = [preflight.limits.scaled(rung) for rung in self._config.ladder]
        return Results(
            base=preflight.base,
            budget=str(preflight.budget),
            num_test=len(self._data.test),
            everything=tuple(within),
            front=tuple(front(within)),
            contests=contests(within, [(self._rung_label(rung), rung) for rung in rungs]),
            failures=self._failures,
            notes=tuple(notes),
        )

    def _rung_label(self, rung: Budget) -> str:
        parts = [
            f"{b.quantity} ≤ {format_count(b.value)} "
            f"({100 * b.value / getattr(self._preflight.base, b.quantity):.3g} % of base)"
            for b in rung.bounds
        ]
        return ", ".join(parts)

    def _is_certified(self, outcome: Outcome, notes: list[str]) -> bool:
        """Whether the stored folder rebuilds to the stated cost, by fvcore's count."""
        try:
            verify(self._config.directory / outcome.path, trust=self._preflight.builder.modules)
        except ArchitectureError as error:
            notes.append(f"{outcome.key} is left out: {error}")
            return False
        return True

    def _conclude(self, results: Results) -> None:
        directory = self._config.directory
        text = json.dumps(results.to_mapping(), indent=2)
        write_whole(directory / RESULTS_FILE, text)
        plot_front(results, directory / _PLOT)
        on_front = {outcome.key: outcome for outcome in results.front}
        widths = {name: self._preflight.graph.group(name).width for name in self._preflight.groups}
        pictures = draw_all(directory, results, widths)
        files = [directory / _PLOT, directory / RESULTS_FILE, *pictures]
        self._recording.conclude(on_front, list(results.everything), files)

    def _study(self) -> StudySource:
        config, preflight = self._config, self._preflight
        high = float(preflight.flops_limit)
        least = min((rung for rung in config.ladder if rung < 1), default=_LEAST_TARGET)
        low = max(float(preflight.floor.flops), high * least)
        steps = steps_per_epoch(len(self._data.train), config.training.batch_size)
        push = total_push(config.training, config.training.epochs, steps)
        targets = [max(low, high * rung) for rung in sorted(config.ladder, reverse=True)]
        return StudySource(
            config.directory / _STUDY,
            SearchSpace(push, (low, high), config.criterion, config.granularity),
            preflight.limits,
            config.trials,
            seed=config.seed,
            first_targets=targets,
        )


class _Failures:
    """An observer that keeps why members of families failed; the study does so for trials."""

    def __init__(self, reasons: dict[str, str]) -> None:
        self._reasons = reasons

    def started(self, task: Task) -> None:
        """Nothing has failed yet."""

    def epoch(self, task: Task, record: EpochRecord) -> None:
        """Nothing has failed yet."""

    def finished(self, task: Task, outcome: Outcome) -> None:
        """Nothing has failed."""

    def failed(self, task: Task, reason: str) -> None:
        if isinstance(task, MemberTask):
            self._reasons[task.key] = reason


def stored_outcome(directory: Path, path: str) -> Outcome:
    """The outcome that an architecture folder of a search records; ArchitectureError if none."""
    architecture = read(directory / path)
    record = architecture.provenance
    return Outcome(
        key=Path(path).name,
        origin=record["origin"],
        trial=record["trial"],
        rung=record["rung"],
        alpha=record["alpha"],
        flops=architecture.cost.flops,
        params=architecture.cost.params,
        validation_accuracy=record["validation_accuracy"],
        test_accuracy=record["test_accuracy"],
        profile=architecture.profile.digest,
        path=path,
        seed=record.get("seed_of_weights", 0),
        equal_compute=record.get("equal_compute", False),
        images=record.get("images", 0),
        compute=record.get("compute", 0.0),
        weight_bytes=architecture.cost.weight_bytes,
        peak_activation_bytes=architecture.cost.peak_activation_bytes,
        latency_ms=architecture.cost.latency_ms,
    )


def _default_workers(device: str) -> int:
    """One task at a time on a GPU, whose memory nothing divides; otherwise one per core."""
    return 1 if device == "cuda" else os.cpu_count() or 1


_MAY_CHANGE = ("concurrency", "device", "mlflow_url", "runs", "data.root", "data.download")
"""Settings of the machine, not of the search: they may differ when a search is continued."""


def _settings_file(config: SearchConfig) -> SettingsFile:
    return SettingsFile(
        config.directory / CONFIG_FILE,
        "search",
        to_mapping(config),
        matters=lambda name: name not in _MAY_CHANGE,
    )
