"""The example that prunes a trained network, from its state dict to what is held against it."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from samples import Workers

from mlflow_server import MemoryRecorder
from search.tasks.score import ACCURACY

EXAMPLE = Path(__file__).parents[2] / "examples" / "prune_trained.py"


@pytest.mark.slow
def test_the_example_prunes_what_it_trained(
    tmp_path: Path, workers: Workers, memory: MemoryRecorder, capsys
):
    main = runpy.run_path(str(EXAMPLE))["main"]
    results = main(["--runs", str(tmp_path), "--epochs", "3"]).results
    base = results.base_network
    assert base is not None
    assert base.images == 0
    assert base.validation_score > 0.5
    assert f"accuracy {ACCURACY.text(base.validation_score)} on the validation data" in (
        " ".join(capsys.readouterr().out.split())
    )
    tuned = [o for o in results.everything if o.origin == "fine-tuned" and o.key == o.network]
    assert len(tuned) >= 3
    assert max(o.validation_score for o in tuned) > 0.5
    assert max(o.flops for o in results.everything) <= 0.25 * base.flops
    assert memory.read("architecture/base").status == "finished"
    workers.performed = []
    assert main(["--runs", str(tmp_path), "--epochs", "3"]).results == results
    assert workers.performed == []
