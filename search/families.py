"""Which shapes are trained from scratch, once the trials are done."""

from __future__ import annotations

from collections.abc import Sequence

from copycat.architecture import read
from copycat.rescale import find_alpha, scaled
from copycat.width_profile import WidthProfile
from pruning.cost import Budget
from pruning.errors import UnreachableBudgetError
from search.config import SearchConfig
from search.pareto import front, spread
from search.preflight import Preflight
from search.tasks import MemberTask, Origin, Outcome


def members(
    config: SearchConfig, preflight: Preflight, trials: Sequence[Outcome]
) -> tuple[list[MemberTask], list[str]]:
    """The family stage: what to train from scratch, and notes on what was left out.

    Every chosen profile of the front in its own size (the pair of the fine-tuned network) and
    rescaled to each rung of the ladder; at each rung the base network, uniformly narrowed.
    """
    tasks: list[MemberTask] = []
    notes: list[str] = []
    chosen = [
        (outcome, read(config.directory / outcome.path).profile)
        for outcome in spread(front(trials), config.profiles)
    ]
    for outcome, profile in chosen:
        key = f"from-scratch-{outcome.trial}"
        tasks.append(
            MemberTask(key, "from-scratch", outcome.trial, None, 1.0, dict(profile.widths))
        )
    uniform = WidthProfile.of(preflight.graph, preflight.groups)
    for rung in config.ladder:
        budget = preflight.limits.scaled(rung)
        try:
            tasks.append(_member(preflight, budget, uniform, "uniform", None, rung=rung))
            for outcome, profile in chosen:
                tasks.append(
                    _member(preflight, budget, profile, "copycat", outcome.trial, rung=rung)
                )
        except UnreachableBudgetError as error:
            notes.append(f"rung {rung:g} of the ladder is left out: {error}")
    return _without_twins(tasks), notes


def _member(
    preflight: Preflight,
    budget: Budget,
    profile: WidthProfile,
    origin: Origin,
    trial: int | None,
    *,
    rung: float,
) -> MemberTask:
    alpha = find_alpha(profile, preflight.graph, budget)
    widths = dict(scaled(profile, preflight.graph, alpha).widths)
    percent = f"{100 * rung:g}".replace(".", "_")
    middle = "" if trial is None else f"-{trial}"
    return MemberTask(f"{origin}{middle}-b{percent}", origin, trial, rung, alpha, widths)


def _without_twins(tasks: Sequence[MemberTask]) -> list[MemberTask]:
    """Of tasks with equal widths and seeds, which would end in equal weights, the first."""
    seen: dict[tuple[int | None, str], MemberTask] = {}
    for task in tasks:
        seen.setdefault((task.trial, WidthProfile(task.widths).digest), task)
    return list(seen.values())
