"""What lies where in the folder of a study: the names of its files and folders."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

StudyKind = Literal["search", "family", "correlation"]

CONFIG_FILE, RESULTS_FILE, EVENTS_FILE = "search.json", "results.json", "events.jsonl"
"""What was asked for, what came of it, and what happened, in the folder of a search."""

FAMILY_RESULTS, CORRELATION_RESULTS = "family.json", "correlation.json"
"""What came of the other kinds of study; pictures of the same name lie beside them."""

SETTINGS_FILES: dict[StudyKind, str] = {
    "search": CONFIG_FILE,
    "family": "family-settings.json",
    "correlation": "correlation-settings.json",
}
"""What a study was asked for; which of them is there tells its kind."""

RESULTS_FILES: dict[StudyKind, str] = {
    "search": RESULTS_FILE,
    "family": FAMILY_RESULTS,
    "correlation": CORRELATION_RESULTS,
}


def study_kind(folder: Path) -> StudyKind | None:
    """The kind of study that the folder holds; None if it holds none."""
    for kind, name in SETTINGS_FILES.items():
        if (folder / name).exists():
            return kind
    return None


SPOOL_FILE = "mlflow.spool"
"""What MLflow could not be told yet."""

SPENT_FILE = "spent.json"
"""What of its time and training images is used up, by all its processes together."""

LOG_FILE = "process.log"
"""What its processes print, where a service started them."""

JOBS_FOLDER, ARCHITECTURES_FOLDER, RUNGS_FOLDER = "jobs", "architectures", "rungs"
"""States of what is under way, trained networks, and what trials had reached at each rung."""

SCORES_FILE, CURVE_FILE = "scores.json", "curve.json"
"""In the folder of an architecture: the scores of its units, and its epochs."""
