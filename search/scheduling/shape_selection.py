"""Which further shapes are trained from scratch: what promises the greatest gain in hypervolume.

Every shape that a trial has found on its way is one to begin with, and so is all that lies between
two of them, or between one and the uniformly narrowed network (ρ = 0, see
copycat.families.TemperedCopycat): what has to be beaten is among what is chosen from.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial

from copycat.architecture import read
from copycat.families import Family, TemperedCopycat
from copycat.width_profile import WidthProfile
from pruning.errors import BudgetError, SearchStateError, UnreachableBudgetError
from search.config.search_config import SearchConfig
from search.scheduling.from_scratch_jobs import compared
from search.scheduling.optuna_study import StudySource, trial_number
from search.scheduling.shape_surrogate import Described, ShapeSurrogate, expected_gain
from search.tasks.score import Score
from search.trials.candidates import UNIFORM, Candidate, stored_candidates
from search.trials.jobs import FromScratchJob, Job, Outcome
from search.trials.preflight import Preflight
from search.trials.search_space import sampler

_SHAPE, _TOWARDS, _RUNG, _RHO = "shape", "towards", "rung", "rho"
_POINTS = 200
"""Among which the most promising is looked for."""

_LEAST_KNOWN = 3
"""Trainings from which anything can be learned; before, points are taken as they are drawn."""


@dataclass(frozen=True)
class FoundShape:
    """A shape that a trial has found: that of its network, or one that was judged on the way.

    hints: by rung, what a short training made of it, in deviations from the mean of all there.
    """

    key: str
    trial: int | None
    profile: WidthProfile
    hints: Mapping[float, float] = field(default_factory=dict)


def shape_source(
    study: optuna.Study,
    config: SearchConfig,
    preflight: Preflight,
    trials: Sequence[Outcome],
    members: Sequence[Outcome],
) -> StudySource:
    """Proposes shapes on rungs of the ladder, to be trained from scratch.

    study: of its own; it keeps to the shapes that it began with, whatever `trials` have been added
        since.
    members: trained from scratch before; what is proposed is learned from them, and from what has
        come of earlier proposals. None of them is trained again: in a small space many a point is a
        shape that is known.
    Raises SearchStateError where a shape that it began with is gone.
    """
    points = ShapePoints(config, preflight, _chosen_among(study, config, preflight, trials))
    chooser = ShapeChooser(points, config, preflight, members)
    trained = {o.profile: o for o in members if o.key == o.network and not o.equal_compute}

    def known(job: Job) -> Outcome | None:
        assert isinstance(job, FromScratchJob)
        own = {o.profile: o for o in source.outcomes}
        return (trained | own).get(job.profile.digest)

    def new_sampler(seed: int) -> optuna.samplers.BaseSampler:
        if config.study.sampler == "random":
            return sampler("random", seed, config.num_tempered)
        return _PromisingPoint(chooser, seed)

    source = StudySource(
        study,
        points.propose,
        new_sampler,
        preflight.limits,
        config.num_tempered,
        seed=config.seed,
        known=known,
    )
    return source


def _chosen_among(
    study: optuna.Study, config: SearchConfig, preflight: Preflight, trials: Sequence[Outcome]
) -> list[FoundShape]:
    """The shapes that the study began with; those of now, if it has not begun."""
    begun_with = _begun_with(study)
    if not begun_with:
        return found_shapes(config, preflight, trials)
    every = {shape.key: shape for shape in _every_shape(config, preflight, trials)}
    if missing := [key for key in begun_with if key not in every]:
        raise SearchStateError(
            f"shapes that the study {study.study_name!r} chooses among are no longer there: "
            f"{', '.join(missing)}; bring their folders below {config.directory} back"
        )
    return [every[key] for key in begun_with]


def found_shapes(
    config: SearchConfig, preflight: Preflight, trials: Sequence[Outcome]
) -> list[FoundShape]:
    """The compared trials' own, and every candidate; of equal ones the first.

    Uniform candidates are left out: they are at the other end of every shape.
    """
    every = {shape.key: shape for shape in _every_shape(config, preflight, trials)}
    own = {outcome.key for outcome in trials}
    offered = [outcome.key for outcome in compared(config, preflight, trials)]
    by_digest: dict[str, FoundShape] = {}
    for key in (*offered, *(key for key in every if key not in own)):
        by_digest.setdefault(every[key].profile.digest, every[key])
    return list(by_digest.values())


def _every_shape(
    config: SearchConfig, preflight: Preflight, trials: Sequence[Outcome]
) -> list[FoundShape]:
    """Those of all trials' networks, then all candidates beside them but the uniform ones."""
    candidates = {o.key: stored_candidates(config.directory / o.path) for o in trials}
    hints = _hints([each for found in candidates.values() for each in found], preflight.score)
    shapes = [
        FoundShape(
            o.key, o.trial, read(config.directory / o.path).profile, hints.get(o.profile, {})
        )
        for o in trials
    ]
    return shapes + [
        FoundShape(
            f"{outcome.key}/{each.rung:g}/{each.ranking}",
            outcome.trial,
            each.profile,
            hints[each.profile.digest],
        )
        for outcome in trials
        for each in candidates[outcome.key]
        if each.ranking != UNIFORM
    ]


def _hints(candidates: Sequence[Candidate], score: Score) -> dict[str, dict[float, float]]:
    """By digest and rung, a candidate's score in deviations from the mean of all on the rung."""
    values: dict[float, list[float]] = {}
    for each in candidates:
        values.setdefault(each.rung, []).append(score.key(each.score))
    hints: dict[str, dict[float, float]] = {}
    for each in candidates:
        mean, deviation = statistics.fmean(values[each.rung]), statistics.pstdev(values[each.rung])
        above = score.key(each.score) - mean
        hints.setdefault(each.profile.digest, {})[each.rung] = (
            above / deviation if deviation else 0.0
        )
    return hints


def _begun_with(study: optuna.Study) -> list[str]:
    """Keys of the shapes that the study has chosen among so far."""
    for trial in study.get_trials(deepcopy=False):
        choices = trial.distributions.get(_SHAPE)
        if isinstance(choices, CategoricalDistribution):
            return [str(choice) for choice in choices.choices]
    return []


class ShapePoints:
    """What can be proposed: a shape, what it is mixed with, how much of it is left, and a rung."""

    def __init__(
        self, config: SearchConfig, preflight: Preflight, shapes: Sequence[FoundShape]
    ) -> None:
        self._config, self._preflight = config, preflight
        self._base = preflight.base_network(config.restrictions)
        self.graph_of = self._base.graph_of
        self.shapes = {shape.key: shape for shape in shapes}
        self.distributions: dict[str, BaseDistribution] = {
            _SHAPE: CategoricalDistribution(tuple(self.shapes)),
            _TOWARDS: CategoricalDistribution((UNIFORM, *self.shapes)),
            _RUNG: CategoricalDistribution(config.ladder),
            _RHO: FloatDistribution(0.0, 1.0),
        }

    def propose(self, trial: optuna.trial.BaseTrial) -> Job:
        """The training of what a point describes; UnreachableBudgetError if there is none."""
        params = {
            name: trial.suggest_categorical(name, choices.choices)
            for name, choices in self.distributions.items()
            if isinstance(choices, CategoricalDistribution)
        }
        params[_RHO] = trial.suggest_float(_RHO, 0.0, 1.0)
        return self.job(params, f"tempered-{trial_number(trial)}")

    def job(self, params: Mapping[str, Any], key: str = "") -> FromScratchJob:
        """The training of what these parameters describe, likewise."""
        shape, towards = self.shapes[params[_SHAPE]], self.shapes.get(params[_TOWARDS])
        rung, rho = params[_RUNG], params[_RHO]
        budget = self._preflight.limits.scaled(rung)
        kind = TemperedCopycat(shape.profile, rho, None if towards is None else towards.profile)
        try:
            member = Family(self._base, kind, divisor=self._config.divisor).member(budget)
        except BudgetError as error:
            raise UnreachableBudgetError(str(error)) from error
        return FromScratchJob.of(
            member.profile,
            key,
            "tempered",
            trial=shape.trial,
            rung=rung,
            alpha=member.parameter,
            rho=rho,
            between=(shape.key, params[_TOWARDS]),
        )

    def drawn(self, generator: random.Random) -> dict[str, Any]:
        """A point: a shape as it was found, or between it and another, as often as uniform."""
        shape = generator.choice(list(self.shapes))
        others = [key for key in self.shapes if key != shape]
        is_mixed = bool(others) and generator.random() < 0.5
        return {
            _SHAPE: shape,
            _TOWARDS: generator.choice(others) if is_mixed else UNIFORM,
            _RUNG: generator.choice(self._config.ladder),
            _RHO: generator.choice((1.0, generator.random())),
        }

    def hint(self, params: Mapping[str, Any]) -> float:
        """What short trainings of both ends hint at, in proportion."""
        ends = [self.shapes[params[_SHAPE]], self.shapes.get(params[_TOWARDS])]
        first, second = (0.0 if e is None else e.hints.get(params[_RUNG], 0.0) for e in ends)
        return float(params[_RHO] * first + (1 - params[_RHO]) * second)


class ShapeChooser:
    """Chooses among points that are drawn once, by what is known of others.

    members: trained from scratch before; `known` is what is learned from them, with their scores
        as Score.key has them.
    """

    def __init__(
        self,
        points: ShapePoints,
        config: SearchConfig,
        preflight: Preflight,
        members: Sequence[Outcome],
    ) -> None:
        self._points, self._preflight, self._seed = points, preflight, config.seed
        self._groups = {n: preflight.graph.group(n).width for n in preflight.groups}
        self.known = [
            (self._described(read(config.directory / o.path).profile, o.flops), self._key(o))
            for o in members
            if not o.equal_compute and o.origin != "base"
        ]
        self._digests = {o.profile for o in members}
        self._pool: list[tuple[dict[str, Any], Described, str]] | None = None
        self._of_trials: dict[int, tuple[Described, str] | None] = {}

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """Of the parameters of a point."""
        return self._points.distributions

    def point(self, study: optuna.Study, seed: int) -> dict[str, Any]:
        """The parameters of the most promising point that nobody has tried or is trying."""
        pool, known, tried = self._drawn(), list(self.known), set(self._digests)
        under_way: list[Described] = []
        for trial in study.get_trials(deepcopy=False):
            if set(trial.params) != set(self._points.distributions):
                continue
            if (point := self._of_trial(trial)) is None:  # as it was told: there is none
                continue
            shape, digest = point
            tried.add(digest)
            if trial.values:
                known.append((shape, self._preflight.score.key(trial.values[0])))
            elif trial.state is optuna.trial.TrialState.RUNNING:
                under_way.append(shape)
        left = [(params, shape) for params, shape, digest in pool if digest not in tried] or [
            (params, shape) for params, shape, _ in pool
        ]
        if not left or len(known) < _LEAST_KNOWN:
            generator = random.Random(seed)
            return generator.choice(left)[0] if left else self._points.drawn(generator)
        gains = self._gains(known, under_way, [shape for _, shape in left], seed)
        return left[max(range(len(left)), key=gains.__getitem__)][0]

    def _of_trial(self, trial: FrozenTrial) -> tuple[Described, str] | None:
        """`of_point` for what a trial drew, worked out once; None if there is no such shape."""
        if trial.number not in self._of_trials:
            try:
                self._of_trials[trial.number] = self.of_point(trial.params)
            except UnreachableBudgetError:
                self._of_trials[trial.number] = None
        return self._of_trials[trial.number]

    def _gains(
        self,
        known: list[tuple[Described, float]],
        under_way: Sequence[Described],
        choices: Sequence[Described],
        seed: int,
    ) -> list[float]:
        """Of each choice; what is under way is believed to become what is expected of it."""
        surrogate = ShapeSurrogate([shape for _, shape, _ in self._drawn()], seed)
        if under_way:
            means, _ = surrogate.predicted(known, under_way)
            known = known + list(zip(under_way, means.tolist(), strict=True))
        means, deviations = surrogate.predicted(known, choices)
        score, reference = self._preflight.score, self._preflight.reference
        lowest = min(value for _, value in known)
        guessed = score.key(reference.score) if score.is_share else lowest
        others = [(float(shape.flops), value) for shape, value in known]
        return [
            expected_gain(
                shape.flops,
                own,
                others,
                least_flops=reference.least_flops,
                most_flops=reference.flops,
                guessed=guessed,
            )
            for shape, own in zip(choices, zip(means, deviations, strict=True), strict=True)
        ]

    def _drawn(self) -> list[tuple[dict[str, Any], Described, str]]:
        """Points with what is known of them and the digest of their shapes, each shape once."""
        if self._pool is None:
            generator = random.Random(self._seed)
            pool: dict[str, tuple[dict[str, Any], Described, str]] = {}
            for _ in range(_POINTS):
                params = self._points.drawn(generator)
                try:
                    shape, digest = self.of_point(params)
                except UnreachableBudgetError:
                    continue
                pool.setdefault(digest, (params, shape, digest))
            self._pool = list(pool.values())
        return self._pool

    def of_point(self, params: Mapping[str, Any]) -> tuple[Described, str]:
        """What is known of a point, and the digest of its shape; UnreachableBudgetError if none."""
        profile = self._points.job(params).profile
        flops = self._points.graph_of(profile).cost(profile.widths).flops
        return self._described(profile, flops, self._points.hint(params)), profile.digest

    def _described(self, profile: WidthProfile, flops: int, hint: float = 0.0) -> Described:
        widths = profile.widths
        shares = {name: widths.get(name, whole) / whole for name, whole in self._groups.items()}
        return Described(shares, flops, hint)

    def _key(self, outcome: Outcome) -> float:
        return self._preflight.score.key(outcome.validation_score)


class _PromisingPoint(optuna.samplers.BaseSampler):
    """Optuna's way to ask the chooser."""

    def __init__(self, chooser: ShapeChooser, seed: int) -> None:
        self._chooser, self._seed = chooser, seed
        self._independent = optuna.samplers.RandomSampler(seed=seed)

    def infer_relative_search_space(
        self,
        study: optuna.Study,  # noqa: ARG002
        trial: FrozenTrial,  # noqa: ARG002
    ) -> dict[str, BaseDistribution]:
        return self._chooser.distributions

    def sample_relative(
        self,
        study: optuna.Study,
        trial: FrozenTrial,  # noqa: ARG002
        search_space: dict[str, BaseDistribution],  # noqa: ARG002
    ) -> dict[str, Any]:
        return self._chooser.point(study, self._seed)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        return self._independent.sample_independent(study, trial, param_name, param_distribution)
