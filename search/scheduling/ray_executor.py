"""Ray Tune schedules jobs; beside this file ray_node.py and ray_processes.py alone import Ray.

One adapter hands out jobs, one trainable performs them, one callback passes on what they
report; all studies use them. Ray keeps no state worth having: what was finished is
in the study and in folders, what runs is in `search.training.checkpoints`, so that a job is
retried by the worker that takes it next, under this driver or a later one.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from typing import Any

from search.scheduling import own_ray
from search.scheduling.ray_environment import (
    AUTH_MODE,
    TOKEN_PLACES,
    joining_soon_or_never,
    missing_variables,
)

os.environ.update(missing_variables())

import ray
import torch
from ray import tune
from ray._private import ray_constants
from ray.tune.execution import class_cache
from ray.tune.search import Searcher

from pruning.errors import ConfigError, DiskFullError, LostProcessError
from search.data.data import Data
from search.scheduling.ray_processes import Shared, in_processes, require_sendable
from search.scheduling.share import Share
from search.system.accelerator_faults import poisoning
from search.system.background_calls import BackgroundCalls
from search.system.device_memory import limit_device_memory
from search.system.error_log import as_error
from search.system.memory_limit import memory_limited
from search.training.checkpoints import Attempts
from search.trials.artifacts import not_stored
from search.trials.certification import certify
from search.trials.job_context import JobContext
from search.trials.jobs import (
    Ending,
    EpochRecord,
    Job,
    JobSource,
    Observer,
    Outcome,
    job_from_mapping,
    job_to_mapping,
)
from search.trials.trial import ending_of, perform

_JOB, _EPOCHS, _OUTCOMES, _ENDING, _DISK_FULL = "job", "epochs", "outcomes", "ending", "disk full"
_LOST_WORKER_RETRIES = 50
"""Of one job; how often it may fail in one and the same epoch, Attempts decides."""

_REPORT_SECONDS = 1.0
"""Between two reports of a job; its epochs meanwhile go together."""

_WORKER_SECONDS = 60.0
"""Within which a worker starts on any machine that searches can be run on."""

Perform = Callable[[JobSource, Observer], None]


@contextmanager
def cluster(context: JobContext, data: Data, share: Share) -> Iterator[Perform]:
    """Ray, of its own or the configured one, with the data in its store; gives what performs.

    share: of this machine; on a cluster its nodes decide.
    That performs every job of a source and returns; a job that raises is told to source and
    observer as ended, with its reason, and the others go on. It raises DiskFullError, and leaves
    what was under way to be continued, when there is no room to store anything.
    """
    weights = 0 if context.weights is None else context.weights.num_bytes
    with _ray(context.config.resources.ray_address, share, data.num_bytes + weights):
        if context.config.resources.ray_address:
            share = Share.on_cluster(context.config, context.device, ray.nodes())
        references = [ray.put(context.sent()), ray.put(data.sent())]
        threads = max(1, share.cpus // share.num_processes)
        shared = Shared(references, threads, share.gpus, share.num_processes)

        def perform_all(source: JobSource, observer: Observer) -> None:
            observer.at_once(share.num_workers)
            _run(source, observer, context, shared, share)

        if share.num_processes > 1:
            require_sendable(context)
        yield perform_all


@contextmanager
def _ray(address: str, share: Share, num_bytes: int) -> Iterator[None]:
    """This process in the cluster at the address, or in a Ray of its own.

    num_bytes: of what workers are to find in its store.
    """
    with ExitStack() as stack:
        if address:
            stack.enter_context(joining_soon_or_never())
        else:
            stack.enter_context(own_ray.one_ray())
            own_address = own_ray.own_ray(share, num_bytes).address()
            stack.enter_context(_at_loopback(own_address))
            stack.enter_context(_in_started_workers())
            _show_own_token()
        stack.callback(ray.shutdown)  # also of one that was joined in part
        with warnings.catch_warnings(), _sigterm_kept(), _told(address):
            warnings.simplefilter("ignore")
            ray.init(
                address=address or own_address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                configure_logging=True,
            )
        logging.getLogger("ray").setLevel(logging.CRITICAL)
        yield


def start_on_trial() -> None:
    """Start a Ray as a search does, and have a worker of it do something.

    Raises LostProcessError if either fails.
    """
    with (
        _ray("", Share(1, 1, 0.0), 0),
        as_error(LostProcessError, "Ray's workers do not start here"),
    ):
        ray.get(ray.remote(lambda: None).remote(), timeout=_WORKER_SECONDS)


@contextmanager
def _at_loopback(address: str) -> Iterator[None]:
    """Inside the block a loopback address is one, also if somebody imported Ray before us.

    Ray would look for it at this machine's outward address, and wait for ever.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = before and not address.startswith("127.")
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def _in_started_workers() -> Iterator[None]:
    """Inside the block Tune names no environment variables for its workers.

    Those of a Ray of one's own have them all; with any named, Ray would leave the workers that are
    ready and start new ones.
    """
    before = class_cache.DEFAULT_ENV_VARS, class_cache.ENV_VARS_TO_PROPAGATE
    class_cache.DEFAULT_ENV_VARS, class_cache.ENV_VARS_TO_PROPAGATE = {}, set()
    try:
        yield
    finally:
        class_cache.DEFAULT_ENV_VARS, class_cache.ENV_VARS_TO_PROPAGATE = before


def _show_own_token() -> None:
    """Let Ray, which read them when it was imported, read the token and that it is to be shown."""
    os.environ[AUTH_MODE] = "token"
    with suppress(ImportError, AttributeError):  # there is no public way
        from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]  # noqa: PLC0415

        Config.initialize("")
        AuthenticationTokenLoader.instance().reset_cache()


def _told(address: str) -> AbstractContextManager[None]:
    """What it means if Ray does not start, or does not let this process in."""
    if not address:
        return as_error(LostProcessError, "Ray does not start here")
    return as_error(
        ConfigError,
        f"no Ray cluster answers at {address}, or not to this token, which is looked for "
        f"{TOKEN_PLACES}",
    )


@contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Ray's driver would exit at once at SIGTERM, where the command line stops in good order."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _run(
    source: JobSource, observer: Observer, context: JobContext, shared: Shared, share: Share
) -> None:
    if source.is_over:
        return
    # A Ray of one's own has a CPU for each worker, whatever that is to use.
    cpus = share.cpus if context.config.resources.ray_address else 1
    trainable = tune.with_parameters(_perform, shared=shared)
    trainable = tune.with_resources(trainable, _resources(share, cpus))
    searcher = _JobSearcher(source, observer, context)
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            num_samples=-1,  # as many as the searcher has
            max_concurrent_trials=share.num_workers,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="ray",
            storage_path=str(context.directory.resolve()),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=_LOST_WORKER_RETRIES),
            callbacks=[_Reporter(observer)],
        ),
    )
    with _quiet():
        tuner.fit()
    if searcher.disk_full:
        raise DiskFullError(searcher.disk_full)


def _perform(config: dict[str, Any], *, shared: Shared) -> None:
    """Runs in a worker: one job, from its description to its outcomes."""
    torch.set_num_threads(shared.threads)
    context, data = ray.get(shared.references[0]), _data(shared.references[1])
    limit_device_memory(context.torch_device, shared.gpus)
    job = job_from_mapping(config[_JOB])
    attempts = context.checkpoints(job.key).attempts
    watchdog = _Watchdog(context.config.resources.timeout_seconds, attempts)

    reports = BackgroundCalls(_report, every_seconds=_REPORT_SECONDS)

    def report(records: Sequence[EpochRecord]) -> None:
        watchdog.heard()
        if records:
            reports.put(records)

    try:
        try:
            memory = memory_limited(context.config.resources.memory_gb)
            with watchdog.watching(), memory, in_processes(context, shared, attempts) as context:
                outcomes = perform(job, context, data, report)
                certify(outcomes, context)  # here, while others train
        finally:
            reports.flush()
    except DiskFullError as error:
        tune.report({_DISK_FULL: str(error)})
    except Exception as error:
        if words := poisoning(error):
            attempts.say(words)
            os._exit(1)  # Ray has another process try again; this one would fail at every job
        tune.report({_ENDING: json.dumps(dataclasses.asdict(ending_of(error)))})
    else:
        tune.report({_OUTCOMES: json.dumps([outcome.to_mapping() for outcome in outcomes])})


@functools.lru_cache(maxsize=1)
def _data(reference: Any) -> Data:
    """The data, once for all jobs of a worker: with what it keeps of them on a device."""
    data: Data = ray.get(reference)
    return data


def _report(calls: Sequence[Sequence[EpochRecord]]) -> None:
    """What several calls of a job's report were given, as one report of Tune."""
    content = [[dataclasses.asdict(record) for record in records] for records in calls]
    tune.report({_EPOCHS: json.dumps(content)})  # Tune flattens mappings


def _resources(share: Share, cpus: int) -> Any:
    """What Tune is to set aside for a job: for each of several processes a bundle of one node."""
    if share.num_processes == 1:
        return {"cpu": float(cpus), "gpu": share.gpus}
    bundle = {"CPU": cpus / share.num_processes, "GPU": 1.0}
    return tune.PlacementGroupFactory([bundle] * share.num_processes, strategy="STRICT_PACK")


class _Watchdog:
    """Ends the process when no epoch has ended for too long; Ray then tries the job again."""

    def __init__(self, seconds: float | None, attempts: Attempts) -> None:
        self._seconds, self._attempts = seconds, attempts
        self._last = time.monotonic()
        self._is_over = threading.Event()

    def heard(self) -> None:
        """An epoch has ended."""
        self._last = time.monotonic()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch during the block."""
        if self._seconds is None:
            yield
            return
        self.heard()
        threading.Thread(target=self._watch, args=(self._seconds,), daemon=True).start()
        try:
            yield
        finally:
            self._is_over.set()

    def _watch(self, seconds: float) -> None:
        while not self._is_over.wait(min(1.0, seconds / 4)):
            if time.monotonic() - self._last > seconds:
                self._attempts.say(f"no epoch ended within {seconds:g} s (--trial-timeout)")
                os._exit(1)  # a hung thread would outlive anything gentler


class _JobSearcher(Searcher):
    """Hands Ray the jobs of a source and tells the source what came of them.

    What a worker says it stored is looked for here before anybody is told.
    disk_full: why nothing more is handed out; empty while there is room.
    """

    def __init__(self, source: JobSource, observer: Observer, context: JobContext) -> None:
        super().__init__(metric="unused", mode="max")
        self._source, self._observer, self._context = source, observer, context
        self._jobs: dict[str, Job] = {}
        self.disk_full = ""

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        job = None if self.disk_full else self._source.next()
        if job is None:  # Tune asks again after None, also while others are at work
            is_over = bool(self.disk_full) or self._source.is_over
            return str(Searcher.FINISHED) if is_over else None
        self._jobs[trial_id] = job
        self._observer.started(job)
        return {_JOB: job_to_mapping(job)}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        job = self._jobs.pop(trial_id)
        report = result or {}
        if _DISK_FULL in report:
            self.disk_full = report[_DISK_FULL]
            return
        if _OUTCOMES in report and not error:
            outcomes = [Outcome.from_mapping(each) for each in json.loads(report[_OUTCOMES])]
            missing = not_stored(self._context, outcomes)
            if not missing:
                self._source.finished(job, outcomes)
                self._observer.finished(job, outcomes)
                return
            ending = Ending("failed", missing)
        elif _ENDING in report and not error:
            ending = Ending(**json.loads(report[_ENDING]))
        else:
            ending = Ending("failed", "its worker process died")
        self._source.ended(job, ending)
        self._observer.ended(job, ending)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study is the truth about trials."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, as above."""

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune stores its set-up to restore it; Espalier goes on from the study


class _Reporter(tune.Callback):
    """Passes epochs on to the observer."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def on_trial_result(  # Ray calls it by keyword
        self, *, trial: Any, result: dict[str, Any], **_: Any
    ) -> None:
        if result.get(_EPOCHS):
            job = job_from_mapping(trial.config[_JOB])
            for call in json.loads(result[_EPOCHS]):
                self._observer.epochs(job, [EpochRecord(**record) for record in call])

    def __getstate__(self) -> dict[str, Any]:
        return {}  # as above


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Tune's own progress and warnings off the terminal."""
    logger = logging.getLogger("ray.tune")
    before, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = before
