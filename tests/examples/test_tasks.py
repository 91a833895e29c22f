"""The examples of tasks other than classification, run as they stand."""

from __future__ import annotations

import pickle
import runpy
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from samples import Workers

import copycat
from search.results.report import open_results

# SQLAlchemy 2.1 deprecates what MLflow 3.17 uses while its tables are first imported.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
]

EXAMPLES = Path(__file__).parents[2] / "examples"


class FarWorkers(Workers):
    """Perform jobs in this process on what a worker would get: context and data, pickled."""

    def cluster(self, context: Any, data: Any, share: Any) -> AbstractContextManager[Any]:
        sent = pickle.loads(pickle.dumps((context.sent(), data.sent())))
        return super().cluster(*sent, share)


def in_processes(name: str, folder: Path) -> None:
    """Run the example of this name as people do, by Ray's workers."""
    command = [sys.executable, EXAMPLES / f"{name}.py", folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def in_this_process(name: str, folder: Path) -> None:
    """Run it with FarWorkers in place of Ray."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(EXAMPLES)  # back to where we are, afterwards
        FarWorkers().take_over(patch)
        runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"](str(folder))


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What the examples define is found by its name."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(EXAMPLES)
    yield
    for name in set(sys.modules) - before:
        if (EXAMPLES / f"{name}.py").exists():
            del sys.modules[name]


def check(folder: Path, module: str, *, task: str, share: float, least: float) -> None:
    """Every stored network is verified by its module alone."""
    results = open_results(folder)
    pruned = [outcome for outcome in results.everything if outcome.origin == "fine-tuned"]
    assert len(pruned) >= 2
    assert max(outcome.test_score for outcome in results.everything) > least
    for outcome in results.everything:
        assert outcome.flops <= share * results.base.flops
        trust = [module, "torchvision.models.detection"]
        stored = copycat.verify(folder / outcome.path, trust=trust)
        assert stored.provenance["task"] == task


@pytest.mark.usefixtures("importable")
@pytest.mark.parametrize(
    ("run", "name", "search", "task", "share", "least"),
    [
        (in_this_process, "segment_shapes", "shapes", "segmentation", 0.25, 0.4),
        (in_this_process, "two_inputs", "oscillations", "regression", 0.25, 0.8),
        (in_processes, "detect_shapes", "detectors", "detect_shapes:Detection", 0.5, 0.3),
    ],
)
def test_smaller_networks_do_the_task(
    tmp_path: Path, *, run: Any, name: str, search: str, task: str, share: float, least: float
) -> None:
    """A whole search; that of a task of one's own with its workers."""
    run(name, tmp_path)
    check(tmp_path / search, name, task=task, share=share, least=least)
