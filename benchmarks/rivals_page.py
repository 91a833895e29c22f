"""The page of the rivals, from what is stored of their runs."""

from __future__ import annotations

import json
import math
import platform
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from scipy import stats

from pruning.cost import format_count
from search.results.statistics.differences import LEVEL, Difference, holm, paired_by_seed
from search.tasks.score import ACCURACY
from search.trials.pareto import Hypervolume, Reference, best, front

NAMES = {
    "espalier-untrained": "Espalier's search, four times as long each",
    "espalier": "Espalier's, from a trained base network",
    "uniform": "uniform widths",
    "uniform-4x": "uniform widths, four times as long each",
    "uniform-8x": "uniform widths, eight times as long each",
    "random": "random widths",
    "nsga2": "NSGA-II on widths",
    "tpe": "TPE on widths",
    "torch-pruning-magnitude": "Torch-Pruning, group magnitude",
    "torch-pruning-taylor": "Torch-Pruning, group Taylor",
    "fastnas": "ModelOpt FastNAS",
    "espalier-no-descent": "Espalier's, each pruned from the trained base network itself",
    "espalier-no-costs": "Espalier's, from a trained base network, by scores alone",
    "espalier-uniform": "Espalier's, from a trained base network, the same share of every layer",
}
"""The first is held against the others; the last three are the second without one of its parts."""


@dataclass(frozen=True)
class Trained:
    """A network of a rival; `validation_score` is what `front` and `best` go by."""

    flops: int
    validation_score: float
    test_score: float


@dataclass(frozen=True)
class Run:
    """One rival with one seed."""

    rival: str
    seed: int
    networks: tuple[Trained, ...]
    content: Mapping[str, Any]

    @property
    def budgets(self) -> list[int]:
        """FLOPs, the largest first."""
        return [int(b * self.content["base_flops"]) for b in self.content["setting"]["budgets"]]

    @property
    def chosen(self) -> list[Trained]:
        """The front, by validation."""
        within = [network for network in self.networks if network.flops <= self.budgets[0]]
        return front(within, ACCURACY)

    def hypervolume(self, *, in_test: bool) -> float:
        """Of the front that validation has chosen, by its scores in validation or test."""
        volume = Hypervolume(Reference(**self.content["reference"]), ACCURACY)
        for network in self.chosen:
            volume.add(
                replace(network, validation_score=network.test_score) if in_test else network
            )
        return volume.value or 0.0

    def test_score(self, budget: int) -> float:
        """Of the network within a budget that is the best in validation; of none, NaN."""
        network = best([n for n in self.networks if n.flops <= budget], ACCURACY)
        return math.nan if network is None else network.test_score


Measure = Callable[[Run], float]


def page(folder: Path) -> str:
    """Markdown about every setting that something is stored of, but `smoke`."""
    parts = ["# Rivals at equal training compute\n", _introduction()]
    for setting in sorted(path for path in folder.glob("*") if path.is_dir()):
        runs = read_runs(setting)
        if runs and setting.name != "smoke":
            parts += [f"## {setting.name}\n", *_setting(runs)]
    return "\n".join(parts)


def read_runs(folder: Path) -> list[Run]:
    """Everything that is stored of a setting, in the order of NAMES."""
    contents = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    runs = [
        Run(
            content["rival"],
            content["seed"],
            tuple(Trained(*network[1:4]) for network in content["networks"]),
            content,
        )
        for content in contents
    ]
    return sorted(runs, key=lambda run: (list(NAMES).index(run.rival), run.seed))


def _introduction() -> str:
    return (
        "`python benchmarks/rivals.py SETTING` for each heading; written from "
        "benchmarks/results/rivals/ by Python "
        f"{platform.python_version()}, torch {version('torch')}, optuna {version('optuna')}. One "
        "thread on a shared machine. Compute is images × FLOPs of one forward run of the network "
        "that is trained on them, everything counted: base network, search, fine-tuning; images "
        f"that nothing is learned from count a third. Intervals: 95 %, t over seeds. Hypervolume: "
        "the area (0 to 1) that a rival's front dominates, in accuracy above chance and the "
        "logarithm of FLOPs from the largest budget down to the smallest, as a search reports it; "
        "the front is chosen by validation and measured on the test split. Wall times are of a "
        "machine that others used at the same time, and compare nothing.\n\n"
        "Espalier's search prunes a network to the largest budget, fine-tunes it, prunes what that "
        "came to to the next budget, and so on (`--descend`): a small network inherits what the "
        "larger ones have learned. From an untrained network (`--epochs 0`), nothing but the small "
        "networks is trained, here with the same share taken of every layer (`--scope uniform`) "
        "and 4 times the epochs for each; from a trained base network, by Taylor scores, whose "
        "price in FLOPs has a weight of 0, ½ or 1. Settings were chosen by validation with a seed "
        "of its own, 100, one run each: hypervolume 0.947 from a trained base network; from an "
        "untrained one 0.946, 0.958, 0.963 and 0.957 with 1, 2, 4 and 8 times the epochs, 0.954 "
        "with 2 times by Taylor scores per FLOPs; uniform widths 0.881, 0.949 and 0.959 with 1, 4 "
        "and 8 times. Before, the search trained shapes from scratch that were chosen by expected "
        "gain, which was not above uniform widths (0.742 ± 0.031 against 0.758 ± 0.127 in test, "
        "measured down to the smallest network that can be reached).\n\n"
        "To know when reading: how long each network is trained decides most of it. Uniform widths "
        "that are trained longer, and fewer of them, are above every search that trains for as few "
        "epochs as the recipe, ours from a trained base network included. The rivals of random "
        "widths and of Optuna's samplers were not tried for longer. A search without weights "
        "trains the base network beside, to be compared with; nothing depends on it, and it is not "
        "counted. FastNAS is asked for less, and less again, where its choice is over budget, as "
        "was found with its seed 0, prunes five of six layers, and mostly has nothing below the "
        "largest budget; Torch-Pruning's Taylor does not reach the smallest one.\n"
    )


def _setting(runs: Sequence[Run]) -> list[str]:
    by_rival = {name: [run for run in runs if run.rival == name] for name in NAMES}
    by_rival = {name: own for name, own in by_rival.items() if own}
    anchor = next(iter(by_rival))
    return [
        _protocol(runs[0]) + _missing(runs),
        *_hypervolumes(by_rival, anchor),
        *_accuracies(by_rival, runs[0]),
        *_differences(by_rival, anchor, runs[0]),
        *_costs(by_rival),
    ]


def _protocol(run: Run) -> str:
    setting, data = run.content["setting"], run.content["setting"]["data"]
    limited = f", {data['limit_train']:,} training images" if data["limit_train"] else ""
    resized = f" of {data['image_size']} pixels a side" if data["image_size"] else ""
    shares = ", ".join(f"{100 * share:g} %" for share in setting["budgets"])
    return (
        f"{setting['model']} ({format_count(run.content['base_flops'])} FLOPs) on "
        f"{data['source']}{resized}{limited}; {setting['epochs']} epochs from scratch and of "
        f"fine-tuning, {setting['base_epochs']} of the base network where one is pruned, "
        f"minibatches of {setting['batch_size']}, otherwise the recipe `rni`; compute of "
        f"{setting['trainings']:g} × {setting['epochs']} epochs of the base network. "
        f"Budgets: {shares} of its FLOPs.\n"
    )


def _missing(runs: Sequence[Run]) -> str:
    """What is still to be run, where something is."""
    wanted = len(NAMES) * runs[0].content["setting"]["num_seeds"]
    if len(runs) >= wanted:
        return ""
    return (
        f"\n**Incomplete: {len(runs)} of {wanted} runs are there**; the command runs the others. "
        "Nothing can be concluded from fewer than two seeds.\n"
    )


def _hypervolumes(by_rival: Mapping[str, Sequence[Run]], anchor: str) -> list[str]:
    def measure(run: Run) -> float:
        return run.hypervolume(in_test=True)

    told = {name: _against(by_rival, anchor, name, measure) for name in by_rival if name != anchor}
    adjusted = dict(zip(told, holm([d and d.p_value for d in told.values()]), strict=True))
    rows = []
    for name, own in by_rival.items():
        validation = _mean([run.hypervolume(in_test=False) for run in own])
        row = [NAMES[name], str(len(own)), validation, _mean([measure(run) for run in own])]
        row += ["", "", ""] if name == anchor else _difference(told[name], adjusted[name])
        rows.append(row)
    heads = ["rival", "seeds", "hypervolume, validation", "hypervolume, test"]
    heads += ["the first minus this", "p (Holm)", "finding"]
    return ["### Hypervolume\n", *_table(heads, rows)]


def _accuracies(by_rival: Mapping[str, Sequence[Run]], some: Run) -> list[str]:
    rows = [
        [NAMES[name], *(_percent([run.test_score(b) for run in own]) for b in some.budgets)]
        for name, own in by_rival.items()
    ]
    heads = ["rival", *(f"≤ {format_count(budget)} FLOPs" for budget in some.budgets)]
    return [
        "### Test accuracy in %, of the best in validation within each budget\n",
        *_table(heads, rows),
    ]


def _differences(by_rival: Mapping[str, Sequence[Run]], anchor: str, some: Run) -> list[str]:
    told = {
        (name, budget): _against(
            by_rival, anchor, name, lambda run, budget=budget: run.test_score(budget)
        )
        for name in by_rival
        if name != anchor
        for budget in some.budgets
    }
    adjusted = dict(zip(told, holm([d and d.p_value for d in told.values()]), strict=True))
    rows = [
        [NAMES[name]]
        + [_points(told[name, budget], adjusted[name, budget]) for budget in some.budgets]
        for name in by_rival
        if name != anchor
    ]
    heads = ["the first minus", *(f"≤ {format_count(b)} FLOPs" for b in some.budgets)]
    title = "### The same, differences in points [95 % interval], paired by seed; p by Holm\n"
    return [title, *_table(heads, rows)]


def _costs(by_rival: Mapping[str, Sequence[Run]]) -> list[str]:
    rows = []
    for name, own in by_rival.items():
        spent = [run.content["spent"] / run.content["limit"] for run in own]
        times = [run.content["times"] for run in own]
        processor = [t["processor"] for t in times if t["processor"] is not None]
        idle = [1 - t["training"] / t["wall"] for t in times]
        rows.append(
            [
                NAMES[name],
                f"{statistics.fmean(len(run.networks) for run in own):.0f}",
                f"{100 * statistics.fmean(spent):.0f} %",
                f"{statistics.fmean(t['wall'] for t in times):.0f}",
                f"{statistics.fmean(processor):.0f}" if processor else "not told",
                f"{100 * statistics.fmean(idle):.0f} %",
            ]
        )
    heads = ["rival", "networks", "of the compute", "wall time, s", "processor, s"]
    return ["### What they took, means over seeds\n", *_table([*heads, "not training"], rows)]


def _against(
    by_rival: Mapping[str, Sequence[Run]], anchor: str, name: str, measure: Measure
) -> Difference | None:
    """The anchor minus a rival, over the seeds that both have."""
    first, second = ({run.seed: measure(run) for run in by_rival[n]} for n in (anchor, name))
    seeds = [seed for seed in first if seed in second]
    pairs = [(first[seed], second[seed]) for seed in seeds]
    pairs = [pair for pair in pairs if not any(map(math.isnan, pair))]
    return paired_by_seed(*([pair[side] for pair in pairs] for side in (0, 1))) if pairs else None


def _difference(told: Difference | None, adjusted: float | None) -> list[str]:
    if told is None or told.low is None or told.high is None or adjusted is None:
        return ["", "", "untested"]
    interval = f"{told.value:+.3f} [{told.low:+.3f}, {told.high:+.3f}]"
    return [interval, f"{adjusted:.2g}", _finding(told, adjusted)]


def _finding(told: Difference, adjusted: float) -> str:
    if adjusted >= LEVEL:
        return "undecided"
    return "better" if told.value > 0 else "worse"


def _points(told: Difference | None, adjusted: float | None) -> str:
    if told is None or told.low is None or told.high is None or adjusted is None:
        return "untested"
    value, low, high = (100 * part for part in (told.value, told.low, told.high))
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}], p {adjusted:.2g}"


def _mean(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.3f}{_margin(values, '.3f')}"


def _percent(values: Iterable[float]) -> str:
    known = [100 * value for value in values if not math.isnan(value)]
    return f"{statistics.fmean(known):.1f}{_margin(known, '.1f')}" if known else "–"


def _margin(values: Sequence[float], form: str) -> str:
    """Half of the 95 % interval of the mean."""
    if len(values) < 2:
        return ""
    error = statistics.stdev(values) / math.sqrt(len(values))
    return f" ± {float(stats.t.isf(LEVEL / 2, len(values) - 1)) * error:{form}}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(cells)} |" for cells in rows]
    return [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|", *lines, ""]
