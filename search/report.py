"""The result of a search in words, tables and a picture."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from pruning.cost import Budget, Cost, format_count
from pruning.errors import SearchStateError
from search.pareto import front
from search.tasks import ORIGINS, Origin, Outcome

CONFIG_FILE, RESULTS_FILE = "search.json", "results.json"
"""In the folder of a search: what was asked for, and what came of it."""

FLOPS_NOTE = "FLOPs: fvcore's count, eval mode, batch 1; one multiply-add is one FLOP"
_COLOURS = {
    "fine-tuned": "#c1440e",
    "from-scratch": "#1f77b4",
    "copycat": "#9467bd",
    "uniform": "#7f7f7f",
}
_MARKERS = {"fine-tuned": "o", "from-scratch": "s", "copycat": "^", "uniform": "x"}
_WORDS = {
    "fine-tuned": "pruned and fine-tuned",
    "from-scratch": "the same shape from scratch",
    "copycat": "a rescaled shape from scratch (copycat)",
    "uniform": "the uniformly narrowed network",
}


@dataclass(frozen=True)
class Contest:
    """The best network of each origin within one budget.

    label: the budget in words.
    entries: per origin the network with the highest validation accuracy.
    """

    label: str
    entries: Mapping[Origin, Outcome]

    @property
    def ranking(self) -> list[Outcome]:
        """By test accuracy, best first: this reports, it chooses nothing."""
        return sorted(self.entries.values(), key=lambda o: -o.test_accuracy)


@dataclass(frozen=True)
class Results:
    """Everything a finished search knows.

    everything: all stored architectures, front: those that no other one beats in validation
    accuracy and FLOPs, num_test: images of the test split.
    """

    base: Cost
    budget: str
    num_test: int
    everything: tuple[Outcome, ...]
    front: tuple[Outcome, ...]
    contests: tuple[Contest, ...]
    failures: Mapping[str, str]
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """Which origin won at which budget, by how much; the plain narrow network first."""
        lines = [self._contest_line(contest) for contest in self.contests]
        caveat = (
            f"One training run each; ± is two standard errors on {self.num_test:,} test images."
        )
        return "\n".join([*self._headline(), *lines, *self._pair_lines(), caveat])

    def _headline(self) -> list[str]:
        first = [c for c in self.contests if c.ranking and c.ranking[0].origin == "uniform"]
        if not first:
            return []
        return [
            f"The uniformly narrowed network came first at {len(first)} of "
            f"{len(self.contests)} budgets: there the search found no better shape."
        ]

    def _contest_line(self, contest: Contest) -> str:
        ranking = contest.ranking
        if len(ranking) < 2:
            only = f", just {_WORDS[ranking[0].origin]}" if ranking else ""
            return f"{contest.label}: nothing to compare{only}."
        return f"{contest.label}: {self._comparison(*ranking[:2])}."

    def _comparison(self, first: Outcome, second: Outcome) -> str:
        """Who is ahead in test accuracy, by how much, and whether that means anything."""
        lead = 100 * (first.test_accuracy - second.test_accuracy)
        error = 100 * _margin_error(first.test_accuracy, second.test_accuracy, self.num_test)
        winner, loser = _WORDS[first.origin], _WORDS[second.origin]
        if lead > error:
            return f"{winner} won, {lead:.1f} ± {error:.1f} points ahead of {loser}"
        return f"no clear winner; {winner} is {lead:.1f} ± {error:.1f} points ahead of {loser}"

    def _pair_lines(self) -> list[str]:
        lines = []
        scratch = {o.trial: o for o in self.everything if o.origin == "from-scratch"}
        for tuned in self.everything:
            other = scratch.get(tuned.trial)
            if tuned.origin != "fine-tuned" or other is None:
                continue
            pair = sorted((tuned, other), key=lambda o: -o.test_accuracy)
            lines.append(
                f"Shape of trial {tuned.trial}, {format_count(tuned.flops)} FLOPs: "
                f"{self._comparison(*pair)}."
            )
        return lines

    def to_mapping(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self) | {"verdict": self.verdict}

    @classmethod
    def from_mapping(cls, content: Mapping[str, Any]) -> Results:
        """The inverse of `to_mapping`."""
        contests = tuple(
            Contest(
                c["label"],
                {origin: Outcome.from_mapping(o) for origin, o in c["entries"].items()},
            )
            for c in content["contests"]
        )
        return cls(
            base=Cost(content["base"]["flops"], content["base"]["params"]),
            budget=content["budget"],
            num_test=content["num_test"],
            everything=tuple(Outcome.from_mapping(o) for o in content["everything"]),
            front=tuple(Outcome.from_mapping(o) for o in content["front"]),
            contests=contests,
            failures=dict(content["failures"]),
            notes=tuple(content["notes"]),
        )


def open_results(directory: Path) -> Results:
    """The results of a finished search; SearchStateError if there are none."""
    try:
        return Results.from_mapping(json.loads((directory / RESULTS_FILE).read_text()))
    except FileNotFoundError:
        if (directory / CONFIG_FILE).exists():
            raise SearchStateError(
                f"the search in {directory} has not finished: run its command again to go on"
            ) from None
        raise SearchStateError(f"{directory} holds no search{_others(directory.parent)}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SearchStateError(f"{directory / RESULTS_FILE} is damaged: {error}") from error


def _others(runs: Path) -> str:
    names = sorted(file.parent.name for file in runs.glob(f"*/{CONFIG_FILE}"))
    return f": there are {', '.join(names)}" if names else ""


def contests(
    everything: Sequence[Outcome], rungs: Sequence[tuple[str, Budget]]
) -> tuple[Contest, ...]:
    """For each rung, a label and an absolute budget, the best of each origin by validation."""
    return tuple(Contest(label, _best_within(everything, budget)) for label, budget in rungs)


def _best_within(everything: Sequence[Outcome], budget: Budget) -> dict[Origin, Outcome]:
    best: dict[Origin, Outcome] = {}
    for origin in ORIGINS:
        within = [o for o in everything if o.origin == origin and budget.allows(o.cost)]
        if within:
            best[origin] = max(within, key=lambda o: (o.validation_accuracy, -o.flops))
    return best


def _margin_error(first: float, second: float, num_test: int) -> float:
    """Two standard errors of the difference of two accuracies on `num_test` images each."""
    variance = (first * (1 - first) + second * (1 - second)) / num_test
    return 2 * math.sqrt(variance)


def front_table(outcomes: Sequence[Outcome], base: Cost) -> Table:
    """One row per architecture, by rising FLOPs."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("architecture", "origin"):
        table.add_column(heading, no_wrap=True)
    for heading in ("FLOPs", "of base", "params", "validation", "test"):
        table.add_column(heading, justify="right", no_wrap=True)
    for outcome in outcomes:
        table.add_row(
            outcome.key,
            outcome.origin,
            format_count(outcome.flops),
            f"{100 * outcome.flops / base.flops:.2f} %",
            format_count(outcome.params),
            f"{outcome.validation_accuracy:.2%}",
            f"{outcome.test_accuracy:.2%}",
        )
    return table


def contest_table(results: Results) -> Table:
    """Test accuracy of each origin's best network per budget, chosen by validation accuracy."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("budget")  # the only column that folds on a narrow terminal
    for origin in ORIGINS:
        table.add_column(origin, justify="right", no_wrap=True)
    for contest in results.contests:
        best = contest.ranking[0].origin if contest.ranking else None
        cells = []
        for origin in ORIGINS:
            entry = contest.entries.get(origin)
            text = "–" if entry is None else f"{entry.test_accuracy:.1%}"
            cells.append(f"[green]{text}[/green]" if origin == best else text)
        table.add_row(contest.label, *cells)
    return table


def front_rows(outcomes: Sequence[Outcome], base: Cost) -> list[dict[str, Any]]:
    """The table's content for machines: counts in full, accuracies in [0, 1]."""
    return [
        {
            "architecture": o.key,
            "origin": o.origin,
            "flops": o.flops,
            "flops_share": o.flops / base.flops,
            "params": o.params,
            "validation_accuracy": o.validation_accuracy,
            "test_accuracy": o.test_accuracy,
            "path": o.path,
        }
        for o in outcomes
    ]


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Comma-separated values with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else ["architecture"])
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def to_json(rows: Sequence[Mapping[str, Any]]) -> str:
    """A JSON array."""
    return json.dumps(list(rows), indent=2)


def plot_front(results: Results, path: Path) -> None:
    """Validation accuracy against FLOPs, origins in colours, the front as a line."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - a second to import, used once
    from matplotlib.ticker import FuncFormatter  # noqa: PLC0415

    figure = Figure(figsize=(7.5, 4.8), layout="constrained")
    axes = figure.subplots()
    steps = front(results.everything)
    axes.step(
        [o.flops for o in steps],
        [100 * o.validation_accuracy for o in steps],
        where="post",
        color="#bbbbbb",
        linewidth=1.5,
        label="front",
        zorder=1,
    )
    for origin in ORIGINS:
        points = [o for o in results.everything if o.origin == origin]
        axes.scatter(
            [o.flops for o in points],
            [100 * o.validation_accuracy for o in points],
            color=_COLOURS[origin],
            marker=_MARKERS[origin],
            label=origin,
            zorder=2,
        )
    axes.set_xscale("log")
    for formatter in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        formatter(FuncFormatter(lambda value, _: format_count(value)))
    axes.set_xlabel("FLOPs (fvcore, eval mode, batch 1; 1 multiply-add = 1 FLOP)")
    axes.set_ylabel("validation accuracy (%)")
    axes.set_title(f"Budget {results.budget} of {format_count(results.base.flops)} FLOPs")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
