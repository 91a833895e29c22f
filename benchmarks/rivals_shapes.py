"""Rivals that train shapes from scratch: uniform, drawn at random, proposed by Optuna."""

from __future__ import annotations

import itertools
import math
import random
import warnings
from collections.abc import Callable
from typing import Any

import optuna
from optuna.distributions import IntDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler
from optuna.trial import TrialState
from rivals_bench import MIN_CHANNELS, Bench

from copycat.families import Copycat, FamilyKind, UniformWidth
from copycat.width_profile import WidthProfile
from pruning.selection import least_widths

POPULATION = 16
"""Of NSGA-II, and the proposals that TPE begins with: of some hundred trainings a sixth or so."""

PASSED_OVER = 50
"""Proposals that can no longer be trained, after which a sampler is through."""


def uniform(bench: Bench, times_as_long: int = 1) -> None:
    """One factor on all widths, at every budget, again and again with other weights.

    times_as_long: what each training takes, in those of the recipe.
    """
    epochs = times_as_long * bench.setting.epochs
    _ladders(bench, lambda _: UniformWidth(bench.groups), epochs)


def random_widths(bench: Bench) -> None:
    """Widths drawn at random, scaled to every budget."""
    generator = random.Random(bench.seed)
    groups = [bench.graph.group(name) for name in bench.groups]

    def drawn(_: int) -> FamilyKind:
        widths = {
            group.name: group.unit * generator.randint(group.floor(MIN_CHANNELS), group.num_units)
            for group in groups
        }
        return Copycat(WidthProfile(widths))

    _ladders(bench, drawn)


def _ladders(
    bench: Bench, kind_of_round: Callable[[int], FamilyKind], epochs: int | None = None
) -> None:
    """Bring a kind to every budget, the next one after it, until nothing more can be paid.

    epochs: of each training; by default those of the recipe.
    """
    number = 0
    for round_number in itertools.count():
        affordable = [
            member
            for member in bench.members(kind_of_round(round_number))
            if bench.affords(member.cost.flops, epochs)
        ]
        for member in affordable:
            if bench.affords(member.cost.flops, epochs):
                bench.from_scratch(member.profile.widths, bench.seed_of(number), epochs)
                number += 1
        if not affordable:
            return


def nsga2(bench: Bench) -> None:
    """NSGA-II on widths, for accuracy in validation and the logarithm of FLOPs."""
    _sampled(bench, NSGAIISampler(population_size=POPULATION, seed=bench.seed))


def tpe(bench: Bench) -> None:
    """Multi-objective, multivariate TPE on the same."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = TPESampler(multivariate=True, n_startup_trials=POPULATION, seed=bench.seed)
    _sampled(bench, sampler)


def _sampled(bench: Bench, sampler: BaseSampler) -> None:
    """Train what the sampler proposes until nothing more can be paid.

    What costs more than the budget is told to be so much too dear, without any training: prices
    are closed forms. No range reaches beyond what the budget leaves with all else at the floor.
    Towards the end only cheap proposals can still be trained; the others are passed over.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    ranges, limit, refused, passed = _ranges(bench), bench.budgets[0], 0, 0
    while bench.affords(bench.budgets[-1]) and passed < PASSED_OVER:
        trial = study.ask(ranges)
        widths: dict[str, Any] = dict(trial.params)
        flops = bench.flops(widths)
        trial.set_constraint("flops", math.log(flops / limit))
        if flops > limit:
            refused += 1
            study.tell(trial, (bench.reference.score, math.log(flops)))
            continue
        if not bench.affords(flops):
            passed += 1
            study.tell(trial, state=TrialState.FAIL)
            continue
        network = bench.from_scratch(widths, bench.seed_of(trial.number))
        study.tell(trial, (network.validation_score, math.log(flops)))
    bench.details["refused for their price"] = refused


def _ranges(bench: Bench) -> dict[str, IntDistribution]:
    """Of each width, on a logarithmic scale."""
    least = least_widths(bench.graph, bench.groups, min_channels=MIN_CHANNELS)
    ranges = {}
    for name in bench.groups:
        group, limit = bench.graph.group(name), bench.budgets[0]
        assert group.unit == 1, "widths are drawn one by one"
        fitting = (
            width
            for width in range(group.width, least[name], -1)
            if bench.flops(least | {name: width}) <= limit
        )
        ranges[name] = IntDistribution(least[name], next(fitting, least[name]), log=True)
    return ranges
