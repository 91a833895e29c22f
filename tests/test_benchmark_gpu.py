"""`benchmarks/gpu.py --dry-run`, on a machine that has torch and torchvision alone."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "gpu.py"

ABSENT = """
import importlib.util, runpy, sys

absent = "ray optuna mlflow fvcore pydantic safetensors sklearn scipy click rich matplotlib".split()
found = importlib.util.find_spec

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}")

sys.meta_path.insert(0, Absent())
importlib.util.find_spec = lambda name: None if name in absent else found(name)
sys.argv = [SCRIPT, *ARGUMENTS]
runpy.run_path(SCRIPT, run_name="__main__")
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = ABSENT.replace("SCRIPT", repr(str(SCRIPT))).replace("ARGUMENTS", repr(arguments))
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_it_says_what_it_needs():
    done = run("--help")
    assert done.returncode == 0, done.stderr
    assert "--dry-run" in done.stdout


@pytest.mark.slow
def test_a_dry_run_goes_through_every_part():
    done = run("--dry-run")
    assert done.returncode == 0, done.stderr
    for part in ("Tests marked `gpu`", "## Steps", "## Sharing", "## RNI", "claims nothing"):
        assert part in done.stdout
    assert "validation" in done.stdout
