"""What lies where in the folder of a search: the names of its files and folders."""

from __future__ import annotations

CONFIG_FILE, RESULTS_FILE, EVENTS_FILE = "search.json", "results.json", "events.jsonl"
"""What was asked for, what came of it, and what happened."""

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
