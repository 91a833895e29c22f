"""Espalier's own search, through `search.run`, as a rival among the others."""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rivals_bench import FORWARD_ALONE, Bench, Evaluated
from safetensors.torch import save_file

import search
from copycat.architecture import read
from pruning.rules import Scope
from search import SearchConfig, StudyConfig
from search.config.resources_config import ResourcesConfig
from search.results.report import Results
from search.trials.jobs import Outcome

SCORING_BATCHES = 4
"""Minibatches by which channels are judged, at the price of the network that they are part of."""


@dataclasses.dataclass(frozen=True)
class Looking:
    """How the search looks for networks; without one of these, for an ablation.

    is_trained: whether networks are pruned from a trained base network, or from one that has
        learned nothing, so that only they are trained.
    times_as_long: what each fine-tuning takes, in those of the recipe.
    """

    cost_exponent: tuple[float, ...] = (0.5, 1.0, 0.0)
    scope: Scope = "global"
    descend: bool = True
    is_trained: bool = True
    times_as_long: int = 1


def espalier(bench: Bench, looking: Looking = Looking()) -> None:
    """Train the base network as for the packages that prune, and search from its weights.

    Or search without any: then the base network is trained beside, to be compared with; nothing
    depends on it, and it is not counted. Each trial prunes to the largest budget, fine-tunes,
    prunes that to the next …; trials differ in how scores are weighed by cost, and are repeated
    with other seeds. The search trains more networks than the compute pays for. None depends on
    later ones: from the first on that ends beyond the limit they are left out, and not counted.
    """
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "base.safetensors"
        if looking.is_trained:
            save_file(bench.trained_base().state_dict(), weights)
        config = _config(bench, looking, str(weights) if looking.is_trained else "", folder)
        results = search.run(config).results
        _count(bench, config, results)


def _count(bench: Bench, config: SearchConfig, results: Results) -> None:
    breakdown = results.breakdown
    assert breakdown is not None, "a finished search knows where its compute went"
    networks = [outcome for outcome in results.everything if outcome.origin != "base"]
    training = config.training
    costs = [bench.compute_of(outcome.flops, training.fine_tune_epochs) for outcome in networks]
    beside = 0.0
    if not config.weights:
        beside = bench.compute_of(bench.preflight.base.flops, training.num_scratch_epochs)
    assert math.isclose(sum(costs) + beside, breakdown.compute), "nothing else was trained"
    parents = _parents(bench, config, networks)
    bench.charge(bench.data.count("validation"), FORWARD_ALONE * bench.preflight.base.flops)
    for outcome, parent, cost in zip(networks, parents, costs, strict=True):
        spent = _looked_at(bench, config, outcome, parent) + cost
        if bench.spent + spent > bench.limit:
            break
        bench.spent += spent
        bench.networks.append(_evaluated(bench, config, outcome))
    bench.seconds_training += sum(stage.seconds for stage in breakdown.stages)
    bench.details |= _details(config, results, networks)


def _parents(bench: Bench, config: SearchConfig, networks: Sequence[Outcome]) -> list[int]:
    """FLOPs of what each network was pruned from: the base network, or the one before it."""
    before: dict[tuple[int | None, int], int] = {}
    parents = []
    for outcome in networks:
        run = outcome.trial, outcome.seed
        parents.append(before.get(run, bench.preflight.base.flops))
        if config.study.descend:
            before[run] = outcome.flops
    return parents


def _looked_at(bench: Bench, config: SearchConfig, outcome: Outcome, parent: int) -> float:
    """Compute without training that a network took: scores, and validation around pruning."""
    scored = min(config.scoring_batches * bench.setting.batch_size, bench.data.count("train"))
    validated = FORWARD_ALONE * bench.data.count("validation")
    return scored * parent + validated * (parent + outcome.flops)


def _evaluated(bench: Bench, config: SearchConfig, outcome: Outcome) -> Evaluated:
    profile = read(config.directory / outcome.path).profile
    whole = {name: bench.graph.group(name).width for name in bench.groups}
    widths = {name: profile.widths.get(name, width) for name, width in whole.items()}
    scores = outcome.validation_score, outcome.test_score
    return Evaluated(widths, outcome.flops, *scores, bench.spent)


def _config(bench: Bench, looking: Looking, weights: str, runs: str) -> SearchConfig:
    setting, exponents = bench.setting, looking.cost_exponent
    epochs = looking.times_as_long * setting.epochs
    each = len(exponents) * bench.compute_of(sum(bench.budgets), epochs)
    return dataclasses.replace(
        setting.search,
        seed=bench.seed,
        weights=weights,
        training=dataclasses.replace(
            setting.training, epochs=0, fine_tune_epochs=epochs, scratch_epochs=setting.epochs
        ),
        criterion=("taylor",),
        cost_exponent=exponents,
        scope=looking.scope,
        targets=tuple(f"flops={100 * share:g}%" for share in setting.budgets),
        trials=len(exponents),
        scoring_batches=SCORING_BATCHES,
        seeds=max(1, math.ceil((bench.limit - bench.spent) / each)),
        profiles=0,
        study=StudyConfig(tempered_trials=0, descend=looking.descend),
        runs=runs,
        name="rival",
        concurrency=1,
        resources=ResourcesConfig(cpus_per_trial=1),  # one thread, as the others have
        device="cpu",
    )


def _details(config: SearchConfig, results: Results, networks: Sequence[Outcome]) -> dict[str, Any]:
    assert results.breakdown is not None
    return {
        "trials": config.num_trials,
        "seeds": config.seeds,
        "criteria": list(config.criteria),
        "cost exponents": list(config.cost_exponents),
        "networks": len(networks),
        "stages": {stage.name: stage.compute for stage in results.breakdown.stages},
        "compute if each candidate were trained fully": results.breakdown.compute_if_full,
    }
