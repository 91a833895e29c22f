"""The examples of tasks other than classification, run as they stand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import copycat
from search.results.report import Results, open_results

EXAMPLES = Path(__file__).parents[2] / "examples"


def finished(name: str, search: str, folder: Path) -> Results:
    """What the example of this name leaves of its search."""
    command = [sys.executable, EXAMPLES / f"{name}.py", folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return open_results(folder / search)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "search", "task", "share", "least"),
    [
        ("segment_shapes", "shapes", "segmentation", 0.25, 0.4),
        ("two_inputs", "oscillations", "regression", 0.25, 0.8),
        ("detect_shapes", "detectors", "detect_shapes:Detection", 0.5, 0.3),
    ],
)
def test_smaller_networks_do_the_task(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    name: str,
    search: str,
    task: str,
    share: float,
    least: float,
) -> None:
    """A whole search with its workers; every stored network is verified by its module alone."""
    results = finished(name, search, tmp_path)
    pruned = [outcome for outcome in results.everything if outcome.origin == "fine-tuned"]
    assert len(pruned) >= 2
    assert max(outcome.test_score for outcome in results.everything) > least
    monkeypatch.syspath_prepend(EXAMPLES)
    for outcome in results.everything:
        assert outcome.flops <= share * results.base.flops
        trust = [name, "torchvision.models.detection"]
        stored = copycat.verify(tmp_path / search / outcome.path, trust=trust)
        assert stored.provenance["task"] == task
