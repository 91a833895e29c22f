"""What the report of a study says that is no search: of a family, or of criteria and the oracle."""

from __future__ import annotations

import base64
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from pruning.errors import ConfigError, SearchStateError
from search.config.explicit_settings import as_arguments, explicit_settings
from search.config.search_config import SearchConfig
from search.config.settings import from_mapping
from search.config.study_settings import SETTINGS_OF
from search.results import correlation_report, family_results
from search.results.family_results import FamilyStudy
from search.storage.layout import FIGURES, RESULTS_FILES, SETTINGS_FILES, StudyKind


@dataclass(frozen=True)
class StudyPage:
    """Everything that the template asks for.

    about: what is studied, in a sentence.  caption: of the table.  figure: as a data URL.
    failures: why nothing came of a network, by its name.  commands: what to type, by what it does.
    """

    name: str
    about: str
    caption: str
    table: Table
    figure: str
    commands: Mapping[str, str]
    notes: tuple[str, ...] = ()
    failures: Mapping[str, str] = field(default_factory=dict)

    @property
    def headings(self) -> list[tuple[str, bool]]:
        """Those of the columns, and whether they are of numbers."""
        columns = self.table.columns
        return [(" ".join(str(c.header).split()), c.justify == "right") for c in columns]

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """The cells of the table, row by row."""
        return list(zip(*(map(str, column.cells) for column in self.table.columns), strict=True))


def study_page(directory: Path, kind: StudyKind) -> StudyPage:
    """What is told of the study in `directory`; SearchStateError if it has not finished."""
    return {"family": _family, "correlation": _correlation}[kind](directory)


def _family(directory: Path) -> StudyPage:
    study = FamilyStudy.read(directory / RESULTS_FILES["family"])
    config = stored_settings(directory, "family")
    again = shlex.join(["espalier", "family", config.source, "--train", *_flags(config)])
    return StudyPage(
        config.study_name,
        f"How good networks of the shape of {config.source} are at other sizes, on "
        f"{config.data.source}, by their parameters: {', '.join(config.kind_names)}; each trained "
        f"from scratch with {config.seeds} seeds.",
        f"{study.measure.capitalize()}, mean ± deviation over runs, each measured once on "
        f"{study.num_test:,} test samples",
        family_results.study_table(study),
        _figure(directory, "family"),
        {"run this study": again, **_ui(config)},
        study.notes,
        study.failures,
    )


def _correlation(directory: Path) -> StudyPage:
    results = correlation_report.read_results(directory / RESULTS_FILES["correlation"])
    config = stored_settings(directory, "correlation")
    return StudyPage(
        config.study_name,
        f"How well criteria predict what removing a channel of {config.model}, trained on "
        f"{config.data.source}, does to the loss.",
        "Correlation with the oracle",
        correlation_report.study_table(results),
        _figure(directory, "correlation"),
        {
            "run this study": shlex.join(["espalier", "correlate", *_flags(config)]),
            **_ui(config),
        },
        tuple(correlation_report.study_notes(results)),
    )


def _flags(config: Any) -> list[str]:
    explicit = explicit_settings(config)
    return as_arguments({name: value for name, value in explicit.items() if name != "source"})


def _ui(config: Any) -> dict[str, str]:
    runs = [] if config.runs == SearchConfig.runs else ["--runs", config.runs]
    return {"compare the runs in MLflow": shlex.join(["espalier", "ui", *runs])}


def _figure(directory: Path, kind: StudyKind) -> str:
    file = (directory / FIGURES[kind]).with_suffix(".svg")
    try:
        content = base64.b64encode(file.read_bytes()).decode()
    except OSError as error:
        raise SearchStateError(f"{file} cannot be read: {error.strerror}") from error
    return f"data:image/svg+xml;base64,{content}"


def stored_settings(directory: Path, kind: StudyKind) -> Any:
    """The settings of the study in `directory`; SearchStateError if they cannot be read."""
    file = directory / SETTINGS_FILES[kind]
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(content, Mapping):
            raise ValueError("it holds no settings")
        return from_mapping(SETTINGS_OF[kind], content, str(file))
    except (OSError, ValueError, ConfigError) as error:
        raise SearchStateError(f"{file} is damaged, or of another version: {error}") from error
