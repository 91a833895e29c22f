"""The stages of a search: base network and trials, repetitions, families, interpolated shapes."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

from optuna.storages import BaseStorage

from pruning.errors import SearchFailedError
from search.data.data import Data, steps_per_epoch
from search.scheduling.compute_budget import Rationed, RationedList
from search.scheduling.from_scratch_jobs import best_of_rungs, compared, members, repetition
from search.scheduling.job_stages import RationedSource, Stage, Stages, images_waiting
from search.scheduling.optuna_study import StudySource, open_study, study_storage, trial_number
from search.scheduling.shape_selection import shape_source
from search.studies.session import Session
from search.training.schedules import total_push
from search.trials.job_context import JobContext
from search.trials.jobs import BASE, FromScratchJob, Job, Outcome, TrialJob
from search.trials.search_space import SearchSpace, sampler

_LEAST_TARGET = 0.25
"""Share of the budget that trials aim down to where the ladder has no rung below the whole."""


class SearchStages:
    """Every stage of a search that is left; what was finished before stays as it is.

    What is trained follows from what is settled of the stages before, never from when it is.
    """

    def __init__(self, session: Session) -> None:
        self._session, self._plan, self._notes = session, session.plan, session.notes
        self._context, self._config = session.context, session.context.config
        self._storage = study_storage(
            self._context.directory,
            self._config.study.storage,
            lambda note: session.console.print(note, style="yellow", highlight=False, markup=False),
        )
        self._source = trial_source(self._context, session.data, self._storage)
        self._lists: dict[str, RationedList] = {}
        self._repeated_shapes: list[FromScratchJob] = []
        self._rationed: dict[str, Rationed] = {}
        self._base = Stage(self._base_jobs)
        first = [self._base] if self._context.imitates_base else []
        self._trials = Stage(self._trial_jobs, first)
        self._members = Stage(self._member_jobs, [self._trials])
        self._independent = Stage(self._independent_jobs, first)
        self._equal_compute = Stage(self._equal_compute_jobs, [self._trials])
        self._repeats = Stage(self._repeat_jobs, [self._trials])
        self._interpolated = Stage(self._interpolated_jobs, [self._members, self._independent])
        self._interpolated_repeats = Stage(self._interpolated_repeat_jobs, [self._interpolated])
        # Those that others follow from go first; the last fill the time until the last job of the
        # first is over. Which of them a budget of time or images is for first is said by `before`.
        self._stages = Stages(
            [
                *(
                    self._base,
                    self._trials,
                    self._interpolated_repeats,
                    self._interpolated,
                    self._members,
                ),
                *(self._independent, self._equal_compute, self._repeats),
            ]
        )

    def run(self) -> list[Outcome]:
        """All networks, the base network first; SearchFailedError if no trial came to one."""
        self._settle_leftovers()
        if self._context.weights is not None:
            self._notes.append(
                "epochs and compute of fine-tuned networks leave out the training of the given "
                "weights; --scratch-epochs gives networks from scratch as many"
            )
        with self._session.showing():
            self._session.perform(self._stages)
        self._require_networks()
        self._note_what_is_missing()
        shapes = [] if self._shapes is None else self._shapes.outcomes
        return [
            *self._session.stored(BASE),
            *self._source.outcomes,
            *self._session.outcomes([*self._repetitions, *self._all_members]),
            *shapes,
            *self._session.outcomes(self._repeated_shapes),
        ]

    def _require_networks(self) -> None:
        """SearchFailedError if there is no network that was searched for, or none to imitate."""
        if self._context.imitates_base and not self._session.stored(BASE):
            left_out = "it was not trained, for want of time or images"
            reason = self._session.failures.get(BASE.key) or left_out
            raise SearchFailedError(f"there is no base network to learn from: {reason}")
        if self._source.has_outcomes:
            return
        endings = self._source.endings.values()
        can_change = any(e.state == "failed" and not e.is_final for e in endings)
        hint = "; the same command tries them again" if can_change else ""
        raise SearchFailedError(
            f"all {len(endings)} trials failed, the first of them because: "
            f"{next(iter(endings)).reason}{hint}"
        )

    def _note_what_is_missing(self) -> None:
        """Let people know of what could not be had or afforded, and of what failed."""
        self._session.note_left_out(self._lists["base"].left_out)
        if self._rationed["trials"].is_cut_short:
            done = len(self._source.endings) + len({o.trial for o in self._source.outcomes})
            self._notes.append(
                f"{done} of {self._config.num_trials} trials were made: more would not have left "
                "what the families need of the time or images that the search may use"
            )
        self._notes += self._family[1]
        others = [jobs for name, jobs in self._lists.items() if name != "base"]
        self._session.note_left_out([job for jobs in others for job in jobs.left_out])
        if "interpolated" in self._rationed and self._rationed["interpolated"].is_cut_short:
            self._notes.append("fewer tempered shapes were tried, for want of time or images")
        for number, ending in self._source.endings.items():
            self._session.failures[f"trial {number}"] = ending.why
        for number, ending in ({} if self._shapes is None else self._shapes.endings).items():
            self._session.failures[f"tempered-{number}"] = ending.why

    # ---- stages, each asked for once

    def _base_jobs(self) -> RationedSource:
        jobs = [] if self._session.stored(BASE) else [BASE]
        per_trial, per_epoch = self._plan.epochs_per_trial, self._plan.images_per_epoch
        later = len(self._source) * per_trial + self._plan.epochs_after_trials
        self._session.expect(sum(map(self._plan.epochs_of, jobs)) + later)
        reserve = 0 if self._context.imitates_base else per_trial * per_epoch
        return self._listed("base", jobs, reserve=reserve)

    def _trial_jobs(self) -> RationedSource:
        if self._context.imitates_base and not self._session.stored(BASE):
            return self._stopped()
        self._rationed["trials"] = Rationed(
            self._source,
            self._session.compute_budget,
            self._plan.epochs_per_trial * self._plan.images_per_epoch,
            reserve=self._reserve_of_trials,
            is_needed=lambda: not self._source.has_outcomes,
        )
        return self._rationed["trials"]

    def _reserve_of_trials(self) -> int:
        """Images for what comes after the trials, without what of it was begun beside them."""
        begun = (
            sum(map(self._plan.images_of, self._independent_members))
            - self._independent.images_waiting
        )
        return self._plan.epochs_after_trials * self._plan.images_per_epoch - begun

    def _member_jobs(self) -> RationedSource:
        """The shapes of trials, from scratch and at other sizes."""
        if not self._source.has_outcomes:
            return self._stopped()
        jobs = [job for job in self._members_of_trials if not job.equal_compute]
        members = self._listed("members", jobs, lambda: images_waiting(self._repeats))
        waiting = images_waiting(self._independent, self._equal_compute, self._repeats)
        self._expect(members.images_waiting + waiting, self._plan.epochs_interpolated)
        return members

    def _independent_jobs(self) -> RationedSource:
        """What follows from no trial: it fills the time until the last of them is over."""

        def before() -> int:
            later = 0 if self._trials.is_settled else self._reserve_of_trials()
            return later + images_waiting(self._trials, self._members, self._repeats)

        return self._listed("independent", self._independent_members, before)

    def _equal_compute_jobs(self) -> RationedSource:
        """The shapes of trials at equal compute."""
        jobs = [job for job in self._members_of_trials if job.equal_compute]
        before = (self._repeats, self._members, self._independent)
        return self._listed("equal compute", jobs, lambda: images_waiting(*before))

    def _repeat_jobs(self) -> RationedSource:
        return self._listed("repeats", self._repetitions)

    def _interpolated_jobs(self) -> RationedSource:
        """Shapes that were found, and between them and the uniformly narrowed network."""
        source = self._shapes
        if source is None:
            return self._listed("interpolated", [])
        by_key = {outcome.key: outcome for outcome in source.outcomes}
        for job, ending in source.settled():
            self._session.settle(job, [] if ending else [by_key[job.key]], ending)
        epochs_each = self._config.training.num_scratch_epochs

        def before() -> int:
            return images_waiting(self._repeats, self._equal_compute)

        self._expect(before(), len(source) * epochs_each)
        images = epochs_each * self._plan.images_per_epoch
        self._rationed["interpolated"] = Rationed(
            source, self._session.compute_budget, images, before=before
        )
        return self._rationed["interpolated"]

    def _interpolated_repeat_jobs(self) -> RationedSource:
        """The best of them within each rung with further seeds, as all that is compared."""
        source, config = self._shapes, self._config
        if source is not None:
            jobs = {job.key: job for job, _ in source.settled() if isinstance(job, FromScratchJob)}
            best = best_of_rungs(config, self._context.preflight, source.outcomes)
            self._repeated_shapes = [
                repetition(config, jobs[outcome.key], repeat)
                for repeat in range(1, config.seeds)
                for outcome in best
            ]
        waiting = functools.partial(images_waiting, self._repeats, self._equal_compute)
        repeats = self._listed("interpolated repeats", self._repeated_shapes, waiting)
        if len(repeats):
            self._expect(repeats.images_waiting + waiting())
        return repeats

    def _listed(
        self,
        name: str,
        jobs: Sequence[Job],
        before: Callable[[], int] = lambda: 0,
        *,
        reserve: int = 0,
    ) -> RationedList:
        """Those of the jobs that are left; reserve, before: as in RationedList."""
        self._lists[name] = RationedList(
            self._session.unfinished(jobs),
            self._session.compute_budget,
            reserve=reserve,
            before=before,
        )
        return self._lists[name]

    def _stopped(self) -> RationedSource:
        self._stages.stop()
        return RationedList([], self._session.compute_budget)

    def _expect(self, images: int, epochs: int = 0) -> None:
        """Tell of what is to come beside what is under way: images, and epochs more."""
        left = images + self._session.compute_budget.images_under_way
        self._session.expect(left // self._plan.images_per_epoch + epochs)

    # ---- what they follow from, each known once the trials are settled, but for the first

    @functools.cached_property
    def _independent_members(self) -> list[FromScratchJob]:
        """Members of the family that are the same whatever comes of the trials."""
        if self._config.train_only:
            return []
        return members(self._config, self._context.preflight, [])[0]

    @functools.cached_property
    def _family(self) -> tuple[list[FromScratchJob], list[str]]:
        """All members, and what there is to know of those that are missing."""
        if self._config.train_only:
            return [], []
        return members(self._config, self._context.preflight, self._source.outcomes)

    @property
    def _all_members(self) -> list[FromScratchJob]:
        return self._family[0]

    @property
    def _members_of_trials(self) -> list[FromScratchJob]:
        plain = {job.key for job in self._independent_members}
        return [job for job in self._all_members if job.key not in plain]

    @functools.cached_property
    def _repetitions(self) -> list[TrialJob]:
        """The trials that are compared, again with further seeds."""
        chosen = self._source.outcomes
        if not self._config.compares_all_trials:
            chosen = compared(self._config, self._context.preflight, chosen)
        numbers = dict.fromkeys(outcome.trial for outcome in chosen)
        first_runs = [self._trial_job(number) for number in numbers if number is not None]
        return [
            dataclasses.replace(job, repeat=repeat)
            for repeat in range(1, self._config.seeds)
            for job in first_runs
            if job is not None
        ]

    @functools.cached_property
    def _shapes(self) -> StudySource | None:
        """Who proposes further shapes, from what members of one seed and more came to."""
        config, preflight = self._config, self._context.preflight
        if not config.num_tempered or config.train_only:
            return None
        study = open_study(self._storage, f"{config.study_name}/tempered", preflight.score)
        known = [job for job in self._all_members if not job.equal_compute]
        return shape_source(
            study, config, preflight, self._source.outcomes, self._session.outcomes(known)
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
