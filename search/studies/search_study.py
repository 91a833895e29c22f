"""search.run: from a SearchConfig to a front, a verdict and a folder of architectures."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

import mlflow_server
from mlflow_server import schema
from mlflow_server.errors import TrackingError
from search import models
from search.config.search_config import SearchConfig
from search.data.data import Data, Sample
from search.models.weights import TrainedWeights
from search.results.recommendation import Recommendation
from search.results.report import Results
from search.scheduling.own_ray import begin_ray
from search.scheduling.share import check_resources
from search.storage.layout import CONFIG_FILE, RESULTS_FILE, StudyKind
from search.studies.dry_run import dry_run_of_search, try_out
from search.studies.publishing import certified_results, publish
from search.studies.search_stages import SearchStages, trial_space
from search.studies.session import Session, Study, run_study
from search.studies.setup import SettingsFile, chosen_device, of_network, read_data
from search.system.memory_limit import memory_limited
from search.tasks import registry as tasks
from search.tasks.registry import name_in_settings
from search.tasks.task import Task, require_task
from search.tracking.mlflow_runs import StudyRun
from search.tracking.model_registry import register_front, require_registrable
from search.training.data_parallel import check_several_gpus
from search.training.distillation import check_teacher
from search.training.trainer import check_recipe
from search.trials.iterative_training import check_iterative
from search.trials.job_context import JobContext
from search.trials.jobs import Outcome
from search.trials.preflight import Preflight, check
from search.trials.starting_weights import measured, starting_weights


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    front: architectures that no other one beats in validation score and FLOPs.
    verdict: what to take within each budget, and which origin won there, in words.
    path: the folder of the search; each outcome's `path` is below it.
    """

    front: tuple[Outcome, ...]
    verdict: str
    path: Path
    results: Results

    @property
    def recommendations(self) -> tuple[Recommendation, ...]:
        """What to take within each budget of the ladder, in its order, and what it gives up."""
        return self.results.recommendations


def run(
    config: SearchConfig, *, task: Task | None = None, console: Console | None = None
) -> SearchResult:
    """Runs a search, or continues one that was stopped, and returns its result.

    Everything is checked before anything is trained or written: EspalierError says what is
    wrong. KeyboardInterrupt leaves what was finished in place; the same call continues.
    task: what is learned, in place of what the settings name; it is pickled for the workers.
    console: where progress is shown; none by default.
    """
    console = console or Console(quiet=True)
    if task is not None:
        name = name_in_settings(require_task(task, type(task).__name__))
        config = dataclasses.replace(config, task=name)
    study = SearchStudy(config, task)
    results = run_study(study, console)
    _links(config)  # now that its architectures are there
    if config.register:
        for done in register_front(config, results.front, study.modules):
            console.print(f"registered {done.uri}", highlight=False, markup=False)
    return SearchResult(results.front, results.verdict, config.directory, results)


class SearchStudy(Study[Results]):
    """A budget-constrained search."""

    kind: StudyKind = "search"

    def __init__(self, config: SearchConfig, task: Task | None = None) -> None:
        stored = settings_file(config).stored or {}
        if config.weights and not config.weights_digest:
            digest = str(stored.get("weights_digest", ""))
            config = dataclasses.replace(config, weights_digest=digest)
        self._config, self.settings, self._task = config, settings_file(config), task
        self.num_trials = config.num_trials
        self.modules: tuple[str, ...] = ()

    def begin_ray(self) -> None:
        config = self._config
        if not (config.directory / RESULTS_FILE).exists():  # there may be nothing left to do
            begin_ray(config, chosen_device(config.device, config.resources))

    def prepare(self, console: Console) -> tuple[JobContext, Data]:
        with memory_limited(self._config.resources.memory_gb):
            context, data = open_context(self._config, console, self._task)
            try_out(dry_run_of_search, context, data, trial_space(context, data))
        self.modules = context.preflight.builder.modules
        self.settings = settings_file(context.config)  # with the digest of its weights
        return context, data

    def study_run(self, context: JobContext) -> StudyRun:
        return search_run(context, _links(self._config))

    def work(self, session: Session) -> Results:
        outcomes = SearchStages(session).run()
        results = certified_results(session, outcomes)
        publish(session, results)
        return results


def search_run(context: JobContext, links: str = "") -> StudyRun:
    """The run of a search in MLflow; links: Markdown that its description ends in."""
    config, preflight = context.config, context.preflight
    notes = "".join(f"\n\nNote: {note}." for note in preflight.base.notes)
    return StudyRun(
        "search",
        config.study_name,
        params={
            schema.PARAM_CRITERION: ",".join(config.criteria),
            schema.PARAM_GRANULARITY: ",".join(config.granularities),
            schema.PARAM_MODEL: config.model,
            **({schema.PARAM_WEIGHTS: config.weights} if config.weights else {}),
            schema.PARAM_DATA: config.data.source,
            schema.PARAM_BUDGET: str(preflight.budget),
            schema.PARAM_SEED: config.seed,
            schema.PARAM_TRIALS: config.num_trials,
            **config.training.resolved().params(),
            **(config.iterative.params() if "iterative" in config.schedules else {}),
            **config.gates.params(frozenset().union(*config.gated.values())),
        },
        description=(
            f"Search for smaller networks than {config.model} on {config.data.source} "
            f"within {preflight.budget}. Its runs: every trial (one method, its settings and "
            f"target), and every architecture that came of it.{notes}{links}"
        ),
        base=preflight.base,
        budget=str(preflight.budget),
        score=preflight.score,
        reference=preflight.reference,
    )


def open_context(
    config: SearchConfig, console: Console, task: Task | None = None
) -> tuple[JobContext, Data]:
    """What the jobs of a search need; EspalierError says why it could not work.

    Prints what the network costs, its weights are worth and the budget allows.
    task: one that was given in Python.
    """
    learned = task or tasks.resolve(config.task)
    device = chosen_device(config.device, config.resources)
    check_resources(config, device)
    channels = models.required_channels(config.model)
    data = read_data(config.data, learned, config.seed, console, channels=channels)
    preflight = of_network(config.model, preflight_of, config, data.sample, learned)
    check_recipe(config.training, data, learned)
    check_several_gpus(config, data, learned)
    check_iterative(config, preflight, data, learned)
    config, weights = with_weights(config, preflight)
    context = JobContext(config, preflight, device, own_task=task, weights=weights)
    context = measured(context, data)
    for line in context.preflight.describe():
        console.print(line, highlight=False, soft_wrap=True)
    return context, data


def with_weights(
    config: SearchConfig, preflight: Preflight
) -> tuple[SearchConfig, TrainedWeights | None]:
    """The settings with the digest of the weights that they name, and those weights, if any.

    Raises the errors of `starting_weights`.
    """
    weights = starting_weights(config, preflight)
    if weights is None:
        return config, None
    return dataclasses.replace(config, weights_digest=weights.digest), weights


def preflight_of(config: SearchConfig, sample: Sample, task: Task | None = None) -> Preflight:
    """What the preflight finds of the network on such samples.

    task: what is learned; by default what the settings name.
    Raises its errors, ModelError for a network that cannot be found, ConfigError for a teacher of
    another job.
    """
    builder = models.builder_for(config.model, sample, config.model_arguments)
    preflight = check(config, builder, sample, task)
    if config.register:
        require_registrable(preflight.input_shape)
    if config.training.distill_from:
        check_teacher(config.training.distill_from, preflight.input_shape, preflight.classes)
    return preflight


def _links(config: SearchConfig) -> str:
    """Markdown with links to the views of the search, which are made; empty without MLflow."""
    uri = config.mlflow_url or mlflow_server.store_uri(Path(config.runs))
    try:
        views = mlflow_server.view_links(uri, config.study_name)
    except TrackingError:
        return ""
    pages = {
        "architectures by origin": views.table,
        "score against FLOPs, curves": views.chart,
        "averages": views.averages,
    }
    # From the fragment on, so that they hold wherever the server is.
    listed = ", ".join(f"[{name}](#{url.partition('#')[2]})" for name, url in pages.items())
    return f"\n\nViews: {listed}."


_MAY_CHANGE = (
    *("concurrency", "device", "mlflow_url", "register", "runs"),
    *("data.root", "data.download", "data.workers"),
)
"""Settings of the machine, not of the search: they may differ when a search is continued."""


def settings_file(config: SearchConfig) -> SettingsFile:
    """Where a search's settings are kept."""
    return SettingsFile(
        config.directory / CONFIG_FILE,
        "search",
        dataclasses.asdict(config.resolved()),
        dataclasses.asdict(SearchConfig().resolved()),
        matters=lambda name: name not in _MAY_CHANGE and not name.startswith("resources."),
    )
