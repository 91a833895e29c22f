"""What the site is made with; that it can be built at all is seen by `make docs`."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from markdown_blocks import ROOT


@pytest.fixture(autouse=True)
def _hooks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = {*sys.modules}
    monkeypatch.syspath_prepend(ROOT / "docs" / "hooks")
    yield
    for name in {*sys.modules} - before:
        if name in ("docstrings", "drawings", "repository_pages"):
            del sys.modules[name]


def test_arguments_become_a_list() -> None:
    from docstrings import as_lists  # noqa: PLC0415

    text = (
        "Says it.\n\nfirst: one,\n    and more.  second, third: two.\nNot: one.\n\nRaises it: no."
    )
    assert as_lists(text).splitlines() == [
        *("Says it.", "", "- **first**: one,", "    and more.", "- **second, third**: two."),
        *("", "Not: one.", "", "Raises it: no."),
    ]


def test_links_to_files_that_the_site_does_not_have_become_words() -> None:
    from repository_pages import _without_links  # noqa: PLC0415

    text = "![figure](here.png)\nsee [the code](../x.py) and [that](https://a.b)"
    assert _without_links(text) == "see the code (`../x.py`) and [that](https://a.b)"


def test_drawings_are_those_that_are_stored(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    import drawings  # noqa: PLC0415

    monkeypatch.setattr(drawings, "PICTURES", tmp_path)
    for draw in drawings.DRAWINGS:
        draw()
    stored = {f.name: f.read_text() for f in (ROOT / "docs" / "pictures").glob("*.svg")}
    assert {f.name: f.read_text() for f in tmp_path.iterdir()} == stored
