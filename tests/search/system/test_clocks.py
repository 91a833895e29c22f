"""How long something takes is measured by a clock that nobody sets."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PURPOSES = {
    "search/scheduling/ray_environment.py": "the age of a file, which has no other clock",
    "search/scheduling/journal_repair.py": "a date in the study's journal, as Optuna writes it",
}
"""Why a file asks for the time of day; in milliseconds it is always a date in a record."""


def asks_for_the_time_of_day(file: Path) -> bool:
    calls = (node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call))
    return any(ast.unparse(call.func) in ("time.time", "datetime.now") for call in calls)


@pytest.mark.parametrize("package", ["pruning", "copycat", "mlflow_server", "search"])
def test_no_duration_is_measured_by_the_time_of_day(package: str) -> None:
    files = {str(file.relative_to(ROOT)): file for file in (ROOT / package).rglob("*.py")}
    asking = {name for name, file in files.items() if asks_for_the_time_of_day(file)}
    assert asking == PURPOSES.keys() & files.keys()
