"""The searched dimension of families: how much of a found shape a network keeps.

With ρ = 1 a network is copycat's, with ρ = 0 the uniformly narrowed one (see
copycat.families.TemperedCopycat), so a search over ρ contains the baseline that it has to beat.
"""

from __future__ import annotations

from collections.abc import Sequence

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from copycat.architecture import read
from copycat.families import Family, TemperedCopycat
from pruning.errors import BudgetError, UnreachableBudgetError
from search.config.search_config import SearchConfig
from search.scheduling.from_scratch_jobs import compared
from search.scheduling.optuna_study import StudySource, add_known, trial_number
from search.trials.jobs import FromScratchJob, Job, Outcome
from search.trials.preflight import Preflight
from search.trials.search_space import sampler

_SHAPE, _RUNG, _RHO = "shape", "rung", "rho"


def tempered_source(
    study: optuna.Study,
    config: SearchConfig,
    preflight: Preflight,
    trials: Sequence[Outcome],
    members: Sequence[Outcome],
) -> StudySource:
    """Proposes ρ, one of the compared shapes and a rung of the ladder, to be trained from scratch.

    study: of its own; it learns from `members`, the copycats and the uniform networks, once, and
    keeps to the shapes that it began with, whatever `trials` have been added since. In a small
    space many a point is a shape that has been trained before, which is not done again.
    """
    by_key = {outcome.key: outcome for outcome in trials}
    keys = _begun_with(study) or [o.key for o in compared(config, preflight, trials)]
    points = _Points(config, preflight, [by_key[key] for key in keys])
    add_known(study, [trial for member in members for trial in points.known(member)])
    trained = {o.profile: o for o in members if o.key == o.network and not o.equal_compute}

    def known(job: Job) -> Outcome | None:
        assert isinstance(job, FromScratchJob)
        own = {o.profile: o for o in source.outcomes}
        return (trained | own).get(job.profile.digest)

    source = StudySource(
        study,
        points.propose,
        lambda seed: sampler(config.study.sampler, seed, config.num_tempered),
        preflight.limits,
        config.num_tempered,
        seed=config.seed,
        known=known,
    )
    return source


def _begun_with(study: optuna.Study) -> list[str]:
    """Keys of the shapes that the study has chosen among so far."""
    for trial in study.get_trials(deepcopy=False):
        choices = trial.distributions.get(_SHAPE)
        if isinstance(choices, CategoricalDistribution):
            return [str(choice) for choice in choices.choices]
    return []


class _Points:
    def __init__(
        self, config: SearchConfig, preflight: Preflight, shapes: Sequence[Outcome]
    ) -> None:
        self._config, self._preflight = config, preflight
        self._base = preflight.base_network(config.restrictions)
        self._shapes = {shape.key: shape for shape in shapes}
        self._distributions: dict[str, BaseDistribution] = {
            _SHAPE: CategoricalDistribution(tuple(self._shapes)),
            _RUNG: CategoricalDistribution(config.ladder),
            _RHO: FloatDistribution(0.0, 1.0),
        }

    def propose(self, trial: optuna.trial.BaseTrial) -> Job:
        """The member that a point describes; UnreachableBudgetError if there is none."""
        shape = self._shapes[str(trial.suggest_categorical(_SHAPE, tuple(self._shapes)))]
        rung = trial.suggest_categorical(_RUNG, self._config.ladder)
        rho = trial.suggest_float(_RHO, 0.0, 1.0)
        profile = read(self._config.directory / shape.path).profile
        budget = self._preflight.limits.scaled(rung)
        try:
            kind = TemperedCopycat(profile, rho)
            member = Family(self._base, kind, divisor=self._config.divisor).member(budget)
        except BudgetError as error:
            raise UnreachableBudgetError(str(error)) from error
        return FromScratchJob.of(
            member.profile,
            f"tempered-{trial_number(trial)}",
            "tempered",
            trial=shape.trial,
            rung=rung,
            alpha=member.parameter,
            rho=rho,
        )

    def known(self, member: Outcome) -> list[optuna.trial.FrozenTrial]:
        """A copycat is its shape at ρ = 1, a uniform network every shape at ρ = 0."""
        if member.rung not in self._config.ladder:
            return []
        if member.origin == "uniform":
            return [self._trial(member, shape, 0.0) for shape in self._shapes]
        if member.origin == "copycat":
            own = [key for key, shape in self._shapes.items() if shape.trial == member.trial]
            return [self._trial(member, key, 1.0) for key in own[:1]]
        return []

    def _trial(self, member: Outcome, shape: str, rho: float) -> optuna.trial.FrozenTrial:
        return optuna.create_trial(
            params={_SHAPE: shape, _RUNG: member.rung, _RHO: rho},
            distributions=self._distributions,
            values=[member.validation_score, float(member.flops)],
        )
