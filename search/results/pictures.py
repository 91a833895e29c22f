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
from search.trials.pareto import best


def draw_all(directory: Path, results: Results, base_widths: Widths) -> list[Path]:
    """Every picture that a search has data for; the files, in the folder `pictures`.

    directory: of the search. Each method is shown by its trial of the best score in validation
    among those that stored their scores.
    """
    trials = _best_trials(directory, results)
    folder = directory / "pictures"
    files: list[Path] = []
    if trials:
        scores = {name: _flat(stored["scores"]) for name, (_, stored) in trials.items()}
        widths = {
            name: widths_left(_profile(directory, outcome), base_widths)
            for name, (outcome, _) in trials.items()
        }
        files += saved(histogram_figure(scores), folder / "importances")
        files += saved(removed_figure(widths, base_widths), folder / "removed")
    chosen = best([o for o in results.front if o.origin == "fine-tuned"], results.score)
    if chosen:
        left = widths_left(_profile(directory, chosen), base_widths)
        retained = retained_figure(left, base_widths)
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
    trials: dict[str, tuple[Outcome, Mapping[str, Any]]] = {}
    judged = (o for o in results.everything if o.origin in ("fine-tuned", "sparse"))
    key = results.score.key
    for outcome in sorted(judged, key=lambda o: (-key(o.validation_score), o.flops)):
        file = directory / outcome.path / SCORES_FILE
        if file.exists():
            stored = json.loads(file.read_text(encoding="utf-8"))
            trials.setdefault(stored["criterion"], (outcome, stored))
    return dict(sorted(trials.items()))


def _profile(directory: Path, outcome: Outcome) -> WidthProfile:
    return read(directory / outcome.path).profile


def _flat(scores: Mapping[str, Sequence[float]]) -> list[float]:
    return [value for values in scores.values() for value in values]
