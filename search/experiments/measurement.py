"""What an experiment came to: its numbers and how they were made, as JSON beside the page.

The page follows from this file and the TOML of the experiment, and from nothing else.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruning.errors import DataError
from search.experiments.claims import Cells
from search.experiments.plan import Plan
from search.storage.atomic_files import write_durably

_VERSIONS = ("espalier", "torch", "torchvision", "ray", "optuna", "fvcore")


@dataclass(frozen=True)
class Picture:
    """A figure: the name of the file beside the page, and its caption."""

    file: str
    caption: str


@dataclass(frozen=True)
class Measurement:
    """The numbers of an experiment at one scale.

    cells: by the labels of part, row and column.  commands: of the runs, each to be typed.
    date: such as 2026-11-29.  devices: what it was computed on, each once.
    versions: by the name of the package, Python's among them.
    remark: whatever else has to be known of how it was measured, added by hand; empty for nothing.
    """

    cells: Cells
    pictures: tuple[Picture, ...]
    commands: tuple[str, ...]
    date: str
    devices: tuple[str, ...]
    versions: Mapping[str, str]
    remark: str = ""

    @classmethod
    def of(cls, plan: Plan, cells: Cells, pictures: Sequence[Picture]) -> Measurement:
        """Made today, here, by these runs."""
        return cls(
            {key: list(values) for key, values in cells.items() if values},
            tuple(pictures),
            tuple(run.command for run in plan if run.command),
            str(datetime.date.today()),
            _devices(plan),
            {
                "Python": platform.python_version(),
                **{name: importlib.metadata.version(name) for name in _VERSIONS},
            },
        )

    @classmethod
    def read(cls, file: Path) -> Measurement:
        """As it was written; DataError for a file that holds something else."""
        try:
            stored = json.loads(file.read_text(encoding="utf-8"))
            cells = {
                (one["part"], one["row"], one["column"]): list(map(float, one["values"]))
                for one in stored["cells"]
            }
            pictures = tuple(Picture(**one) for one in stored["figures"])
            return cls(
                cells,
                pictures,
                tuple(stored["runs"]),
                stored["date"],
                tuple(stored["devices"]),
                stored["versions"],
                str(stored.get("remark", "")),
            )
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise DataError(f"{file} holds no numbers of an experiment: {error}") from error

    def write(self, file: Path) -> None:
        """As JSON, a line for each cell."""
        content: dict[str, Any] = {
            "date": self.date,
            "devices": self.devices,
            "versions": self.versions,
            **({"remark": self.remark} if self.remark else {}),
            "cells": [
                {"part": part, "row": row, "column": column, "values": list(values)}
                for (part, row, column), values in self.cells.items()
            ],
            "figures": [vars(picture) for picture in self.pictures],
            "runs": self.commands,
        }
        write_durably(file, (_by_lines(content) + "\n").encode())


def _devices(plan: Plan) -> tuple[str, ...]:
    """Where the runs were made: what they stored of that, each once."""
    places: dict[str, None] = {}
    for run in plan:
        record: Mapping[str, Any] = run.surroundings()
        threads = int(record.get("threads", 1))
        plural = "" if threads == 1 else "s"
        places[f"{record['device']} ({record['processor']}, {threads} thread{plural})"] = None
    return tuple(places)


def _by_lines(content: Mapping[str, Any]) -> str:
    """JSON that shows what has changed line by line."""
    parts = []
    for key, value in content.items():
        if isinstance(value, list | tuple) and value:
            lines = ",\n".join(f"  {json.dumps(one, ensure_ascii=False)}" for one in value)
            parts.append(f'"{key}": [\n{lines}\n]')
        else:
            parts.append(f'"{key}": {json.dumps(value, ensure_ascii=False)}')
    return "{\n" + ",\n".join(parts) + "\n}"
