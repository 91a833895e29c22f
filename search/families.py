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
        tasks.append(_task(key, "from-scratch", outcome.trial, profile))
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
    graph = preflight.graph_of(profile)
    alpha = find_alpha(profile, graph, budget)
    shape = scaled(profile, graph, alpha)
    percent = f"{100 * rung:g}".replace(".", "_")
    middle = "" if trial is None else f"-{trial}"
    key = f"{origin}{middle}-b{percent}"
    return _task(key, origin, trial, shape, rung=rung, alpha=alpha)


def _task(
    key: str,
    origin: Origin,
    trial: int | None,
    profile: WidthProfile,
    *,
    rung: float | None = None,
    alpha: float = 1.0,
) -> MemberTask:
    removed = tuple((structure.kind, structure.name) for structure in profile.removed)
    return MemberTask(key, origin, trial, rung, alpha, dict(profile.widths), removed)


def _without_twins(tasks: Sequence[MemberTask]) -> list[MemberTask]:
    """Of tasks with equal widths and seeds, which would end in equal weights, the first."""
    seen: dict[tuple[int | None, str], MemberTask] = {}
    for task in tasks:
        seen.setdefault((task.trial, task.profile.digest), task)
    return list(seen.values())
