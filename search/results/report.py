"""The result of a search in tables, for people and for machines."""

from __future__ import annotations

import csv
import io
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from pruning.cost import Bound, Budget, Cost, format_count
from pruning.errors import SearchStateError
from search.results.compute_breakdown import ComputeBreakdown
from search.results.contests import Contest, Contestant, short_name
from search.results.recommendation import (
    Recommendation,
    against_base,
    note,
    recommendations,
    share_text,
)
from search.results.statistics.contrasts import Contrast, contrasts, p_text
from search.results.statistics.test_samples import NO_SAMPLES, TestSamples
from search.results.verdict import verdict
from search.results.wall_time import shares_text
from search.storage.layout import CONFIG_FILE, RESULTS_FILE, RESULTS_FILES, study_kind
from search.tasks.score import ACCURACY, Score
from search.terminal.durations import duration_text
from search.terminal.text_table import text_table
from search.trials.jobs import Outcome

FLOPS_NOTE = "FLOPs: fvcore's count, eval mode, batch 1; one multiply-add is one FLOP"


def flops_note(base: Cost) -> str:
    """What is counted, and what of the base network is not."""
    return "; ".join([FLOPS_NOTE, *base.notes])


def score_note(score: Score) -> str:
    """What networks are measured by, on both splits."""
    better = "more" if score.direction == "maximize" else "less"
    return f"validation, test: {score.name}; {better} is better"


COMPUTE_NOTE = (
    "compute: training images × FLOPs of one forward run, on the way to one such network; the "
    "search for its shape is not in it"
)


@dataclass(frozen=True)
class Results:
    """Everything a finished search knows.

    everything: all stored architectures within the budget, front: those that no other one beats in
    validation score and FLOPs, num_test: images of the test split.  limits: the budget in
    absolute numbers; by default as `budget` says, a text of three digits.  base_widths: channels
    per group of the base network, where they are known.  base_network: that network itself,
    trained, which is in neither of the two; None where it came to nothing.
    score: what networks are compared by.
    samples: of the test split, from the folders of the networks; mappings have the differences
    that are told of.
    breakdown: where the compute went; None where it is not known.
    """

    base: Cost
    budget: str
    num_test: int
    everything: tuple[Outcome, ...]
    front: tuple[Outcome, ...]
    contests: tuple[Contest, ...]
    failures: Mapping[str, str]
    notes: tuple[str, ...] = ()
    limits: Budget | None = None
    base_widths: Mapping[str, int] = field(default_factory=dict)
    base_network: Outcome | None = None
    score: Score = ACCURACY
    samples: TestSamples = field(default=NO_SAMPLES, compare=False, repr=False)
    breakdown: ComputeBreakdown | None = field(default=None, compare=False, repr=False)

    @property
    def bounds(self) -> Budget:
        """The budget in absolute numbers."""
        return self.limits or Budget.parse(*self.budget.split()).absolute(self.base)

    @cached_property
    def recommendations(self) -> tuple[Recommendation, ...]:
        """What to take, per budget of the ladder."""
        return self.recommended(self.contests)

    def recommended(self, contests: Sequence[Contest]) -> tuple[Recommendation, ...]:
        """What to take within other budgets than those of the ladder."""
        return recommendations(
            contests, self.everything, self.base_network, self.base, self.samples
        )

    @property
    def first_choice(self) -> str:
        """Key of the network to take within the first budget that there is one for."""
        keys = (entry.key for entry in self.recommendations)
        return next((key for key in keys if key), self.front[0].key)

    def below_base(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """These networks, and before them the base network where it was trained."""
        return list(outcomes) if self.base_network is None else [self.base_network, *outcomes]

    @cached_property
    def contrasts(self) -> tuple[Contrast, ...]:
        """The comparisons that were fixed beforehand, and what chance makes of them."""
        return contrasts(
            self.contests, self.everything, self.base_network, self.samples, self.score
        )

    @property
    def time_note(self) -> str:
        """Where the time of the workers went; empty where that is not known."""
        seconds = self.breakdown.wall_seconds if self.breakdown else {}
        if not seconds:
            return ""
        return f"{duration_text(sum(seconds.values()))} of workers: {shares_text(seconds)}"

    @property
    def comparisons(self) -> list[str]:
        """The contrasts in lines, and what they rest on; see `verdict.verdict`."""
        return verdict(self.contests, self.contrasts, self.everything)

    @property
    def networks(self) -> list[Outcome]:
        """The base network, if it is there, and all others."""
        return self.below_base(self.everything)

    @property
    def verdict(self) -> str:
        """What to take within each budget, a line each, and the comparisons."""
        return "\n".join([*(entry.text for entry in self.recommendations), *self.comparisons])

    def to_mapping(self) -> dict[str, Any]:
        """JSON-able."""
        sentences = [entry.to_mapping() for entry in self.recommendations]
        content = asdict(replace(self, samples=NO_SAMPLES))
        del content["samples"]
        contrasts = [contrast.to_mapping() for contrast in self.contrasts]
        return content | {
            "recommendations": sentences,
            "basis": note(self.num_test, self.score),
            "contrasts": contrasts,
            "differences": self.samples.differences,
            "verdict": self.verdict,
        }

    @classmethod
    def from_mapping(
        cls, content: Mapping[str, Any], samples: TestSamples | None = None
    ) -> Results:
        """The inverse of `to_mapping`; samples: by default the differences that were stored."""
        return cls(
            base=Cost(**{**content["base"], "notes": tuple(content["base"].get("notes", ()))}),
            budget=content["budget"],
            num_test=content["num_test"],
            everything=tuple(Outcome.from_mapping(o) for o in content["everything"]),
            front=tuple(Outcome.from_mapping(o) for o in content["front"]),
            contests=tuple(map(Contest.from_mapping, content["contests"])),
            failures=dict(content["failures"]),
            notes=tuple(content["notes"]),
            limits=_budget(content["limits"]),
            base_widths=dict(content["base_widths"]),
            base_network=_outcome(content.get("base_network")),
            breakdown=_breakdown(content.get("breakdown")),
            samples=samples or TestSamples(None, content.get("differences", ())),
            score=Score.from_mapping(content.get("score")),
        )


def _budget(content: Mapping[str, Any] | None) -> Budget | None:
    return None if content is None else Budget(tuple(Bound(**bound) for bound in content["bounds"]))


def _breakdown(content: Mapping[str, Any] | None) -> ComputeBreakdown | None:
    return None if content is None else ComputeBreakdown.from_mapping(content)


def _outcome(content: Mapping[str, Any] | None) -> Outcome | None:
    return None if content is None else Outcome.from_mapping(content)


def open_results(directory: Path) -> Results:
    """The results of a finished search; SearchStateError if there are none."""
    with readable_results(directory / RESULTS_FILE) as content:
        return Results.from_mapping(content, TestSamples(directory))


@contextmanager
def readable_results(file: Path) -> Iterator[dict[str, Any]]:
    """What the file of results holds; SearchStateError if it is not there, or the block fails."""
    folder = file.parent
    try:
        yield json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        kind = study_kind(folder)
        if kind is None:
            raise no_search(folder) from None
        if file.name != RESULTS_FILES[kind]:
            raise SearchStateError(
                f"{folder} holds a {kind} study, and this is asked of a search"
            ) from None
        raise SearchStateError(
            f"the {'search' if kind == 'search' else f'{kind} study'} in {folder} has not "
            f"finished: go on with `{shlex.join(['espalier', 'resume', folder.name])}`"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SearchStateError(f"{file} is damaged: {error}") from error


def no_search(directory: Path) -> SearchStateError:
    """What to tell of a folder that holds none: what there is beside it."""
    return SearchStateError(f"{directory} holds no search{_others(directory.parent)}")


def _others(runs: Path) -> str:
    names = sorted(file.parent.name for file in runs.glob(f"*/{CONFIG_FILE}"))
    return f": there are {', '.join(names)}" if names else ""


def slack(cost: Cost, limits: Budget) -> dict[str, float]:
    """(limit − cost) / limit per bound: from 0 to 1 within the budget, negative over it."""
    return {b.quantity: (b.value - cost.of(b.quantity)) / b.value for b in limits.bounds}


def front_table(results: Results, outcomes: Sequence[Outcome] | None = None) -> Table:
    """One row per architecture, by default those on the front, below that of the base network.

    Slack is that of the tightest bound. Keys begin with the origin.
    """
    lacks, base = bool(results.base.uncounted), results.base_network
    counts = results.bounds.limit("channels") is not None
    numbers = ["FLOPs", *["not counted"] * lacks, "of\nbase", "params", *["channels"] * counts]
    numbers += ["slack"]
    numbers += ["valida-\ntion", "test", *["against\nbase"] * (base is not None)]
    table = text_table("architecture", *numbers, numbers=numbers)
    rows = results.below_base(results.front if outcomes is None else outcomes)
    table.columns[0].no_wrap = not any(outcome.inexact for outcome in rows)  # keys are copied
    for outcome in rows:
        tightest = min(slack(outcome.cost, results.bounds).values())
        table.add_row(
            f"{outcome.key}, narrowed inexactly" if outcome.inexact else outcome.key,
            format_count(outcome.flops),
            *[format_count(outcome.uncounted or 0)] * lacks,
            share_text(outcome.flops / results.base.flops),
            format_count(outcome.params),
            *[format_count(outcome.channels or 0)] * counts,
            f"{100 * tightest:+.1f} %" if tightest >= 0 else "over",
            results.score.text(outcome.validation_score),
            results.score.text(outcome.test_score),
            *_gave_up(outcome, results),
        )
    return table


def contest_table(results: Results) -> Table:
    """Per budget the best network of each kind, by validation score, below the base network."""
    base = results.base_network
    numbers = ["FLOPs", "of\nbase", "compute", "runs", f"test\n{results.score.name}"]
    numbers += ["against\nbase"] * (base is not None)
    table = text_table("within", *numbers, numbers=numbers)
    if base is not None:
        table.add_row(*_contest_row(Contestant((base,)), results))
    for contest in results.contests:
        table.add_row(Text(contest.label, style="bold"))
        for kind, entry in contest.entries.items():
            is_first = contest.winner is not None and contest.winner.kind == kind
            table.add_row(*_contest_row(entry, results, style="green" if is_first else ""))
    return table


def contrast_tables(results: Results) -> Iterator[tuple[str, Table]]:
    """Per place what is held against what, and a row for each that is: difference and finding."""
    unit = "points" if results.score.is_share else "gain"
    numbers = [f"{unit} [95 %]", "adj. p", "FLOPs"]
    for (place, _), group in groupby(results.contrasts, key=lambda c: (c.place, c.second.key)):
        contrasts = list(group)
        table = text_table("", *numbers, "", numbers=numbers)
        table.columns[0].min_width = _CONTRAST_WIDTH
        table.columns[0].no_wrap = True  # so that others fold: a least width alone is cut off
        for contrast in contrasts:
            told, p = contrast.difference, contrast.adjusted_p
            table.add_row(
                short_name(contrast.first),
                results.score.interval_cell(told.value, told.low, told.high),
                "–" if p is None else p_text(p).removeprefix("p ").removeprefix("= "),
                times(*contrast.costs["FLOPs"]),
                contrast.finding,
            )
        yield f"{place}, against {short_name(contrasts[0].second)}", table


_CONTRAST_WIDTH = 27
"""Of the longest name, so that columns of one table stand below those of another."""


def times(one: float, other: float) -> str:
    """How many times `other` it is, such as "0.48 ×"; a dash where either is not known."""
    return f"{one / other:.3g} ×" if one and other else "–"


def _contest_row(entry: Contestant, results: Results, *, style: str = "") -> list[str | Text]:
    """style: of its test score."""
    indent = "" if entry.origin == "base" else "  "
    return [
        f"{indent}{short_name(entry)}",
        format_count(entry.flops),
        share_text(entry.flops / results.base.flops),
        format_count(entry.compute) if entry.compute else "–",
        str(entry.num_judged),
        Text(entry.score_text(results.score), style=style),
        *_gave_up(entry, results),
    ]


def _gave_up(network: Outcome | Contestant, results: Results) -> list[str]:
    """The cell of what its test score is against that of the base network, if there is one."""
    base = results.base_network
    if base is None:
        return []
    if network.origin == "base":
        return ["–"]
    return [results.score.gain_text(against_base(network.test_score, base, results.score))]


def front_rows(results: Results, outcomes: Sequence[Outcome] | None = None) -> list[dict[str, Any]]:
    """The table's content for machines: counts in full, shares in [0, 1].

    inexact: names of groups, as in MLflow; empty if all channels were removed exactly.
    tried, target: the proposal behind a network in words, and what it was pruned to, where the
        search names targets.
    """
    has_targets = any(o.target for o in results.everything)
    return [
        {
            "architecture": o.key,
            "origin": o.origin,
            "flops": o.flops,
            "flops_share": o.flops / results.base.flops,
            **({} if o.uncounted is None else {"uncounted": o.uncounted}),
            "params": o.params,
            **({} if o.channels is None else {"channels": o.channels}),
            "slack": slack(o.cost, results.bounds),
            "score": results.score.name,
            "validation_score": o.validation_score,
            "test_score": o.test_score,
            "score_against_base": against_base(o.test_score, results.base_network, results.score),
            "inexact": ", ".join(o.inexact),
            **({"tried": o.tried, "target": o.target} if has_targets else {}),
            "path": o.path,
        }
        for o in (results.front if outcomes is None else outcomes)
    ]


def report_rows(results: Results) -> dict[str, Any]:
    """JSON-able: what to take within each budget, the base network, and every network."""
    base = results.base_network
    return {
        "recommendations": [entry.to_mapping() for entry in results.recommendations],
        "base": None if base is None else front_rows(results, [base])[0],
        "networks": front_rows(results, results.everything),
        "contrasts": [contrast.to_mapping() for contrast in results.contrasts],
        "compute": results.breakdown and results.breakdown.to_mapping(),
        "verdict": results.verdict,
    }


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Comma-separated values with a header; a column such as slack.flops per bound."""
    flat = [_flat(row) for row in rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(flat[0]) if flat else ["architecture"])
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row whose mappings have become columns of their own."""
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{part}": number for part, number in value.items()}
        else:
            flat[name] = value
    return flat


def to_json(rows: Sequence[Mapping[str, Any]]) -> str:
    """A JSON array."""
    return json.dumps(list(rows), indent=2)
