"""Which shapes are trained from scratch, once the trials are done."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from copycat.architecture import read
from copycat.families import Copycat, Family, FamilyKind, Member, UniformWidth
from copycat.width_profile import WidthProfile
from pruning.errors import BudgetError, UnreachableBudgetError
from search.config.search_config import SearchConfig
from search.trials.jobs import FromScratchJob, Origin, Outcome
from search.trials.pareto import front, spread
from search.trials.preflight import Preflight


def members(
    config: SearchConfig, preflight: Preflight, trials: Sequence[Outcome]
) -> tuple[list[FromScratchJob], list[str]]:
    """The family stage: what to train from scratch, and notes on what was left out.

    The shape of every compared trial in its own size, at equal epochs and at equal compute (the
    pairs of the fine-tuned network); every chosen shape of the front, rescaled to each rung of the
    ladder; at each rung the base network, uniformly narrowed, and, if asked for, a network of
    random widths. All that with each seed, those of the first seed first. Nothing of all this if
    the search is to choose no shape (`profiles` 0).

    trials: their first run each, no repetitions.
    """
    if not config.profiles:
        return [], []
    plan = _Plan(config, preflight, trials)
    jobs = [job for repeat in range(config.seeds) for job in plan.jobs(repeat)]
    return _without_twins(jobs), plan.notes


def compared(
    config: SearchConfig, preflight: Preflight, trials: Sequence[Outcome]
) -> list[Outcome]:
    """The trials whose networks the verdict is about: to be trained from scratch, and repeated.

    The best in validation within each rung of the ladder, so that a budget is judged by the best
    that was found for it, and the chosen shapes of the front.
    """
    found = [*_chosen(config, preflight, trials), *best_of_rungs(config, preflight, trials)]
    return list({outcome.key: outcome for outcome in found}.values())


def best_of_rungs(
    config: SearchConfig, preflight: Preflight, outcomes: Sequence[Outcome]
) -> list[Outcome]:
    """Of each rung of the ladder the best in validation that is within it, each once."""
    best = []
    for rung in config.ladder:
        limits = preflight.limits.scaled(rung)
        within = [outcome for outcome in outcomes if limits.allows(outcome.cost)]
        best += front(within, preflight.score)[-1:]
    return list({outcome.key: outcome for outcome in best}.values())


def repetition(config: SearchConfig, job: FromScratchJob, repeat: int) -> FromScratchJob:
    """The job with the seeds of a repetition; the first has those of its trial."""
    if repeat == 0:
        return job
    seed = config.seed_of(job.trial or 0, repeat)
    return replace(job, key=f"{job.key}-s{repeat}", seed=seed)


def num_members(config: SearchConfig) -> int:
    """The most trainings from scratch that a search comes to; one at equal compute counts as two.

    For estimates before the trials are done.
    """
    if not config.profiles:
        return 0
    pairs = min(config.profiles + len(config.ladder), config.num_trials)
    per_rung = config.profiles + 1 + config.random_widths
    per_pair = 3 if config.equal_compute_pairs else 1
    return config.seeds * (pairs * per_pair + len(config.ladder) * per_rung)


def _chosen(config: SearchConfig, preflight: Preflight, trials: Sequence[Outcome]) -> list[Outcome]:
    return spread(front(trials, preflight.score), config.profiles)


@dataclass(frozen=True)
class _Line:
    """A kind of shape that is brought to each rung of the ladder; `name` begins its keys."""

    kind: FamilyKind
    origin: Origin
    trial: int | None
    name: str


class _Plan:
    """The jobs of each seed; what cannot be had is noted once."""

    def __init__(
        self, config: SearchConfig, preflight: Preflight, trials: Sequence[Outcome]
    ) -> None:
        self.notes: list[str] = []
        self._config, self._preflight = config, preflight
        self._base = preflight.base_network(config.restrictions)
        self._pairs = self._with_profiles(compared(config, preflight, trials))
        chosen = self._with_profiles(_chosen(config, preflight, trials))
        lines = [
            _Line(UniformWidth(preflight.groups), "uniform", None, "uniform"),
            *(
                _Line(Copycat(profile), "copycat", outcome.trial, _renamed(outcome, "copycat"))
                for outcome, profile in chosen
            ),
        ]
        self._rungs = list(self._members(config.ladder, lines))

    def _with_profiles(self, outcomes: Sequence[Outcome]) -> list[tuple[Outcome, WidthProfile]]:
        folder = self._config.directory
        return [(outcome, read(folder / outcome.path).profile) for outcome in outcomes]

    def jobs(self, repeat: int) -> Iterator[FromScratchJob]:
        """Everything to train with the seeds of this repetition."""
        for outcome, profile in self._pairs:
            yield from self._pair(outcome, profile, repeat)
        for line, rung, member in [*self._rungs, *self._random(repeat)]:
            percent = f"{100 * rung:g}".replace(".", "_")
            key = f"{line.name}-b{percent}"
            job = FromScratchJob.of(
                member.profile,
                key,
                line.origin,
                trial=line.trial,
                rung=rung,
                alpha=member.parameter,
            )
            yield repetition(self._config, job, repeat)

    def _pair(
        self, outcome: Outcome, profile: WidthProfile, repeat: int
    ) -> Iterator[FromScratchJob]:
        """The shape of a trial from scratch, and longer if that is asked for and is longer."""
        key, training = _renamed(outcome, "from-scratch"), self._config.training
        job = FromScratchJob.of(profile, key, "from-scratch", trial=outcome.trial)
        yield repetition(self._config, job, repeat)
        flops = self._preflight.graph_of(profile).cost(profile.widths).flops
        longer = replace(training, equal_compute=True)
        epochs = (
            t.epochs_from_scratch(flops, self._preflight.base.flops) for t in (training, longer)
        )
        if self._config.equal_compute_pairs and next(epochs) < next(epochs):
            longer_job = replace(job, key=f"{key}-longer", equal_compute=True)
            yield repetition(self._config, longer_job, repeat)

    def _random(self, repeat: int) -> list[tuple[_Line, float, Member]]:
        """Widths drawn anew with each seed, scaled to each rung."""
        if not self._config.random_widths:
            return []
        profile = self._random_profile(self._config.seed_of(0, repeat))
        reachable = dict.fromkeys(rung for _, rung, _ in self._rungs)
        return list(self._members(reachable, [_Line(Copycat(profile), "random", None, "random")]))

    def _random_profile(self, seed: int) -> WidthProfile:
        """Each width uniform between the least that stays and the whole of its group."""
        generator, least = random.Random(seed), self._config.min_channels
        groups = map(self._preflight.graph.group, self._preflight.groups)
        return WidthProfile(
            {g.name: g.unit * generator.randint(g.floor(least), g.num_units) for g in groups}
        )

    def _members(
        self, rungs: Iterable[float], lines: Sequence[_Line]
    ) -> Iterator[tuple[_Line, float, Member]]:
        """The largest member of each line within each rung."""
        divisor = self._config.divisor
        families = [Family(self._base, line.kind, divisor=divisor) for line in lines]
        for rung in rungs:
            budget = self._preflight.limits.scaled(rung)
            for line, family in zip(lines, families, strict=True):
                try:
                    member = family.member(budget)
                except UnreachableBudgetError as error:
                    self._note(f"rung {rung:g} of the ladder is left out: {error}")
                    break
                except BudgetError as error:
                    self._note(f"rung {rung:g} of the ladder has no {line.origin}: {error}")
                else:
                    yield line, rung, member

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def _renamed(outcome: Outcome, origin: Origin) -> str:
    """The key of a fine-tuned network with another origin: from-scratch-3 of fine-tuned-3."""
    return origin + outcome.network.removeprefix(outcome.origin)


def _without_twins(jobs: Sequence[FromScratchJob]) -> list[FromScratchJob]:
    """Of jobs with equal widths, seeds and epochs, which would end in equal weights, the first."""
    first_of: dict[tuple[int | None, int | None, bool, str], FromScratchJob] = {}
    for job in jobs:
        twin = job.trial, job.seed, job.equal_compute, job.profile.digest
        first_of.setdefault(twin, job)
    return list(first_of.values())
