"""How good the shapes are that a search chooses to train, against other ways to choose.

    espalier search --config examples/digits.toml --seed N --runs FOLDER     # once for each N
    python benchmarks/shape_choice.py FOLDER FOLDER ...                      # 3 minutes for each

Of each finished search `digits`, SHAPES points are drawn as the search draws them, and all are
trained from scratch. Each way then chooses PICKS of a part of them, one after the other. It knows
what the search had trained from scratch, and what came of its own choices; what counts is what
these add to the hypervolume. Writes benchmarks/results/shape_choice.md, from the trained shapes in
benchmarks/results/shape_choice/, by which it goes on where it was.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import random
import statistics
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from pruning.errors import UnreachableBudgetError
from search.commands.resume import stored_config
from search.results.report import open_results
from search.scheduling.shape_selection import ShapeChooser, ShapePoints, found_shapes
from search.scheduling.shape_surrogate import Described, ShapeSurrogate, expected_gain
from search.studies.search_study import open_context
from search.trials.jobs import Outcome
from search.trials.pareto import Hypervolume, front
from search.trials.preflight import Preflight
from search.trials.trial import perform

RESULTS = Path(__file__).parent / "results"
SHAPES, PICKS, PART, DRAWS = 40, 4, 0.7, 20
"""Shapes trained of each search; how many are chosen, of what share of them; how often drawn."""

FROM_SCRATCH = ("from-scratch", "copycat", "uniform")


@dataclass(frozen=True)
class Shape:
    """A trained shape; rho: how much of a found one it keeps, 0 for that of the uniform network."""

    described: Described
    rho: float
    flops: int
    validation_score: float
    test_score: float


@dataclass(frozen=True)
class Search:
    """A finished search, what it knew when it began to choose, and what there was to choose."""

    preflight: Preflight
    members: Sequence[Outcome]
    known: list[tuple[Described, float]]
    shapes: list[Shape]


Way = Callable[[Search, list[Shape], list[tuple[Described, float]], random.Random], Shape]


def by_gain(*, hints: bool = True, caution: float = 1.0) -> Way:
    """As a search does; hints: whether it sees them.  caution: factor on deviations."""

    def choose(
        search: Search, left: list[Shape], known: list[tuple[Described, float]], _: random.Random
    ) -> Shape:
        shapes = [each.described for each in left]
        if not hints:
            shapes = [dataclasses.replace(each, hint=0.0) for each in shapes]
            known = [(dataclasses.replace(each, hint=0.0), value) for each, value in known]
        means, deviations = ShapeSurrogate(shapes, 0).predicted(known, shapes)
        reference, score = search.preflight.reference, search.preflight.score
        others = [(float(shape.flops), value) for shape, value in known]
        gains = [
            expected_gain(
                shape.flops,
                (mean, caution * deviation),
                others,
                least_flops=reference.least_flops,
                most_flops=reference.flops,
                guessed=score.key(reference.score),
            )
            for shape, mean, deviation in zip(shapes, means, deviations, strict=True)
        ]
        return left[max(range(len(left)), key=gains.__getitem__)]

    return choose


WAYS: dict[str, Way] = {
    "expected gain in hypervolume (the search)": by_gain(),
    "the same without hints": by_gain(hints=False),
    "the same, expecting the mean of each": by_gain(caution=0.0),
    "the best hint": lambda _, left, __, ___: max(left, key=lambda shape: shape.described.hint),
    "at random": lambda _, left, __, generator: generator.choice(left),
    "the nearest to uniform": lambda _, left, __, ___: min(left, key=lambda shape: shape.rho),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, help="folders with a finished search digits")
    options = parser.parse_args()
    torch.set_num_threads(1)
    searches = [opened(runs / "digits") for runs in options.runs]
    gains = {name: [_gains(each, way) for each in searches] for name, way in WAYS.items()}
    (RESULTS / "shape_choice.md").write_text(page(gains, searches))


def opened(folder: Path) -> Search:
    """The search with its shapes, of which those that are not yet are trained."""
    config = stored_config(folder.name, str(folder.parent), {}, ())
    context, data = open_context(config, Console(quiet=True))
    everything = open_results(folder).everything
    members = [o for o in everything if o.origin in FROM_SCRATCH and not o.equal_compute]
    trials = [outcome for outcome in everything if outcome.origin == "fine-tuned"]
    shapes = found_shapes(config, context.preflight, trials)
    points = ShapePoints(config, context.preflight, shapes)
    chooser = ShapeChooser(points, config, context.preflight, members)
    file = RESULTS / "shape_choice" / f"{config.seed}.json"
    stored: list[dict[str, Any]] = json.loads(file.read_text()) if file.exists() else []
    drawn = _drawn(points, chooser, config.seed)
    with tempfile.TemporaryDirectory() as temporary:
        elsewhere = dataclasses.replace(config, runs=temporary)
        there = dataclasses.replace(context, config=elsewhere)
        for number, params in enumerate(drawn[len(stored) :], len(stored)):
            job = dataclasses.replace(
                points.job(params, f"shape-{number}"), seed=1000 + config.seed
            )
            (outcome,) = perform(job, there, data, lambda _: None)
            scores = {"validation": outcome.validation_score, "test": outcome.test_score}
            stored.append({"params": params, "flops": outcome.flops, **scores})
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("[\n" + ",\n".join(map(json.dumps, stored)) + "\n]\n")
    trained = [
        Shape(
            chooser.of_point(one["params"])[0],
            one["params"]["rho"] if one["params"]["towards"] == "uniform" else 1.0,
            one["flops"],
            one["validation"],
            one["test"],
        )
        for one in stored[:SHAPES]
    ]
    return Search(context.preflight, members, chooser.known, trained)


def _drawn(points: ShapePoints, chooser: ShapeChooser, seed: int) -> list[dict[str, Any]]:
    generator, drawn = random.Random(seed + 1), dict[str, dict[str, Any]]()
    while len(drawn) < SHAPES:
        params = points.drawn(generator)
        with suppress(UnreachableBudgetError):
            drawn.setdefault(chooser.of_point(params)[1], params)
    return list(drawn.values())


def _gains(search: Search, way: Way) -> tuple[float, float]:
    """In hypervolume by validation and by test scores, means over parts of the shapes."""
    gains = []
    for number in range(DRAWS):
        generator = random.Random(number)
        left = generator.sample(search.shapes, round(PART * len(search.shapes)))
        known, chosen = list(search.known), []
        for _ in range(PICKS):
            shape = way(search, left, known, generator)
            left.remove(shape)
            chosen.append(shape)
            known.append((shape.described, search.preflight.score.key(shape.validation_score)))
        gains.append([_added(search, chosen, in_test=in_test) for in_test in (False, True)])
    validation, test = zip(*gains, strict=True)
    return statistics.fmean(validation), statistics.fmean(test)


def _added(search: Search, chosen: Sequence[Shape], *, in_test: bool) -> float:
    """What these shapes add to the hypervolume of what the search had from scratch.

    in_test: of the front by validation, as it is worth on the test split.
    """
    volumes = []
    for shapes in ([], chosen):
        volume = Hypervolume(search.preflight.reference, search.preflight.score)
        for each in front([*search.members, *shapes], search.preflight.score):
            volume.add(_Point(each.test_score if in_test else each.validation_score, each.flops))
        volumes.append(volume.value or 0.0)
    return volumes[1] - volumes[0]


@dataclass(frozen=True)
class _Point:
    validation_score: float
    flops: float


def page(gains: dict[str, list[tuple[float, float]]], searches: Sequence[Search]) -> str:
    """Of each way the mean gain over searches, with its deviation, in thousandths."""
    names = ("torch", "scikit-learn", "optuna")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    rows = "\n".join(
        f"| {name} | {_spread([own[0] for own in each])} | {_spread([own[1] for own in each])} |"
        for name, each in gains.items()
    )
    return (
        "# Which shapes are chosen to be trained from scratch\n\n"
        f"`python benchmarks/shape_choice.py FOLDER …`, Python {platform.python_version()}, "
        f"{versions}; CPU, one thread. {len(searches)} searches of `examples/digits.toml` with "
        f"seeds of their own; of each {SHAPES} shapes were trained from scratch. A way chooses "
        f"{PICKS} of a random {100 * PART:.0f} % of them, {DRAWS} times. Gains in hypervolume "
        "(0 to 1), in thousandths: the mean over searches ± the deviation over them. Choices go by "
        "validation; test scores are reported.\n\n"
        "| chosen by | gain, validation | gain, test |\n| --- | --- | --- |\n" + rows + "\n"
    )


def _spread(values: Sequence[float]) -> str:
    deviation = f" ± {1000 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{1000 * statistics.fmean(values):.1f}{deviation}"


if __name__ == "__main__":
    main()
