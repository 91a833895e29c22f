"""Modules that are imported when something of them is first used."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import pytest

from pruning.lazy_imports import lazy_modules


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """The names of two modules that nobody has imported."""
    for name in ("lazy_first", "lazy_second"):
        (tmp_path / f"{name}.py").write_text(f"answer = '{name}'\n")
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    return "lazy_first", "lazy_second"


def test_a_module_is_imported_when_it_is_used_and_no_other(modules: tuple[str, str]):
    first, second = lazy_modules(*modules)
    assert not sys.modules.keys() & set(modules)
    assert first.answer == "lazy_first"
    assert sys.modules.keys() & set(modules) == {"lazy_first"}
    assert second.answer == "lazy_second"


def test_a_stand_in_can_be_sent_to_another_process(modules: tuple[str, str]):
    first, _ = lazy_modules(*modules)
    sent = pickle.loads(pickle.dumps(first))
    assert not sys.modules.keys() & set(modules)
    assert sent.answer == "lazy_first"


def test_what_is_changed_in_the_module_is_seen(
    modules: tuple[str, str], monkeypatch: pytest.MonkeyPatch
):
    first, _ = lazy_modules(*modules)
    assert first.answer == "lazy_first"
    monkeypatch.setattr("lazy_first.answer", "another")
    assert first.answer == "another"


def test_what_there_is_not_fails_as_an_import_does(modules: tuple[str, str]):
    first, nothing = lazy_modules(modules[0], "no_such_module")
    with pytest.raises(AttributeError, match="no attribute 'question'"):
        first.question  # noqa: B018
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        nothing.answer  # noqa: B018
