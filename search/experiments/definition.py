"""What an experiment is: a TOML file with its runs, the paper's numbers and what it claims.

    title = "…"                     what the table or figure shows
    source = "RNI, Table 2"
    seeds = {smoke = 1, small = 3, paper = 3}
    [settings], [scales.SCALE]      of every run; those of a scale are laid over the others
    [[runs]]                        what rows are made of, where several share one
    [[columns]]                     what is read off a run: `value`, and `at` which network or layer
    [[parts]] with [[parts.rows]]   a run each, or what `of` names in the `run` of the part
    [[claims]]                      an ordering of rows
    [[figures]]                     see search.experiments.drawings

Settings are those of the command line, as in the TOML file of a search. A part's are laid over
the experiment's, a row's over the part's. `{NAME}` in a setting is the folder of the run NAME.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import field
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from pruning.errors import ConfigError
from search.config.settings import read_toml

Scale = Literal["smoke", "small", "paper"]
SCALES: tuple[Scale, ...] = ("smoke", "small", "paper")
"""A minute; an hour on two cores; the authors' settings, for a GPU."""

StudyName = Literal["search", "family", "correlation", "removal", "count"]
Settings = Mapping[str, Any]
ByScale = Mapping[Scale, Settings]

_CHECKED = ConfigDict(extra="forbid")


@dataclass(frozen=True, config=_CHECKED)
class Column:
    """A column: its heading, what is read off a run (see search.experiments.studies), how exactly.

    of, at: whose, and of which network or layer, where the row does not say so.
    scales: what `at` is in the place of that at a scale.
    """

    label: str
    value: str = "test"
    of: str = ""
    at: str = ""
    scales: Mapping[Scale, str] = field(default_factory=dict)
    decimals: int = 2


@dataclass(frozen=True, config=_CHECKED)
class Row:
    """A row: the settings of its own run, or what it is called in the run of its part.

    paper: the paper's numbers, column by column; NaN where it has none.
    only: scales at which it is run; all if none are named.
    """

    label: str
    paper: tuple[float, ...] = ()
    settings: Settings = field(default_factory=dict)
    scales: ByScale = field(default_factory=dict)
    of: str = ""
    at: str = ""
    only: tuple[Scale, ...] = ()


@dataclass(frozen=True, config=_CHECKED)
class Part:
    """Rows that belong together.

    run: the name of the run that all of them are read off; empty where each has its own.
    only: as of rows.
    """

    rows: tuple[Row, ...]
    label: str = ""
    study: StudyName = "search"
    settings: Settings = field(default_factory=dict)
    scales: ByScale = field(default_factory=dict)
    run: str = ""
    only: tuple[Scale, ...] = ()


@dataclass(frozen=True, config=_CHECKED)
class SharedRun:
    """A run that rows, or later runs, are made of; only: as of rows."""

    name: str
    study: StudyName
    settings: Settings = field(default_factory=dict)
    scales: ByScale = field(default_factory=dict)
    only: tuple[Scale, ...] = ()


@dataclass(frozen=True, config=_CHECKED)
class Claim:
    """Every row of `higher` is above every row of `lower`.

    column, part: of the rows; the mean of all columns, and the only part, if empty.
    within: they may be as much lower as this, in the unit of the column ("as good as").
    exact: the numbers of `higher` are the paper's, to its last decimal; there is no `lower`.
    over: a column that each row of `higher` is above in its own; there is no `lower`.
    """

    text: str
    higher: tuple[str, ...]
    lower: tuple[str, ...] = ()
    column: str = ""
    part: str = ""
    within: float = 0.0
    exact: bool = False
    over: str = ""


@dataclass(frozen=True, config=_CHECKED)
class Drawing:
    """A figure of some rows; all of the part if none are named.

    form: its kind, see search.experiments.drawings.  at: as for columns.
    """

    form: str
    rows: tuple[str, ...] = ()
    part: str = ""
    at: str = ""
    caption: str = ""


@dataclass(frozen=True, config=_CHECKED)
class Experiment:
    """One table or figure of a paper.

    about: what it shows and how it is done here.  differs: in what the small scale differs.
    tried: what was tried where an ordering does not show at the small scale.
    """

    title: str
    source: str
    about: str
    name: str = ""
    differs: str = ""
    tried: str = ""
    seeds: Mapping[Scale, int] = field(default_factory=dict)
    settings: Settings = field(default_factory=dict)
    scales: ByScale = field(default_factory=dict)
    runs: tuple[SharedRun, ...] = ()
    columns: tuple[Column, ...] = ()
    parts: tuple[Part, ...] = ()
    claims: tuple[Claim, ...] = ()
    figures: tuple[Drawing, ...] = ()

    @property
    def trains(self) -> bool:
        """Whether anything of it is trained, or all follows from the networks alone."""
        return bool(self.runs) or any(part.study != "count" for part in self.parts)

    def part(self, label: str) -> Part:
        """The part of this label, or the only one."""
        return self._named(self.parts, "part", label) if label else self.parts[0]

    def rows(self) -> Iterator[tuple[Part, Row]]:
        """Every row with its part."""
        return ((part, row) for part in self.parts for row in part.rows)

    def check(self) -> None:
        """ConfigError for a name that nothing has, or a row of another length than the columns."""
        for part, row in self.rows():
            if len(row.paper) not in (0, len(self.columns)):
                raise ConfigError(
                    f"{self.name}: the row {row.label!r} has {len(row.paper)} of the paper's "
                    f"numbers, there are {len(self.columns)} columns: write nan where it has none"
                )
            if part.run:
                self._named(self.runs, "run", part.run)
        for claim in self.claims:
            self._check_rows(claim.part, (*claim.higher, *claim.lower))
            for column in filter(None, (claim.column, claim.over)):
                self._named(self.columns, "column", column)
        for figure in self.figures:
            if figure.rows or figure.part:
                self._check_rows(figure.part, figure.rows)

    def _check_rows(self, part: str, labels: tuple[str, ...]) -> None:
        for label in labels:
            self._named(self.part(part).rows, "row", label)

    def _named(self, things: tuple[Any, ...], kind: str, label: str) -> Any:
        names = [str(getattr(thing, "label", getattr(thing, "name", ""))) for thing in things]
        if label in names:
            return things[names.index(label)]
        raise ConfigError(f"{self.name} has no {kind} {label!r}: it has {', '.join(names)}")


def read(file: Path, name: str) -> Experiment:
    """The experiment that a file describes; ConfigError says what is wrong with it."""
    content = read_toml(file)
    try:
        made: Experiment = TypeAdapter(Experiment).validate_python(content)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        place = ".".join(map(str, problem["loc"]))
        raise ConfigError(f"{file}: {place}: {problem['msg']}") from error
    experiment = dataclasses.replace(made, name=name)
    experiment.check()
    return experiment


def names(folder: Path) -> list[str]:
    """The experiments in a folder, such as rni/table2; ConfigError if it holds none."""
    found = sorted(
        file.relative_to(folder).with_suffix("").as_posix() for file in folder.glob("*/*.toml")
    )
    if not found:
        raise ConfigError(
            f"there are no experiments in {folder}: call it in a clone of Espalier, or name the "
            "folder by --experiments"
        )
    return sorted(found, key=_natural)


def chosen(folder: Path, wanted: tuple[str, ...]) -> list[Experiment]:
    """Those of a list of names such as rni/table2 or rni, each once; ConfigError for others."""
    known = names(folder)
    picked: dict[str, None] = {}
    for name in (part.strip("/ ") for text in wanted for part in text.split(",")):
        own = [one for one in known if one == name or one.startswith(f"{name}/")]
        if not own:
            close = difflib.get_close_matches(name, [*known, *_papers(known)], n=3)
            hint = f"did you mean {', '.join(close)}?" if close else f"known: {', '.join(known)}"
            raise ConfigError(f"there is no experiment {name!r}: {hint}")
        picked |= dict.fromkeys(own)
    return [read(folder / f"{name}.toml", name) for name in picked]


def _papers(known: list[str]) -> list[str]:
    return list(dict.fromkeys(name.partition("/")[0] for name in known))


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that has table2 before table10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def merged(*layers: Settings) -> dict[str, Any]:
    """Settings laid over each other, tables setting by setting, the last on top."""
    result: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            below = result.get(key)
            is_table = isinstance(below, Mapping) and isinstance(value, Mapping)
            result[key] = merged(below, value) if is_table else value  # type: ignore[arg-type]
    return result
