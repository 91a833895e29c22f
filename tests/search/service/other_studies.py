"""Families and correlation studies in a folder of runs, as their processes leave them."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

from samples import base_outcome, outcome, stored_outcome

import copycat
from search.config.correlation_config import CorrelationConfig
from search.config.family_config import FamilyConfig
from search.config.search_config import SearchConfig
from search.config.settings import from_mapping
from search.storage.layout import (
    ARCHITECTURES_FOLDER,
    EVENTS_FILE,
    FIGURES,
    RESULTS_FILES,
    SETTINGS_FILES,
    StudyKind,
)
from search.trials.preflight import Preflight

NETWORK = "done/fine-tuned-0"
FAMILY: dict[str, Any] = {"source": NETWORK, "budgets": ["flops=20%", "flops=10%"], "seeds": 2}
CORRELATION: dict[str, Any] = {"model": "digits-vgg", "criterion": ["taylor", "magnitude-l1"]}
SETTINGS: dict[StudyKind, dict[str, Any]] = {"family": FAMILY, "correlation": CORRELATION}
CLASSES: dict[StudyKind, Any] = {"family": FamilyConfig, "correlation": CorrelationConfig}


def content_of(kind: StudyKind) -> dict[str, Any]:
    """What the study of such a kind has written at its end."""
    if kind == "correlation":
        per_layer = {"pearson": 0.5, "spearman": None, "kendall": 0.25}
        row = {"per_layer": per_layer, "all_layers": per_layer, "layers": {}, "scores": {}}
        return {"settings": {"runs": "/secret"}, "criteria": {"taylor": row}, "num_units": 3}
    found = [
        outcome(key, flops=flops, validation_score=score).to_mapping()
        for key, flops, score in (("low", 500, 0.5), ("worse", 600, 0.4), ("high", 900, 0.75))
    ]
    runs = [{"kind": "copycat", "place": "", "seed": 0, "outcome": o, "search": ""} for o in found]
    other = outcome("fine-tuned-0", flops=1, validation_score=0.9).to_mapping()
    runs.append({"kind": "fine-tuned", "place": "", "seed": 0, "outcome": other, "search": "done"})
    base = base_outcome(flops=2000, validation_score=0.8).to_mapping()
    score = {"name": "accuracy", "direction": "maximize", "is_share": True, "counts_samples": True}
    point = {"kind": "copycat", "place": "flops=10%", "num_runs": 2, "params": 300.0}
    point |= {"flops": 900.0, "test_score": 0.75, "deviation": 0.01, "score_against_base": -0.05}
    return {"score": score, "base_network": base, "runs": runs, "points": [point], "notes": ["no"]}


LAUNCHED = {"event": "launched", "time_ms": 5, "pid": 1, "lines": ["base"], "trials": 0}
LAUNCHED |= {"base": {"flops": 2000, "params": 200}, "limits": {"flops": 2000}}


def finish(folder: Path, kind: StudyKind) -> None:
    (folder / RESULTS_FILES[kind]).write_text(json.dumps(content_of(kind)))
    (folder / FIGURES[kind]).write_bytes(b"PNG")
    (folder / "report.html").write_text("page")
    base = base_outcome(flops=2000, validation_score=0.8).to_mapping()
    events = [
        {**LAUNCHED, "kind": kind},
        {"event": "finished", "time_ms": 6, "key": "base", "outcomes": [base]},
        {"event": "concluded", "time_ms": 7},
    ]
    (folder / EVENTS_FILE).write_text("".join(json.dumps(event) + "\n" for event in events))


def put(runs: Path, name: str, kind: StudyKind, **changes: Any) -> Path:
    """As the command line leaves it that was stopped."""
    config = from_mapping(CLASSES[kind], SETTINGS[kind])
    folder = runs / name
    folder.mkdir()
    settings = {**dataclasses.asdict(config.resolved()), **changes}
    (folder / SETTINGS_FILES[kind]).write_text(json.dumps(settings))
    return folder


def store(runs: Path, preflight: Preflight, *, name: str = "done", data: str) -> Path:
    """A network of that search, which was trained on these data."""
    widths = dict.fromkeys(preflight.groups, 8)
    folder = runs / name / ARCHITECTURES_FOLDER / "fine-tuned-0"
    shutil.rmtree(folder, ignore_errors=True)
    config = SearchConfig(name=name, runs=str(runs))
    stored_outcome(config, preflight, 0, widths, 0.5)
    stored, model = copycat.read(folder), copycat.load(folder)
    copycat.save(folder, dataclasses.replace(stored, provenance={"data": data}), model)
    return folder
