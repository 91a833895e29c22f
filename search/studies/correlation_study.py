"""A correlation study: how well do criteria predict what removing a channel does to the loss?

Source: Molchanov et al., "Importance Estimation for Neural Network Pruning", §4.1.2 and §4.2.1,
tables 1 and 2.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from rich.console import Console
from torch import Tensor, nn

from copycat.width_profile import WidthProfile
from mlflow_server import schema
from pruning.criteria import (
    Criterion,
    FirstOrderCriterion,
    GateCriterion,
    Obd,
    Oracle,
    TaylorBatchNormScale,
    score_together,
)
from pruning.errors import CriterionError, SearchFailedError, TrainingDivergedError
from pruning.gates.channel_gates import ChannelGates
from pruning.gates.placement import Placement
from pruning.graph.channel_graph import ChannelGraph
from pruning.networks.nested_tensors import num_samples
from pruning.sigmoid_batchnorm import fold, to_sigmoid_batchnorm
from search import models
from search.config.correlation_config import (
    ORACLE,
    UNUSED_TRAINING,
    CorrelationConfig,
    candidates,
    criterion_of,
)
from search.config.methods import method
from search.config.search_config import SearchConfig
from search.data.data import Batch, Data, Sample
from search.results.correlation import UnitScores, agreement, ranked, unit_scores
from search.results.correlation_report import CorrelationResults, content
from search.results.figures import correlation_figure, saved
from search.results.html_report import REPORT_FILE, report_page
from search.storage.atomic_files import write_durably
from search.storage.layout import CORRELATION_RESULTS, SETTINGS_FILES, StudyKind
from search.studies.dry_run import dry_run_of_search, try_out
from search.studies.session import Session, Study, run_study
from search.studies.setup import SettingsFile, chosen_device, of_network, read_data
from search.system.memory_limit import memory_limited
from search.tasks import registry as tasks
from search.tasks.criterion_loss import criterion_loss
from search.tracking.mlflow_runs import StudyRun, StudyRuns
from search.training.memory_format import laid_out
from search.training.own_loop import trainer_for
from search.training.trainer import check_recipe
from search.trials.artifacts import Finished, store
from search.trials.job_context import JobContext, fresh_base
from search.trials.jobs import BASE, EpochRecord, Outcome
from search.trials.preflight import Preflight, check, judged_groups
from search.trials.search_space import SearchSpace
from search.trials.staged_training import StagedTraining
from search.trials.trial import ending_of

_MAY_CHANGE = (
    *("device", "runs", "mlflow_url", "resources"),
    *("data.root", "data.download", "data.workers"),
)
"""Settings of the machine, not of the study."""


@dataclass(frozen=True)
class Subject:
    """What is studied: a network that is not trained yet, and who judges which of its layers."""

    config: CorrelationConfig
    preflight: Preflight
    criteria: Mapping[str, Criterion]
    layers: tuple[str, ...]
    device: torch.device

    @functools.cached_property
    def units(self) -> Mapping[str, int]:
        """How many units there are of each layer: of a group, or of each convolution's part."""
        placement = Placement(per=self.config.gates_per)
        model, graph = self.preflight.builder(), self.preflight.graph
        gates = ChannelGates(model, graph, self.layers, placement)
        parts = gates.by_layer(torch.zeros(gates.num_units))
        return {name: len(values) for name, values in parts.items()}

    @property
    def num_units(self) -> int:
        """Units of all layers together."""
        return sum(self.units.values())

    def describe(self) -> str:
        """How much is judged, and by what, in a line."""
        return (
            f"{self.num_units:,} units in {len(self.units)} layers; "
            f"criteria: {', '.join(self.criteria)}"
        )


def run(config: CorrelationConfig, *, console: Console | None = None) -> CorrelationResults:
    """Trains the network, scores it by every criterion and the oracle, and compares them.

    Everything is checked before anything is trained or written: EspalierError says what is
    wrong. KeyboardInterrupt leaves the training in place; the same call continues it.
    console: where progress is shown; none by default.
    """
    return run_study(_Correlation(config), console or Console(quiet=True))


class _Correlation(Study[CorrelationResults]):
    """One training of the network, and what criteria and oracle make of it."""

    kind: StudyKind = "correlation"

    def __init__(self, config: CorrelationConfig) -> None:
        self._config, self.settings = config, settings_file(config)
        self._subject: Subject

    def prepare(self, console: Console) -> tuple[JobContext, Data]:
        config = self._config
        device = chosen_device(config.device)
        task = tasks.resolve(config.as_search().task)
        channels = models.required_channels(config.model)
        data = read_data(config.data, task, config.seed, console, channels=channels)
        with memory_limited(config.resources.memory_gb):
            check_recipe(config.training, data, task)
            self._subject = subject = subject_of(config, data.sample, torch.device(device))
            _try_out(subject, data)
        console.print(subject.describe(), highlight=False, soft_wrap=True)
        return JobContext(config.as_search(), subject.preflight, device), data

    def study_run(self, context: JobContext) -> StudyRun:
        config = self._config
        return StudyRun(
            "correlation",
            config.study_name,
            params={
                schema.PARAM_MODEL: config.model,
                schema.PARAM_DATA: config.data.source,
                schema.PARAM_CRITERION: ",".join(self._subject.criteria),
                schema.PARAM_SEED: config.seed,
                schema.PARAM_SCORING_BATCHES: config.scoring_batches,
                **config.training.params(without=UNUSED_TRAINING),
            },
            description=(
                f"How well criteria predict what removing a channel of {config.model}, trained on "
                f"{config.data.source}, does to the loss. Its runs: one per criterion."
            ),
            base=context.preflight.base,
            score=context.preflight.score,
        )

    def work(self, session: Session) -> CorrelationResults:
        session.forget_attempts()
        with session.showing():
            job, observer = BASE, session.observer
            observer.started(job)
            session.expect(self._config.training.epochs)
            _require_affordable(session)
            try:
                model, outcome = _trained(self._subject, session)
                study = self._compared(model, outcome, session)
            except TrainingDivergedError as error:
                observer.ended(job, ending_of(error))
                raise
            observer.finished(job, [outcome])
        _record(session.runs, study)
        return study

    def _compared(self, model: nn.Module, outcome: Outcome, session: Session) -> CorrelationResults:
        config, subject = self._config, self._subject
        batches = list(
            session.data.scoring_batches(
                config.scoring_batches,
                batch_size=config.training.batch_size,
                seed=config.seed,
                device=subject.device,
            )
        )
        scores, oracle = _scores(subject, model, batches, session)
        agreements = ranked([agreement(name, own, oracle) for name, own in scores.items()])
        num_images = sum(map(num_samples, batches))
        results = config.directory / CORRELATION_RESULTS
        report = config.directory / REPORT_FILE
        files = (results, results.with_suffix(".png"), results.with_suffix(".svg"), report)
        study = CorrelationResults(
            agreements,
            subject.num_units,
            num_images,
            outcome.validation_score,
            files,
            subject.preflight.score,
        )
        text = json.dumps(content(study, config, scores, oracle), indent=2)
        write_durably(results, text.encode())
        saved(
            correlation_figure({a.criterion: a.metrics for a in agreements}),
            results.with_suffix(""),
        )
        write_durably(report, report_page(report.parent).encode())
        return study


def subject_of(config: CorrelationConfig, sample: Sample, device: torch.device) -> Subject:
    """What is studied, on such samples; everything about it that can be wrong is found out here."""
    search = config.as_search()
    builder = models.builder_for(config.model, sample, search.model_arguments)
    preflight = of_network(config.model, check, search, builder, sample)
    if config.criteria:
        chosen = {name: criterion_of(name) for name in config.criteria}
        for name in chosen:
            if not _judges_parts(name, config):
                raise CriterionError(
                    f"{name} judges channels of a stream as a whole: leave it out, or --gates-per"
                )
        layers = _with_gates(config, preflight, preflight.groups)
        return Subject(config, preflight, chosen, layers, device)
    model, graph = preflight.builder(), preflight.graph
    usable = [
        name
        for name in candidates()
        if judged_groups(search, model, graph, [name])
        and _can_judge(name, search)
        and _judges_parts(name, config)
    ]
    layers = _with_gates(config, preflight, judged_groups(search, model, graph, usable))
    if not layers:
        raise CriterionError(
            f"no layer of {config.model} can be judged by all of {', '.join(usable)}: choose some "
            "with --criterion"
        )
    return Subject(config, preflight, {n: criterion_of(n) for n in usable}, layers, device)


def _with_gates(
    config: CorrelationConfig, preflight: Preflight, layers: Sequence[str]
) -> tuple[str, ...]:
    """Those of the layers that have gates as the study asks for them."""
    placement, model = Placement(per=config.gates_per), preflight.builder()
    return tuple(n for n in layers if placement.fits(model, preflight.graph.group(n)))


def _judges_parts(name: str, config: CorrelationConfig) -> bool:
    """Whether the criterion can judge what the study asks for, parts of streams or all."""
    is_of_gates = isinstance(criterion_of(name), GateCriterion)
    return config.gates_per == "stream" or (
        is_of_gates and not isinstance(criterion_of(name), TaylorBatchNormScale)
    )


def _can_judge(name: str, search: SearchConfig) -> bool:
    """Whether the criterion can judge by the loss of what is learned."""
    try:
        criterion_of(name).by_loss(criterion_loss(tasks.resolve(search.task)))
    except CriterionError:
        return False
    return True


def _try_out(subject: Subject, data: Data) -> None:
    """Every criterion on a few images, as in a search."""
    search = dataclasses.replace(subject.config.as_search(), criterion=(*subject.criteria, ORACLE))
    preflight = dataclasses.replace(subject.preflight, groups=subject.layers)
    targets = float(preflight.floor.flops), float(preflight.base.flops)
    context = JobContext(search, preflight, subject.device.type)
    try_out(dry_run_of_search, context, data, SearchSpace(1.0, targets))


def _trained(subject: Subject, session: Session) -> tuple[nn.Module, Outcome]:
    """The base network, trained without penalty, and what is stored of it."""
    config, context, data = subject.config, session.context, session.data
    model, _ = fresh_base(subject.preflight, config.seed)
    if any(method(name).uses_sigmoid for name in subject.criteria):
        model = to_sigmoid_batchnorm(model, seed=config.seed)
    model = laid_out(model, data.memory_format)
    epochs = config.training.epochs
    staged = StagedTraining(
        context.checkpoints(BASE.key),
        epochs,
        lambda records: _report(records, session),
        config.resources.checkpoint_seconds,
    )
    with staged:
        if staged.stage == 0:
            trainer = trainer_for(
                model,
                data,
                task=context.task,
                epochs=epochs,
                config=config.training,
                seed=config.seed,
                device=subject.device,
            )
            flops = subject.preflight.base.flops
            staged.train("training", trainer, lambda: trainer.images_seen * flops)
            staged.advance({"weights": model.state_dict(), "images": staged.records[-1].images})
        else:
            model.load_state_dict(staged.notes["weights"])
    images = int(staged.notes["images"])
    result = Finished(
        BASE.key,
        BASE.origin,
        trial=None,
        rung=None,
        alpha=1.0,
        profile=WidthProfile({}),
        seed=config.seed,
        images=images,
        compute=float(images * subject.preflight.base.flops),
        record={"epochs": epochs},
        curve=staged.records,
    )
    outcome = store(result, fold(model), context, data)
    return model.to(subject.device), outcome


def _report(records: Sequence[EpochRecord], session: Session) -> None:
    if records:
        session.observer.epochs(BASE, records)
    _require_affordable(session)


def _require_affordable(session: Session) -> None:
    """SearchFailedError once the study cannot end within the time or images that it may use."""
    if not session.compute_budget.affords(0):
        raise SearchFailedError(
            "the study would not end within the time or images that it may use: the same command "
            "goes on with a larger --time-budget or --max-train-images"
        )


def _scores(
    subject: Subject,
    model: nn.Module,
    batches: Sequence[Batch],
    session: Session,
) -> tuple[dict[str, UnitScores], UnitScores]:
    """Scores per unit of every criterion, and of the oracle, all on the same minibatches."""
    graph, layers = subject.preflight.graph, subject.layers
    loss = criterion_loss(session.context.task)
    criteria = {name: criterion.by_loss(loss) for name, criterion in subject.criteria.items()}
    scores: dict[str, UnitScores] = {}

    def report(stage: str, done: int, total: int) -> None:
        session.observer.scored(BASE, stage, done, total)
        _require_affordable(session)

    report("criteria", 0, len(criteria))
    oracle = Oracle(loss, on_unit=_each_second(functools.partial(report, "oracle")))
    if subject.config.gates_per == "convolution":
        by_part = functools.partial(_by_convolution, model=model, graph=graph, layers=layers)
        for name, criterion in criteria.items():
            scores[name] = _comparable(criterion, by_part(criterion, batches))
            report("criteria", len(scores), len(criteria))
        return scores, by_part(oracle, batches)
    for judged in _judged(criteria, model, graph, batches):
        for name, values in judged.items():
            scores[name] = _comparable(criteria[name], unit_scores(values, graph, layers))
        report("criteria", len(scores), len(criteria))
    expected = unit_scores(oracle.score(model, graph, batches), graph, layers)
    return {name: scores[name] for name in criteria}, expected


def _by_convolution(
    criterion: Criterion,
    batches: Sequence[Batch],
    *,
    model: nn.Module,
    graph: ChannelGraph,
    layers: Sequence[str],
) -> UnitScores:
    """Scores of the gates that every convolution of a stream has for itself."""
    assert isinstance(criterion, GateCriterion), criterion
    placement = Placement(criterion.placement.at, "convolution")
    gates = ChannelGates(model, graph, layers, placement)
    parts = gates.by_layer(criterion.judge(gates, batches))
    return {name: values.detach().double().cpu().numpy() for name, values in parts.items()}


def _each_second(tell: Callable[[int, int], None]) -> Callable[[int, int], None]:
    """Passes on how many parts are done, of how many: the last, and others once a second."""
    last = -math.inf

    def throttled(done: int, total: int) -> None:
        nonlocal last
        if done == total or time.monotonic() - last >= 1:
            last = time.monotonic()
            tell(done, total)

    return throttled


def _judged(
    chosen: Mapping[str, Criterion],
    model: nn.Module,
    graph: ChannelGraph,
    batches: Sequence[Batch],
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


def _record(runs: StudyRuns, study: CorrelationResults) -> None:
    """A run for every criterion, and the end of the study's."""
    for row in study.agreements:
        key = f"criterion/{row.criterion}"
        runs.open(
            key,
            "criterion",
            row.criterion,
            params={schema.PARAM_CRITERION: row.criterion},
            description="Correlation of this criterion's scores with the oracle's.",
        )
        left_out = {schema.METRIC_LAYERS_LEFT_OUT: float(row.num_left_out)}
        runs.log({**row.metrics, **left_out}, key)
        runs.end(key)
    name = schema.of_score(schema.METRIC_VALIDATION_SCORE, study.score.slug)
    runs.log({name: study.validation_score})
    runs.conclude(study.files)


def settings_file(config: CorrelationConfig) -> SettingsFile:
    """Where the settings of a correlation study are kept."""
    return SettingsFile(
        config.directory / SETTINGS_FILES["correlation"],
        "correlation study",
        dataclasses.asdict(config.resolved()),
        dataclasses.asdict(CorrelationConfig().resolved()),
        matters=lambda name: not {name, name.split(".")[0]} & {*_MAY_CHANGE},
    )
