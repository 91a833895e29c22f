"""Errors name pages of the documentation that are there."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

import mlflow_server.errors
import pruning.errors
from mlflow_server.errors import MlflowServerError
from pruning.errors import BudgetError, EspalierError, UnreachableBudgetError
from search.system.exit_status import page_hint, without_page_hint

DOCS = Path(__file__).parent.parent / "docs"
ERRORS = [
    kind
    for module in (pruning.errors, mlflow_server.errors)
    for _, kind in inspect.getmembers(module, inspect.isclass)
    if issubclass(kind, EspalierError | MlflowServerError)
]
BASES = (EspalierError, MlflowServerError)


@pytest.mark.parametrize("kind", [kind for kind in ERRORS if kind not in BASES])
def test_every_error_names_a_page(kind: type[EspalierError | MlflowServerError]) -> None:
    assert kind.page


@pytest.mark.parametrize("page", sorted({kind.page for kind in ERRORS} - {""}))
def test_pages_that_errors_name_are_there(page: str) -> None:
    assert (DOCS / page).is_file()


def test_a_hint_is_put_behind_a_line_and_taken_off_again() -> None:
    assert page_hint(EspalierError("no page")) == ""
    for error in (BudgetError("of 1 (not 2)"), UnreachableBudgetError("it")):
        assert page_hint(error) == " (docs/how-to/budgets.md)"
        assert without_page_hint(f"{error}{page_hint(error)}") == str(error)
    assert without_page_hint("as it is (see docs/x.md)") == "as it is (see docs/x.md)"
