"""The page of an experiment, in Markdown: does the paper's ordering show, and all the numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from search.experiments.claims import (
    Answer,
    Cells,
    Verdict,
    mean_text,
    papers_cells,
    shown,
    verdicts,
)
from search.experiments.definition import Experiment
from search.experiments.measurement import Measurement
from search.experiments.plan import Where

_WORDS = {
    "yes": "yes",
    "within chance": "on the means, within chance",
    "no": "**no**",
    "–": "not told",
}

_FIRST: Mapping[Answer, str] = {
    "no": "Does not show here",
    "within chance": "Not beyond chance here",
    "–": "Not told here",
}
"""What is said first of claims that do not show, and how."""


def measured_page(experiment: Experiment, where: Where, measured: Measurement) -> str:
    """The page of an experiment that was run."""
    cells = measured.cells
    answers = verdicts(experiment, cells)
    parts = [
        f"# {experiment.source}: {experiment.title}",
        *_first(experiment, answers),
        experiment.about,
        *([_ordering_table(answers)] if answers else []),
        *(f"![{picture.caption}]({picture.file})" for picture in measured.pictures),
        *_tables(experiment, cells),
        _how(experiment, where, measured),
    ]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def empty_page(experiment: Experiment, where: Where) -> str:
    """The page of an experiment that was not run yet at this scale."""
    parts = [
        f"# {experiment.source}: {experiment.title}",
        f"**Not run yet at `--scale {where.scale}`**: there are no numbers from here. "
        f"`{_command(experiment, where)}` runs it.",
        experiment.about,
        *([_claims_list(experiment)] if experiment.claims else []),
        *_tables(experiment, {}),
    ]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def _first(experiment: Experiment, answers: Sequence[Verdict]) -> list[str]:
    """What did not show comes first, then what was tried."""
    lines = [
        f"**{words}:** {one.claim.text} ({one.detail})."
        for answer, words in _FIRST.items()
        for one in answers
        if one.here == answer
    ]
    if lines and experiment.tried:
        lines.append(f"What was tried: {experiment.tried}")
    return lines


def _ordering_table(answers: Sequence[Verdict]) -> str:
    rows = [(one.claim.text, _WORDS[one.paper], _WORDS[one.here], one.detail) for one in answers]
    return _table(("what the paper claims", "its numbers", "here: same ordering?", "closest"), rows)


def _claims_list(experiment: Experiment) -> str:
    return "\n".join(["It claims:", "", *(f"- {claim.text}" for claim in experiment.claims)])


def _tables(experiment: Experiment, cells: Cells) -> list[str]:
    """Paper and here side by side, a table for each part."""
    paper = papers_cells(experiment)
    tables = []
    for part in experiment.parts:
        used = [
            column
            for column in experiment.columns
            if any(
                (part.label, row.label, column.label) in source
                for row in part.rows
                for source in (paper, cells)
            )
        ]
        if not used:
            continue
        rows = []
        for row in part.rows:
            numbers = []
            for column in used:
                key = (part.label, row.label, column.label)
                own = shown(paper[key][0], column.decimals) if key in paper else "–"
                numbers += [own, mean_text(cells.get(key, ()), column.decimals)]
            rows.append((row.label, *numbers))
        headings = [f"{c.label}, {where}" for c in used for where in ("paper", "here")]
        tables.append(_table((part.label or "", *headings), rows))
    return tables


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _how(experiment: Experiment, where: Where, measured: Measurement) -> str:
    """Command, n, deviation, versions, device, and every run."""
    count = experiment.seeds.get(where.scale, 1)
    spread = f" n = {count} seeds; ± is the deviation over them." if count > 1 else ""
    command = _command(experiment, where)
    text = [f"Measured on {measured.date} by `{command}`." + spread * experiment.trains]
    if experiment.trains:
        text.append("Test data chose nothing: every number of every run is here.")
    if measured.remark:
        text.append(measured.remark)
    if where.scale == "small" and experiment.differs:
        text.append(f"What differs from the paper: {experiment.differs.strip()}")
    versions = ", ".join(f"{name} {version}" for name, version in measured.versions.items())
    text.append(f"{'; '.join(measured.devices)}; {versions}.")
    if measured.commands:
        listed = "\n".join(measured.commands)
        text.append(
            f"<details><summary>The {len(measured.commands)} runs</summary>\n\n"
            f"```sh\n{listed}\n```\n</details>"
        )
    return "\n\n".join(text)


def _command(experiment: Experiment, where: Where) -> str:
    data = f" --data {where.data}" if where.data else ""
    return f"espalier reproduce {experiment.name} --scale {where.scale}{data}"
