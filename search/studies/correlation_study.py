"""A correlation study: how well do criteria predict what removing a channel does to the loss?

Source: Molchanov et al., "Importance Estimation for Neural Network Pruning", §4.1.2 and §4.2.1,
tables 1 and 2.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from mlflow_server import schema
from mlflow_server.runs import RunRecorder
from pruning.criteria import Criterion, FirstOrderCriterion, Obd, Oracle, score_together
from pruning.errors import CriterionError
from pruning.graph.channel_graph import ChannelGraph
from pruning.sigmoid_batchnorm import to_sigmoid_batchnorm
from search import models
from search.config.correlation_config import ORACLE, CorrelationConfig, candidates, criterion_of
from search.config.methods import method
from search.data.datasets import ImageData
from search.results.correlation import UnitScores, agreement, ranked, unit_scores
from search.results.correlation_report import Study, content
from search.results.figures import correlation_chart
from search.storage.durable import write_durably
from search.studies.dry_run import dry_run_of_search
from search.studies.setup import (
    SettingsFile,
    chosen_device,
    close_recorder,
    read_images,
    run_recorder,
)
from search.training.minibatches import scoring_batches
from search.training.trainer import EpochReport, train
from search.trials.job_context import JobContext, fresh_base
from search.trials.preflight import Preflight, check, judged_groups
from search.trials.search_space import SearchSpace

STUDY = "correlation"
"""Key of the parent run, and name of the files in the folder of a study."""

_SETTINGS_FILE = f"{STUDY}-settings.json"
_STOPPED = "stopped before its end"
_MAY_CHANGE = ("device", "runs", "mlflow_url", "data.root", "data.download")
"""Settings of the machine, not of the study."""

Advance = Callable[[str, int, int], None]
"""Called with the name of a stage, the steps of it that are done and how many there will be."""


@dataclass(frozen=True)
class _Subject:
    """What is studied: a network that is not trained yet, and who judges which of its layers."""

    config: CorrelationConfig
    preflight: Preflight
    criteria: Mapping[str, Criterion]
    layers: tuple[str, ...]
    device: torch.device

    @property
    def num_units(self) -> int:
        """Units of all layers together."""
        return sum(self.preflight.graph.group(name).num_units for name in self.layers)


def run(config: CorrelationConfig, *, console: Console | None = None) -> Study:
    """Trains the network, scores it by every criterion and the oracle, and compares them.

    Everything is checked before anything is trained or written: EspalierError says what is
    wrong. console: where progress is shown; none by default.
    """
    console = console or Console(quiet=True)
    device = torch.device(chosen_device(config.device))
    settings = _settings_file(config)
    settings.require_same()
    data = read_images(config.data, config.model, config.seed, console)
    subject = _subject(config, data, device)
    _try_out(subject, data)
    console.print(
        f"{subject.num_units:,} units in {len(subject.layers)} layers; "
        f"criteria: {', '.join(subject.criteria)}",
        highlight=False,
        soft_wrap=True,
    )
    recorder = run_recorder(config.runs, config.name, config.mlflow_url)
    try:
        settings.write()
        with _recorded(recorder, subject), _bars(console) as advance:
            return _studied(subject, data, recorder, advance)
    finally:
        close_recorder(recorder, console)


def _studied(subject: _Subject, data: ImageData, recorder: RunRecorder, advance: Advance) -> Study:
    config = subject.config
    model, accuracy = _trained(subject, data, recorder, advance)
    batches = list(
        scoring_batches(
            data,
            config.scoring_batches,
            batch_size=config.training.batch_size,
            seed=config.seed,
            device=subject.device,
        )
    )
    scores, oracle = _scores(subject, model, batches, advance)
    agreements = ranked([agreement(name, found, oracle) for name, found in scores.items()])
    num_images = sum(len(targets) for _, targets in batches)
    files = tuple(config.directory / f"{STUDY}.{suffix}" for suffix in ("json", "png", "svg"))
    study = Study(agreements, subject.num_units, num_images, accuracy, files)
    text = json.dumps(content(study, config, scores, oracle), indent=2)
    write_durably(files[0], text.encode())
    correlation_chart({a.criterion: a.metrics for a in agreements}, config.directory / STUDY)
    _log_result(recorder, study)
    return study


def _subject(config: CorrelationConfig, data: ImageData, device: torch.device) -> _Subject:
    """Everything about the network that can be wrong is found out here."""
    shape, classes = data.train.image_shape, tuple(data.classes)
    builder = models.resolve(config.model, num_classes=len(classes), in_channels=shape[0])
    preflight = check(config.as_search(), builder, shape, classes)
    if config.criterion:
        chosen = {name: criterion_of(name) for name in config.criterion}
        return _Subject(config, preflight, chosen, preflight.groups, device)
    model, graph, search = preflight.builder(), preflight.graph, config.as_search()
    usable = [name for name in candidates() if judged_groups(search, model, graph, [name])]
    layers = judged_groups(search, model, graph, usable)
    if not layers:
        raise CriterionError(
            f"no layer of {config.model} can be judged by all of {', '.join(usable)}: choose some "
            "with --criterion"
        )
    return _Subject(config, preflight, {n: criterion_of(n) for n in usable}, layers, device)


def _try_out(subject: _Subject, data: ImageData) -> None:
    """Every criterion on a few images, as in a search."""
    search = dataclasses.replace(subject.config.as_search(), criterion=(*subject.criteria, ORACLE))
    preflight = dataclasses.replace(subject.preflight, groups=subject.layers)
    targets = float(preflight.floor.flops), float(preflight.base.flops)
    context = JobContext(search, preflight, subject.device.type)
    dry_run_of_search(context, data, SearchSpace(1.0, targets))


def _trained(
    subject: _Subject, data: ImageData, recorder: RunRecorder, advance: Advance
) -> tuple[nn.Module, float]:
    """The base network, trained without penalty, and its validation accuracy."""
    config, seed = subject.config, subject.config.seed
    model, _ = fresh_base(subject.preflight, seed)
    if any(method(name).uses_sigmoid for name in subject.criteria):
        model = to_sigmoid_batchnorm(model, seed=seed)
    epochs = config.training.epochs

    def on_epoch(epoch: EpochReport) -> None:
        advance("training", epoch.epoch, epochs)
        metrics = {
            schema.METRIC_TRAIN_LOSS: epoch.train_loss,
            schema.METRIC_EPOCH_VALIDATION_ACCURACY: epoch.validation_accuracy,
            schema.METRIC_LEARNING_RATE_NOW: epoch.learning_rate,
        }
        recorder.log_metrics(STUDY, metrics, step=epoch.epoch)

    advance("training", 0, epochs)
    trained = train(
        model.to(subject.device),
        data,
        epochs=epochs,
        config=config.training,
        seed=seed,
        device=subject.device,
        on_epoch=on_epoch,
    )
    return model, trained.validation_accuracy


def _scores(
    subject: _Subject,
    model: nn.Module,
    batches: Sequence[tuple[Tensor, Tensor]],
    advance: Advance,
) -> tuple[dict[str, UnitScores], UnitScores]:
    """Scores per unit of every criterion, and of the oracle, all on the same minibatches."""
    graph, layers = subject.preflight.graph, subject.layers
    chosen = subject.criteria
    scores: dict[str, UnitScores] = {}
    advance("criteria", 0, len(chosen))
    for found in _judged(chosen, model, graph, batches):
        for name, values in found.items():
            units = unit_scores(values, graph, layers)
            scores[name] = _comparable(chosen[name], units)
        advance("criteria", len(scores), len(chosen))
    oracle = Oracle(on_unit=lambda done, total: advance("oracle", done, total))
    expected = unit_scores(oracle.score(model, graph, batches), graph, layers)
    return {name: scores[name] for name in chosen}, expected


def _judged(
    chosen: Mapping[str, Criterion],
    model: nn.Module,
    graph: ChannelGraph,
    batches: Sequence[tuple[Tensor, Tensor]],
) -> Iterator[dict[str, dict[str, Tensor]]]:
    """Scores by method and group, as they come; first those that share one pass over the data."""
    together = {n: c for n, c in chosen.items() if isinstance(c, FirstOrderCriterion)}
    if together:
        yield score_together(together, model, graph, batches)
    for name, criterion in chosen.items():
        if name not in together:
            yield {name: criterion.score(model, graph, batches)}


def _comparable(criterion: Criterion, scores: UnitScores) -> UnitScores:
    """Signed estimates squared, as the oracle is (Molchanov et al., §4.1.2, on OBD)."""
    if isinstance(criterion, Obd):
        return {name: values**2 for name, values in scores.items()}
    return scores


@contextmanager
def _recorded(recorder: RunRecorder, subject: _Subject) -> Iterator[None]:
    """The parent run, which ends as the block ends."""
    config = subject.config
    recorder.open_run(
        STUDY,
        kind="correlation",
        name=config.name,
        params={
            schema.PARAM_MODEL: config.model,
            schema.PARAM_DATA: config.data.source,
            schema.PARAM_CRITERION: ",".join(subject.criteria),
            schema.PARAM_SEED: config.seed,
            schema.PARAM_SCORING_BATCHES: config.scoring_batches,
            schema.PARAM_EPOCHS: config.training.epochs,
            schema.PARAM_BATCH_SIZE: config.training.batch_size,
            schema.PARAM_LEARNING_RATE: config.training.learning_rate,
            schema.PARAM_WEIGHT_DECAY: config.training.weight_decay,
            schema.PARAM_SCHEDULE: config.training.schedule,
            schema.PARAM_NESTEROV: config.training.nesterov,
        },
        description=(
            f"How well criteria predict what removing a channel of {config.model}, trained on "
            f"{config.data.source}, does to the loss. Its runs: one per criterion."
        ),
    )
    try:
        yield
    except KeyboardInterrupt:
        recorder.end_run(STUDY, "killed", _STOPPED)
        raise
    except BaseException as error:
        recorder.end_run(STUDY, "failed", str(error))
        raise
    recorder.end_run(STUDY, "finished")


def _log_result(recorder: RunRecorder, study: Study) -> None:
    for found in study.agreements:
        key = f"criterion/{found.criterion}"
        recorder.open_run(
            key,
            kind="criterion",
            name=found.criterion,
            parent=STUDY,
            params={schema.PARAM_CRITERION: found.criterion},
            description="Correlation of this criterion's scores with the oracle's.",
        )
        metrics = {**found.metrics, schema.METRIC_LAYERS_LEFT_OUT: float(found.num_left_out)}
        recorder.log_metrics(key, metrics)
        recorder.end_run(key, "finished")
    recorder.log_metrics(STUDY, {schema.METRIC_VALIDATION_ACCURACY: study.validation_accuracy})
    for file in study.files:
        recorder.log_file(STUDY, file)


@contextmanager
def _bars(console: Console) -> Iterator[Advance]:
    """A bar per stage inside the block, if the console is a terminal."""
    columns = (TextColumn("{task.description:<9}"), BarColumn(), MofNCompleteColumn())
    bars = Progress(
        *columns,
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    stages: dict[str, Any] = {}

    def advance(stage: str, done: int, total: int) -> None:
        if stage not in stages:
            stages[stage] = bars.add_task(stage)
        bars.update(stages[stage], completed=done, total=total)

    with bars:
        yield advance


def _settings_file(config: CorrelationConfig) -> SettingsFile:
    return SettingsFile(
        config.directory / _SETTINGS_FILE,
        "correlation study",
        dataclasses.asdict(config),
        dataclasses.asdict(CorrelationConfig()),
        matters=lambda name: name not in _MAY_CHANGE,
    )
