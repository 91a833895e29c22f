"""The names of files and folders in the folder of a search."""

from __future__ import annotations

CONFIG_FILE, RESULTS_FILE, EVENTS_FILE = "search.json", "results.json", "events.jsonl"
"""The settings, the results, and the events."""

SPOOL_FILE = "mlflow.spool"
"""Records that MLflow could not be given yet."""

SPENT_FILE = "spent.json"
"""Working time and training images that all its processes together have used."""

LOG_FILE = "process.log"
"""The output of its processes, where a service started them."""

JOBS_FOLDER, ARCHITECTURES_FOLDER, RUNGS_FOLDER = "jobs", "architectures", "rungs"
"""Checkpoints of running jobs, trained networks, and results of trials at each rung."""

SCORES_FILE, CURVE_FILE = "scores.json", "curve.json"
"""In the folder of an architecture: the scores of its units, and its epochs."""
