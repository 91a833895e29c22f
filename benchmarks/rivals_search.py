"""Espalier's own search, through `search.run`, as a rival among the others."""

from __future__ import annotations

import dataclasses
import math
import statistics
import tempfile
from pathlib import Path
from typing import Any, Literal

from rivals_bench import Bench, Evaluated
from safetensors.torch import save_file

import search
from copycat.architecture import read
from search import SearchConfig, StudyConfig
from search.config.resources_config import ResourcesConfig
from search.results.report import Results
from search.trials.jobs import Outcome

TRIALS = 2


@dataclasses.dataclass(frozen=True)
class Looking:
    """How the search looks for shapes; without one of these, for an ablation."""

    cost_exponent: tuple[float, ...] = (0.0, 0.5, 1.0)
    candidate_epochs: int = 1
    sampler: Literal["tpe", "random"] = "tpe"


def espalier(bench: Bench, looking: Looking = Looking()) -> None:
    """Train the base network as for the packages that prune, and search from its weights.

    The search trains more shapes from scratch than the compute pays for. They come one after the
    other, none depends on later ones: what ends beyond the limit is left out, and not counted.
    """
    base = bench.trained_base()
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "base.safetensors"
        save_file(base.state_dict(), weights)
        config = _config(bench, looking, str(weights), folder)
        results = search.run(config).results
        _count(bench, config, results)


def _count(bench: Bench, config: SearchConfig, results: Results) -> None:
    breakdown = results.breakdown
    assert breakdown is not None, "a finished search knows where its compute went"
    shapes = [outcome for outcome in results.everything if outcome.origin == "tempered"]
    bench.spent += breakdown.compute - sum(outcome.compute for outcome in shapes)
    for outcome in results.everything:
        if outcome.origin == "tempered":
            if bench.spent + outcome.compute > bench.limit:
                break
            bench.spent += outcome.compute
        if outcome.flops <= bench.budgets[0]:
            bench.networks.append(_evaluated(bench, config, outcome))
    bench.seconds_training += sum(stage.seconds for stage in breakdown.stages)
    bench.details |= _details(config, results, len(shapes))


def _evaluated(bench: Bench, config: SearchConfig, outcome: Outcome) -> Evaluated:
    profile = read(config.directory / outcome.path).profile
    whole = {name: bench.graph.group(name).width for name in bench.groups}
    widths = {name: profile.widths.get(name, width) for name, width in whole.items()}
    scores = outcome.validation_score, outcome.test_score
    return Evaluated(widths, outcome.flops, *scores, bench.spent)


def _config(bench: Bench, looking: Looking, weights: str, runs: str) -> SearchConfig:
    setting, each = bench.setting, bench.compute_of(statistics.fmean(bench.budgets))
    shapes = math.ceil((bench.limit - bench.spent) / each)
    return dataclasses.replace(
        setting.search,
        seed=bench.seed,
        weights=weights,
        training=dataclasses.replace(setting.training, epochs=0),
        criterion=("taylor",),
        cost_exponent=looking.cost_exponent,
        trials=TRIALS,
        profiles=1,
        equal_compute_pairs=False,
        study=StudyConfig(
            sampler=looking.sampler,
            by_products=0,
            tempered_trials=shapes,
            candidate_epochs=looking.candidate_epochs,
        ),
        runs=runs,
        name="rival",
        concurrency=1,
        resources=ResourcesConfig(cpus_per_trial=1),  # one thread, as the others have
        device="cpu",
    )


def _details(config: SearchConfig, results: Results, num_shapes: int) -> dict[str, Any]:
    assert results.breakdown is not None
    return {
        "trials": config.num_trials,
        "criteria": list(config.criteria),
        "schedules": list(config.schedules),
        "shapes from scratch": num_shapes,
        "stages": {stage.name: stage.compute for stage in results.breakdown.stages},
        "compute if each candidate were trained fully": results.breakdown.compute_if_full,
    }
