"""What came of a correlation study, as a table, as notes and as JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from search.config.correlation_config import CorrelationConfig
from search.results.correlation import COEFFICIENTS, Agreement, Correlation, UnitScores
from search.results.report import readable_results
from search.tasks.score import ACCURACY, Score
from search.terminal.text_table import text_table


@dataclass(frozen=True)
class CorrelationResults:
    """What came of a correlation study.

    agreements: one per criterion, best first.  num_units, num_images: over which scores were
    correlated, and on how many images they were measured.  validation_score: of the network, of the
    kind `score`.
    files: what was written.
    """

    agreements: tuple[Agreement, ...]
    num_units: int
    num_images: int
    validation_score: float
    files: tuple[Path, ...]
    score: Score = ACCURACY


def read_results(file: Path) -> CorrelationResults:
    """The results of a finished study; SearchStateError where there are none that can be read."""
    with readable_results(file) as stored:
        return dataclasses.replace(results_of(stored), files=(file,))


def results_of(stored: Mapping[str, Any]) -> CorrelationResults:
    """The results in what `content` makes; KeyError, TypeError or ValueError if it is none."""
    agreements = [
        Agreement(
            name,
            {layer: Correlation(**values) for layer, values in row["layers"].items()},
            Correlation(**row["all_layers"]),
        )
        for name, row in stored["criteria"].items()
    ]
    counts = int(stored["num_units"]), int(stored["num_images"])
    value, score = float(stored["validation_score"]), Score.from_mapping(stored.get("score"))
    return CorrelationResults(tuple(agreements), *counts, value, (), score)


def study_table(study: CorrelationResults) -> Table:
    """One row per criterion, the best first; a dash where a coefficient is not defined."""
    headings = [
        f"{name.capitalize()}\n{words}"
        for words in ("in layer", "overall")
        for name in COEFFICIENTS
    ]
    table = text_table("criterion", *headings, numbers=headings)
    for agreement in study.agreements:
        cells = [
            getattr(part, name)
            for part in (agreement.per_layer, agreement.all_layers)
            for name in COEFFICIENTS
        ]
        table.add_row(agreement.criterion, *("–" if c is None else f"{c:.3f}" for c in cells))
    return table


def study_notes(study: CorrelationResults) -> list[str]:
    """What the table is about, and which layers are not in its means; a line each."""
    lines = [
        f"{study.num_units:,} units, {study.num_images:,} training images, "
        f"validation {study.score.name} {study.score.text(study.validation_score, 1)}",
        "in layer: mean over layers, each of which counts once; overall: over all units",
    ]
    left_out = {a.criterion: a.num_left_out for a in study.agreements if a.num_left_out}
    if left_out:
        listed = ", ".join(f"{name} {count}" for name, count in left_out.items())
        lines.append(
            f"layers left out of the means (fewer than 3 units, or constant scores): {listed}"
        )
    return lines


def content(
    study: CorrelationResults,
    config: CorrelationConfig,
    scores: Mapping[str, UnitScores],
    oracle: UnitScores,
) -> dict[str, Any]:
    """JSON-able: settings, coefficients, and the scores that they are made of.

    A score that is no finite number is None.
    """
    return {
        "settings": dataclasses.asdict(config.resolved()),
        "num_units": study.num_units,
        "num_images": study.num_images,
        "score": study.score.to_mapping(),
        "validation_score": study.validation_score,
        "criteria": {
            agreement.criterion: {
                "per_layer": dataclasses.asdict(agreement.per_layer),
                "all_layers": dataclasses.asdict(agreement.all_layers),
                "layers_left_out": agreement.num_left_out,
                "layers": {n: dataclasses.asdict(c) for n, c in agreement.layers.items()},
                "scores": _as_lists(scores[agreement.criterion]),
            }
            for agreement in study.agreements
        },
        "oracle": _as_lists(oracle),
    }


def _as_lists(scores: UnitScores) -> dict[str, list[float | None]]:
    return {
        name: [value if math.isfinite(value) else None for value in values.tolist()]
        for name, values in scores.items()
    }
