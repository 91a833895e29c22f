"""Which shapes are trained from scratch, once the trials are done."""

from __future__ import annotations

from collections.abc import Sequence

from copycat.architecture import read
from copycat.base_network import BaseNetwork
from copycat.families import Copycat, FamilyKind, Member, UniformWidth
from copycat.families import members as family_members
from copycat.width_profile import WidthProfile
from pruning.errors import BudgetError, UnreachableBudgetError
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
    families: list[tuple[FamilyKind, Origin, int | None]] = [
        (UniformWidth(preflight.groups), "uniform", None),
        *((Copycat(profile), "copycat", outcome.trial) for outcome, profile in chosen),
    ]
    base = BaseNetwork(preflight.builder, preflight.graph, preflight.example_input)
    for rung in config.ladder:
        budget = preflight.limits.scaled(rung)
        for kind, origin, trial in families:
            try:
                (member,) = family_members(base, kind, [budget], divisor=config.divisor)
            except UnreachableBudgetError as error:
                notes.append(f"rung {rung:g} of the ladder is left out: {error}")
                break
            except BudgetError as error:
                notes.append(f"rung {rung:g} of the ladder has no {origin}: {error}")
            else:
                tasks.append(_task_of(member, origin, trial, rung))
    return _without_twins(tasks), notes


def _task_of(member: Member, origin: Origin, trial: int | None, rung: float) -> MemberTask:
    percent = f"{100 * rung:g}".replace(".", "_")
    middle = "" if trial is None else f"-{trial}"
    key = f"{origin}{middle}-b{percent}"
    return _task(key, origin, trial, member.profile, rung=rung, alpha=member.parameter)


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
