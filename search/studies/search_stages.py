"""The stages of a search: base network and trials, repetitions, families, interpolated shapes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from optuna.storages import BaseStorage

from pruning.errors import SearchFailedError
from search.data.data import Data, steps_per_epoch
from search.scheduling.compute_budget import Rationed, RationedList
from search.scheduling.from_scratch_jobs import best_of_rungs, compared, members, repetition
from search.scheduling.optuna_study import StudySource, open_study, study_storage, trial_number
from search.scheduling.shape_selection import shape_source
from search.studies.session import Session
from search.training.schedules import total_push
from search.trials.job_context import JobContext
from search.trials.jobs import BASE, FromScratchJob, Job, OneAfterAnother, Outcome, TrialJob
from search.trials.search_space import SearchSpace, sampler

_LEAST_TARGET = 0.25
"""Share of the budget that trials aim down to where the ladder has no rung below the whole."""


class SearchStages:
    """Every stage of a search that is left; what was finished before stays as it is."""

    def __init__(self, session: Session) -> None:
        self._session, self._plan, self._notes = session, session.plan, session.notes
        self._context, self._config = session.context, session.context.config
        self._storage = study_storage(
            self._context.directory,
            self._config.study.storage,
            lambda note: session.console.print(note, style="yellow", highlight=False, markup=False),
        )
        self._source = trial_source(self._context, session.data, self._storage)

    def run(self) -> list[Outcome]:
        """All networks, the base network first; SearchFailedError if no trial came to one."""
        self._settle_leftovers()
        if self._context.weights is not None:
            self._notes.append(
                "epochs and compute of fine-tuned networks leave out the training of the given "
                "weights; --scratch-epochs gives networks from scratch as many"
            )
        is_base_known = bool(self._session.stored(BASE))
        self._session.expect(
            (0 if is_base_known else self._plan.epochs_of_base)
            + len(self._source) * self._plan.epochs_per_trial
            + self._plan.epochs_after_trials
        )
        with self._session.showing():
            beside = [] if is_base_known else [BASE]
            if self._context.imitates_base:
                self._require_base()
                beside = []
            trials = self._trials(beside)
            repeats = self._repeats(trials)
            family = [] if self._config.train_only else self._families(trials)
        for number, ending in self._source.endings.items():
            self._session.failures[f"trial {number}"] = ending.why
        return [*self._session.stored(BASE), *trials, *repeats, *family]

    def _require_base(self) -> None:
        """Train the base network, if it is not yet; SearchFailedError if nothing comes of it."""
        per_trial, later = self._plan.epochs_per_trial, self._plan.epochs_after_trials
        if self._session.trained([BASE], epochs_later=len(self._source) * per_trial + later):
            return
        notes = self._session.notes[-1:]
        reason = self._session.failures.get(BASE.key) or next(iter(notes), "it was not trained")
        raise SearchFailedError(f"there is no base network to learn from: {reason}")

    def _trials(self, beside: Sequence[Job]) -> list[Outcome]:
        """What comes of the trials; these jobs are performed beside them, as the first."""
        source, per_epoch = self._source, self._plan.images_per_epoch
        first = RationedList(
            beside,
            self._session.compute_budget,
            reserve=self._plan.epochs_per_trial * per_epoch,
        )
        rationed = Rationed(
            source,
            self._session.compute_budget,
            self._plan.epochs_per_trial * per_epoch,
            reserve=self._plan.epochs_after_trials * per_epoch,
            is_needed=lambda: not source.has_outcomes,
        )
        self._session.perform(OneAfterAnother(first, rationed))
        self._session.note_left_out(first)
        if rationed.is_cut_short:
            done = len(source.endings) + len({o.trial for o in source.outcomes})
            self._notes.append(
                f"{done} of {self._config.num_trials} trials were made: more would not have left "
                "what the families need of the time or images that the search may use"
            )
        if not source.outcomes:
            endings = source.endings.values()
            can_change = any(e.state == "failed" and not e.is_final for e in endings)
            hint = "; the same command tries them again" if can_change else ""
            raise SearchFailedError(
                f"all {len(endings)} trials failed, the first of them because: "
                f"{next(iter(endings)).reason}{hint}"
            )
        return source.outcomes

    def _repeats(self, trials: Sequence[Outcome]) -> list[Outcome]:
        """The trials that are compared, again with further seeds."""
        chosen = trials
        if not self._config.compares_all_trials:
            chosen = compared(self._config, self._context.preflight, trials)
        numbers = dict.fromkeys(outcome.trial for outcome in chosen)
        first_runs = [self._trial_job(number) for number in numbers if number is not None]
        jobs = [
            dataclasses.replace(job, repeat=repeat)
            for repeat in range(1, self._config.seeds)
            for job in first_runs
            if job is not None
        ]
        return self._session.trained(jobs, epochs_later=self._plan.epochs_interpolated)

    def _families(self, trials: Sequence[Outcome]) -> list[Outcome]:
        """What is trained from scratch in the shapes of the trials, and between them."""
        jobs, notes = members(self._config, self._context.preflight, trials)
        self._notes += notes
        family = self._session.trained(jobs, epochs_later=self._plan.epochs_interpolated)
        return family + self._interpolated(trials, family)

    def _interpolated(self, trials: Sequence[Outcome], family: Sequence[Outcome]) -> list[Outcome]:
        """Shapes that were found, and between them and the uniformly narrowed network."""
        if not self._config.num_tempered:
            return []
        name, score = f"{self._config.study_name}/tempered", self._context.preflight.score
        study = open_study(self._storage, name, score)
        source = shape_source(study, self._config, self._context.preflight, trials, family)
        by_key = {outcome.key: outcome for outcome in source.outcomes}
        for job, ending in source.settled():
            self._session.settle(job, [] if ending else [by_key[job.key]], ending)
        epochs_each = self._config.training.num_scratch_epochs
        self._session.expect(len(source) * epochs_each)
        images = epochs_each * self._plan.images_per_epoch
        rationed = Rationed(source, self._session.compute_budget, images)
        self._session.perform(rationed)
        if rationed.is_cut_short:
            self._notes.append("fewer tempered shapes were tried, for want of time or images")
        for number, ending in source.endings.items():
            self._session.failures[f"tempered-{number}"] = ending.why
        return [*source.outcomes, *self._interpolated_again(source)]

    def _interpolated_again(self, source: StudySource) -> list[Outcome]:
        """The best of them within each rung with further seeds, as all that is compared."""
        config = self._config
        jobs = {job.key: job for job, _ in source.settled() if isinstance(job, FromScratchJob)}
        best = best_of_rungs(config, self._context.preflight, source.outcomes)
        repeats = range(1, config.seeds)
        return self._session.trained(
            [repetition(config, jobs[o.key], repeat) for repeat in repeats for o in best]
        )

    def _settle_leftovers(self) -> None:
        """Tell the record of trials whose end a killed process could not tell it of."""
        outcomes: dict[int, list[Outcome]] = {}
        for outcome in self._source.outcomes:
            outcomes.setdefault(outcome.trial or 0, []).append(outcome)
        endings = self._source.endings
        for number in sorted({*outcomes, *endings}):
            job = self._trial_job(number)
            if job is not None:
                ending = endings.get(number)
                self._session.settle(job, outcomes.get(number, []), ending)
        self._session.forget_attempts()

    def _trial_job(self, number: int) -> TrialJob | None:
        space = trial_space(self._context, self._session.data)
        proposal = space.proposal(self._source.params(number))
        return None if proposal is None else TrialJob(number, proposal)


def trial_space(context: JobContext, data: Data) -> SearchSpace:
    """What the trials of a search may be."""
    config = context.config
    steps = steps_per_epoch(data.count("train"), config.training.batch_size)
    return SearchSpace(
        total_push(config.training, config.training.epochs, steps),
        None if config.targets or config.train_only else _target_flops(context),
        config.criteria,
        config.granularities,
        config.schedules,
        config.cost_exponents,
        _fixed(context),
        config.gates.gate_form,
    )


def _fixed(context: JobContext) -> dict[str, tuple[float, ...]]:
    """What `--set` fixes, with target FLOPs in absolute numbers."""
    fixed, base = context.config.fixed, context.preflight.base
    targets = tuple(bound.of_base(base).value for bound in fixed.target_flops)
    return {**fixed.settings, **({"target_flops": targets} if targets else {})}


def _target_flops(context: JobContext) -> tuple[float, float]:
    """The least and the most FLOPs that trials aim at."""
    config, preflight = context.config, context.preflight
    high = float(preflight.flops_limit)
    least = min((rung for rung in config.ladder if rung < 1), default=_LEAST_TARGET)
    return max(float(preflight.floor.flops), high * least), high


def trial_source(context: JobContext, data: Data, storage: BaseStorage) -> StudySource:
    """The study that proposes the trials of a search."""
    config, space = context.config, trial_space(context, data)
    low, high = space.target_flops or (0.0, 0.0)
    targets = [max(low, high * rung) for rung in sorted(config.ladder, reverse=True)]
    return StudySource(
        open_study(storage, config.study_name, context.preflight.score),
        lambda trial: TrialJob(trial_number(trial), space.propose(trial)),
        lambda seed: sampler(
            config.study.sampler, seed, config.num_trials, is_conditional=space.is_conditional
        ),
        context.preflight.limits,
        config.num_trials,
        seed=config.seed,
        openings=space.grid(targets[0]) if config.is_grid else space.openings(targets),
    )
