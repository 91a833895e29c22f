"""The example of a Dataset of one's own, run as it stands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import copycat
from search.results.report import open_results

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.slow
def test_smaller_networks_read_signals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By processes that are only told the names of the callables."""
    command = [sys.executable, EXAMPLES / "signal_classifier.py", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    folder = tmp_path / "signals"
    results = open_results(folder)
    pruned = [outcome for outcome in results.everything if outcome.origin == "fine-tuned"]
    assert results.num_test == 300
    assert len(pruned) >= 2
    assert max(outcome.test_score for outcome in pruned) > 0.8
    monkeypatch.syspath_prepend(EXAMPLES)
    for outcome in pruned:
        assert outcome.flops <= 0.25 * results.base.flops
        stored = copycat.verify(folder / outcome.path, trust=["signal_classifier"])
        assert stored.input_shape == (1, 128)
        assert stored.classes == ("sine", "square", "saw")
        assert stored.provenance["data"] == "signal_classifier:data"
