"""What one trial is pruned to: its own target and by-products, or the targets of the search."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pruning.cost import Bound, Budget
from pruning.selection import absolute_limits
from search.config.methods import method
from search.config.search_config import SearchConfig
from search.trials.jobs import TrialJob
from search.trials.preflight import Preflight
from search.trials.search_space import Proposal


@dataclass(frozen=True)
class Target:
    """What one network of a trial is pruned to.

    suffix: what its name ends in, see `TrialJob.product_key`.
    limits: the target, and the budget of the search beside it, in absolute numbers.
    name: as the search names it, such as flops=20%; empty where target FLOPs are searched.
    """

    suffix: str
    limits: Budget
    name: str = ""


def product_keys(job: TrialJob, config: SearchConfig) -> list[str]:
    """The names of a trial's networks, that of the trial's own network first."""
    if config.train_only:
        return [job.sparse_key]
    return [job.product_key(suffix) for suffix in product_suffixes(config)]


def product_suffixes(config: SearchConfig) -> list[str]:
    """What the names of a trial's pruned networks end in, that of the trial's own network first."""
    if config.train_only:
        return []
    if config.targets:
        return [_suffix(target) for target in config.target_bounds]
    return ["" if percent == 100 else f"-t{percent}" for percent in _percents(config)]


def targets_of(proposal: Proposal, config: SearchConfig, preflight: Preflight) -> list[Target]:
    """What a trial is pruned to, its own target first; by it trials are judged and compared.

    By-products that would lie below what every granularity can reach are left out. A method that
    prunes before training comes to one network only, and sparse training alone to none.
    """
    bounds = _bounds(proposal, config, preflight)
    suffixes = product_suffixes(config)
    names = list(map(target_name, config.target_bounds)) or [""] * len(suffixes)
    targets = [
        Target(suffix, _within(preflight.limits, bound), name)
        for suffix, bound, name in zip(suffixes, bounds, names, strict=True)
    ]
    if method(proposal.criterion).prunes_untrained:
        return targets[:1]
    if proposal.target_flops is None:
        return targets
    least = preflight.floor.flops
    own, *further = zip(targets, bounds, strict=True)
    return [own[0], *(target for target, bound in further if bound.value >= least)]


def _bounds(proposal: Proposal, config: SearchConfig, preflight: Preflight) -> list[Bound]:
    """Per network, its target as a number; those of the search are shares of the base network."""
    own = proposal.target_flops
    if own is None:
        graph, groups = preflight.graph, preflight.groups
        rules = config.rules_of(proposal.criterion)
        return [
            absolute_limits(Budget((bound,)), graph, groups, rules).bounds[0]
            for bound in config.target_bounds
        ]
    return [Bound("flops", own * percent // 100) for percent in _percents(config)]


def _percents(config: SearchConfig) -> list[int]:
    """Of a trial's own target, what each of its networks is pruned to, by halves from 100 %.

    Thresholds of gates know no target, and would give the same network again.
    """
    by_products = 0 if config.gates.gate_thresholds else config.study.by_products
    halves = [round(100 / 2**times) for times in range(by_products + 1)]
    return list(dict.fromkeys(max(1, percent) for percent in halves))


def _within(limits: Budget, target: Bound) -> Budget:
    """The limits, with that on the target's quantity lowered to the target."""
    limit = limits.limit(target.quantity)
    lowered = target if limit is None or target.value < limit else replace(target, value=limit)
    others = tuple(bound for bound in limits.bounds if bound.quantity != target.quantity)
    return Budget((lowered, *others))


def target_name(target: Bound) -> str:
    """The target in full, such as flops=12.5% or params=200k."""
    if Budget.parse(str(target)).bounds == (target,):
        return str(target)
    amount = f"{100 * target.value:.12g}%" if target.is_share else f"{target.value:.0f}"
    return f"{target.quantity}={amount}"


def _suffix(target: Bound) -> str:
    """Such as -flops-12_5pct: its name, as what may be part of a folder's name."""
    return f"-{target_name(target).replace('=', '-').replace('%', 'pct').replace('.', '_')}"
