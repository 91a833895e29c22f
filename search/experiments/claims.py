"""Whether what a paper claims shows in the numbers that are here."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from search.experiments.definition import Claim, Column, Experiment
from search.results.contests import deviation

Values = Sequence[float]
"""Of a cell: one per seed, none where there is nothing."""

Cells = Mapping[tuple[str, str, str], Values]
"""By the labels of part, row and column."""

Answer = Literal["yes", "within chance", "no", "–"]
"""Whether the ordering shows: on the means and beyond two standard errors of each difference; on
the means alone; not; or there is nothing to tell by."""


@dataclass(frozen=True)
class Verdict:
    """Whether a claim holds: of the paper's own numbers, and of those that are here."""

    claim: Claim
    paper: Answer
    here: Answer
    detail: str


def verdicts(experiment: Experiment, here: Cells) -> list[Verdict]:
    """Of every claim, in order."""
    return [_verdict(experiment, claim, here) for claim in experiment.claims]


def papers_cells(experiment: Experiment) -> Cells:
    """The paper's numbers as cells of one value each."""
    return {
        (part.label, row.label, column.label): [number]
        for part, row in experiment.rows()
        for column, number in zip(experiment.columns, row.paper, strict=False)
        if not math.isnan(number)
    }


def shown(value: float, decimals: int) -> str:
    """A number as a paper prints it."""
    return f"{value:,.{decimals}f}"


def mean_text(values: Values, decimals: int) -> str:
    """Mean and deviation over seeds; a dash where there is nothing."""
    if not values:
        return "–"
    mean = shown(statistics.fmean(values), decimals)
    return f"{mean} ± {shown(deviation(values), decimals)}" if len(values) > 1 else mean


def _verdict(experiment: Experiment, claim: Claim, here: Cells) -> Verdict:
    paper = papers_cells(experiment)
    if claim.exact:
        answer, detail = _exactness(experiment, claim, paper, here)
        return Verdict(claim, "yes", answer, detail)
    columns = [c for c in experiment.columns if claim.column in ("", c.label)]
    part = experiment.part(claim.part).label

    def ordering(cells: Cells, *, has_chance: bool) -> tuple[Answer, str]:
        pairs = [
            _Difference.of(part, high, low, columns, cells)
            for high in claim.higher
            for low in claim.lower
        ]
        pairs += [
            _Difference.between((part, row), columns[0].label, claim.over, cells)
            for row in claim.higher
            if claim.over
        ]
        known = [pair for pair in pairs if pair is not None]
        if len(known) < len(pairs) or not known:
            return "–", "not all of it was measured"
        weakest = min(known, key=lambda pair: pair.value)
        answer = _answer(known, claim.within, has_chance=has_chance)
        return answer, weakest.text(columns[0].decimals)

    own, _ = ordering(paper, has_chance=False)  # of which nothing tells what it does
    answer, detail = ordering(here, has_chance=True)
    return Verdict(claim, own, answer, detail)


def _answer(differences: Sequence[_Difference], within: float, *, has_chance: bool) -> Answer:
    if any(one.value + within <= 0 for one in differences):
        return "no"
    is_clear = all(
        one.margin is not None and one.value + within > one.margin for one in differences
    )
    return "yes" if is_clear or not has_chance else "within chance"


@dataclass(frozen=True)
class _Difference:
    """How far one row is above another, and two standard errors of that; None without seeds."""

    high: str
    low: str
    value: float
    margin: float | None

    @classmethod
    def of(
        cls, part: str, high: str, low: str, columns: Sequence[Column], cells: Cells
    ) -> _Difference | None:
        """The mean over the columns where both have numbers; None if there is none."""
        pairs = [((part, high, column.label), (part, low, column.label)) for column in columns]
        return cls._of(high, low, [(cells.get(a, ()), cells.get(b, ())) for a, b in pairs])

    @classmethod
    def between(
        cls, row: tuple[str, str], column: str, other: str, cells: Cells
    ) -> _Difference | None:
        """Of one row, given with its part, between two columns."""
        both = cells.get((*row, column), ()), cells.get((*row, other), ())
        return cls._of(f"{row[1]}, {column}", other, [both])

    @classmethod
    def _of(cls, high: str, low: str, pairs: Sequence[tuple[Values, Values]]) -> _Difference | None:
        both = [(first, second) for first, second in pairs if first and second]
        if not both:
            return None
        mean = statistics.fmean(statistics.fmean(a) - statistics.fmean(b) for a, b in both)
        samples = [sample for pair in both for sample in pair]
        if min(map(len, samples)) < 2:
            return cls(high, low, mean, None)
        variance = sum(deviation(sample) ** 2 / len(sample) for sample in samples)
        return cls(high, low, mean, 2 * math.sqrt(variance) / len(both))

    def text(self, decimals: int) -> str:
        margin = "" if self.margin is None else f" ± {shown(self.margin, decimals)}"
        return f"{self.high} − {self.low}: {shown(self.value, decimals)}{margin}"


def _exactness(
    experiment: Experiment, claim: Claim, paper: Cells, here: Cells
) -> tuple[Answer, str]:
    part = experiment.part(claim.part).label
    columns = [c for c in experiment.columns if claim.column in ("", c.label)]
    differing, count = [], 0
    for column in columns:
        for label in claim.higher:
            key = (part, label, column.label)
            if key not in paper:
                continue
            if not here.get(key):
                return "–", "not all of it was counted"
            count += 1
            is_same = _equal_as_printed(here[key][0], paper[key][0], column.decimals)
            differing += [] if is_same else [f"{label}, {column.label}"]
    if differing:
        return "no", f"differing: {'; '.join(differing)}"
    return "yes", f"all {count} numbers, to the last digit that the paper prints"


def _equal_as_printed(here: float, paper: float, decimals: int) -> bool:
    """Whether the number, rounded or cut off at that decimal, is what the paper prints."""
    unit = 10.0**-decimals
    cut: Callable[[float], int] = lambda value: math.floor(value / unit + 1e-9)  # noqa: E731
    return round(paper / unit) in (round(here / unit), cut(here))
