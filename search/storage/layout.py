"""The names of files and folders in the folder of a study."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

StudyKind = Literal["search", "family", "correlation"]

CONFIG_FILE, RESULTS_FILE, EVENTS_FILE = "search.json", "results.json", "events.jsonl"
"""The settings, the results and the events of a search."""

FAMILY_RESULTS, CORRELATION_RESULTS = "family.json", "correlation.json"
"""The results of the other kinds of study; pictures of the same name lie beside them."""

SETTINGS_FILES: dict[StudyKind, str] = {
    "search": CONFIG_FILE,
    "family": "family-settings.json",
    "correlation": "correlation-settings.json",
}
"""The settings of a study; which of these files is there tells its kind."""

RESULTS_FILES: dict[StudyKind, str] = {
    "search": RESULTS_FILE,
    "family": FAMILY_RESULTS,
    "correlation": CORRELATION_RESULTS,
}


FIGURES: dict[StudyKind, str] = {
    "search": "front.png",
    "family": "family.png",
    "correlation": "correlation.png",
}
"""The figure of each kind's results."""


def study_kind(folder: Path) -> StudyKind | None:
    """The kind of study that the folder holds; None if it holds none."""
    for kind, name in SETTINGS_FILES.items():
        if os.path.lexists(folder / name):
            return kind
    return None


SUMMARY_FILE = "summary.jsonl"
"""How the search stands by its events, up to one of them; see search.tracking.search_summary."""

SPOOL_FILE = "mlflow.spool"
"""Records that MLflow could not be given yet."""

SPENT_FILE = "spent.json"
"""Working time and training images that all its processes together have used."""

LOG_FILE = "process.log"
"""The output of its processes, where a service started them."""

JOBS_FOLDER, ARCHITECTURES_FOLDER, RUNGS_FOLDER = "jobs", "architectures", "rungs"
"""Checkpoints of running jobs, trained networks, and results of trials at each rung."""

BASE_ARCHITECTURE = "base"
"""Among the architectures of a search: its base network, trained."""

SCORES_FILE, CURVE_FILE, TRAJECTORY_FILE = "scores.json", "curve.json", "trajectory.json"
CANDIDATES_FILE = "candidates.json"
"""In the folder of an architecture: the scores of its units, its epochs, and the shapes that it
went through where it was pruned iteratively."""

TEST_SAMPLES_FILE = "test_samples.npy"
"""In the same: what each sample of the test split adds to the score, where the task gives it."""
