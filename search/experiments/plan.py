"""Which runs an experiment comes to at a scale: the settings and the folder of each."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search.config.explicit_settings import settings_json
from search.config.search_config import folder_name
from search.experiments.definition import (
    Experiment,
    Part,
    Row,
    Scale,
    Settings,
    SharedRun,
    StudyName,
    merged,
)
from search.experiments.studies import STUDIES, StudyOf

_REFERENCE = re.compile(r"\{([\w-]+)\}")


@dataclass(frozen=True)
class Where:
    """At which scale an experiment runs, on what and into which folder of runs.

    data: a source in the place of the experiment's own, or empty.
    """

    scale: Scale
    runs: str
    data: str = ""
    device: str = "auto"

    @property
    def suffix(self) -> str:
        """What tells pages and runs of this scale and these data from others."""
        data = Path(self.data.partition(":")[2] or self.data).name
        return "-".join(filter(None, (self.scale, data)))


class Plan:
    """The runs of an experiment, those that others build on before them.

    A folder's name ends in a digest of the settings: what several experiments of a paper share is
    run once, and what was changed is another run.
    """

    def __init__(self, experiment: Experiment, where: Where) -> None:
        self.experiment, self.where = experiment, where
        self._runs: dict[str | tuple[str, str], list[StudyOf]] = {}
        for shared in experiment.runs:
            if _runs_at(where.scale, shared):
                self._add(shared.name, shared.study, self._layers(shared))
        for part, row in experiment.rows():
            if not part.run and _runs_at(where.scale, part, row):
                layers = (*self._layers(part), row.settings, row.scales.get(where.scale, {}))
                self._add((part.label, row.label), part.study, layers)

    def __iter__(self) -> Iterator[StudyOf]:
        return (run for runs in self._runs.values() for run in runs)

    def runs_of(self, part: Part, row: Row) -> list[StudyOf]:
        """What a row is read off: a run per seed, none where it is not for this scale."""
        if not _runs_at(self.where.scale, part, row):
            return []
        return self._runs.get(part.run or (part.label, row.label), [])

    def _layers(self, of: Part | SharedRun) -> tuple[Settings, ...]:
        own, scale = self.experiment, self.where.scale
        shared = () if of.study == "count" else (own.settings, own.scales.get(scale, {}))
        return (*shared, of.settings, of.scales.get(scale, {}))

    def _add(
        self, key: str | tuple[str, str], study: StudyName, layers: tuple[Settings, ...]
    ) -> None:
        kind = STUDIES[study]
        count = self.experiment.seeds.get(self.where.scale, 1) if kind.is_repeated else 1
        settings = merged(*layers)
        if kind.trains and self.where.data:
            settings = merged(settings, {"data": {"source": self.where.data}})
        self._runs[key] = [self._run(kind, settings, seed) for seed in range(count)]

    def _run(self, kind: type[StudyOf], settings: Settings, seed: int) -> StudyOf:
        content = self._resolved(settings, seed)
        if not kind.trains:
            return kind(content)
        own = {} if not kind.is_repeated else {"seed": seed}
        named = {"name": self._name(kind, content, seed), "runs": self.where.runs}
        return kind({**content, **own, **named, "device": self.where.device})

    def _name(self, kind: type[StudyOf], content: Settings, seed: int) -> str:
        """Of the folder of a run: what people know it by, and a digest of its settings."""
        paper = self.experiment.name.partition("/")[0]
        digest = hashlib.sha256(settings_json(content).encode()).hexdigest()[:6]
        words = [content.get("model", ""), *content.get("criterion", ()), kind.word, digest]
        base = folder_name([paper, self.where.suffix, *filter(None, words)])
        return f"{base}-s{seed}" if kind.is_repeated else base

    def _resolved(self, value: Any, seed: int) -> Any:
        """Settings with the folders of runs in the place of {NAME}.

        Of a run that is repeated the one of the same seed; all of them where {NAME} is a whole
        entry of a list.
        """
        if isinstance(value, Mapping):
            return {key: self._resolved(inner, seed) for key, inner in value.items()}
        if isinstance(value, list):
            return [one for inner in value for one in self._each(inner, seed)]
        if isinstance(value, str):
            return _REFERENCE.sub(lambda match: self._folder(match[1], seed), value)
        return value

    def _each(self, entry: Any, seed: int) -> list[Any]:
        whole = _REFERENCE.fullmatch(entry) if isinstance(entry, str) else None
        if whole is not None:
            return [run.name for run in self._runs[whole[1]]]
        return [self._resolved(entry, seed)]

    def _folder(self, name: str, seed: int) -> str:
        runs = self._runs[name]
        return runs[min(seed, len(runs) - 1)].name


def _runs_at(scale: Scale, *things: Part | Row | SharedRun) -> bool:
    return all(scale in thing.only or not thing.only for thing in things)
