"""The tables of the site on a phone and on a desktop."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import IN_A_BROWSER, chromium

pytestmark = IN_A_BROWSER

ROOT = Path(__file__).parents[2]
BROKEN_WORDS = r"""() => {
    const broken = [];
    for (const table of document.querySelectorAll(".md-typeset table")) {
        const texts = document.createTreeWalker(table, NodeFilter.SHOW_TEXT);
        while (texts.nextNode()) {
            for (const word of texts.currentNode.data.matchAll(/[\p{L}\p{N}]+/gu)) {
                const range = document.createRange();
                range.setStart(texts.currentNode, word.index);
                range.setEnd(texts.currentNode, word.index + word[0].length);
                const lines = new Set([...range.getClientRects()].map(part => part.top));
                if (lines.size > 1) broken.push(word[0]);
            }
        }
    }
    return broken;
}"""
"""Words of tables that are on more than one line."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = (sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", folder)
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.mark.parametrize("width", [390, 1280])
def test_words_of_tables_are_whole_and_pages_scroll_only_downwards(
    site: Path, browser: Any, width: int
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 844})
    broken, too_wide, num_tables = {}, [], 0
    for file in sorted(site.rglob("*.html")):
        page.goto(file.as_uri())
        name = file.relative_to(site).parent.as_posix()
        num_tables += page.locator(".md-typeset table").count()
        if words := page.evaluate(BROKEN_WORDS):
            broken[name] = words
        if page.evaluate("document.scrollingElement.scrollWidth > innerWidth"):
            too_wide.append(name)
    assert num_tables > 50
    assert (broken, too_wide) == ({}, [])
