"""The pictures of a finished search: what methods find unimportant, remove and keep."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from copycat.architecture import read
from copycat.width_profile import WidthProfile
from search.results.figures import (
    Widths,
    histogram_figure,
    removed_figure,
    retained_figure,
    saved,
)
from search.results.report import Results
from search.storage.layout import SCORES_FILE
from search.trials.jobs import Outcome


def draw_all(directory: Path, results: Results, base_widths: Widths) -> list[Path]:
    """Every picture that a search has data for; the files, in the folder `pictures`.

    directory: of the search. Each method is shown by its trial of highest validation accuracy
    among those that stored their scores.
    """
    best = _best_trials(directory, results)
    folder = directory / "pictures"
    files: list[Path] = []
    if best:
        scores = {name: _flat(stored["scores"]) for name, (_, stored) in best.items()}
        widths = {
            name: widths_left(_profile(directory, outcome), base_widths)
            for name, (outcome, _) in best.items()
        }
        files += saved(histogram_figure(scores), folder / "importances")
        files += saved(removed_figure(widths, base_widths), folder / "removed")
    tuned = [outcome for outcome in results.front if outcome.origin == "fine-tuned"]
    if tuned:
        chosen = _profile(directory, max(tuned, key=_quality))
        retained = retained_figure(widths_left(chosen, base_widths), base_widths)
        files += saved(retained, folder / "retained")
    return files


def widths_left(profile: WidthProfile, base_widths: Widths) -> dict[str, int]:
    """Channels that `profile` leaves in each layer: none in layers of what is removed."""
    gone = tuple(f"{structure.name}." for structure in profile.removed)
    return {
        name: profile.widths.get(name, 0 if f"{name}.".startswith(gone) else width)
        for name, width in base_widths.items()
    }


def _best_trials(directory: Path, results: Results) -> dict[str, tuple[Outcome, Mapping[str, Any]]]:
    """Per method its best trial and what that one stored of its scores."""
    best: dict[str, tuple[Outcome, Mapping[str, Any]]] = {}
    tuned = (outcome for outcome in results.everything if outcome.origin == "fine-tuned")
    for outcome in sorted(tuned, key=_quality, reverse=True):
        file = directory / outcome.path / SCORES_FILE
        if file.exists():
            stored = json.loads(file.read_text(encoding="utf-8"))
            best.setdefault(stored["criterion"], (outcome, stored))
    return dict(sorted(best.items()))


def _quality(outcome: Outcome) -> tuple[float, int]:
    return outcome.validation_score, -outcome.flops


def _profile(directory: Path, outcome: Outcome) -> WidthProfile:
    return read(directory / outcome.path).profile


def _flat(scores: Mapping[str, Sequence[float]]) -> list[float]:
    return [value for values in scores.values() for value in values]
