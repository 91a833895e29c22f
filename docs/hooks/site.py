"""MkDocs hooks: pages made from the code, and from files that lie elsewhere in the repository.

MkDocs calls `on_config` and `on_files`. A place `FOLDER/*` of the navigation in mkdocs.yml stands
for all pages that are made in that folder. Nothing is written into docs/ itself.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))

import code_pages
import http_page
import repository_pages

Pages = Mapping[str, tuple[str, str]]


def made_pages() -> dict[str, tuple[str, str]]:
    """Title and Markdown of every page that is made, by its path in docs/."""
    makers = (code_pages.pages, http_page.pages, repository_pages.pages)
    return {path: page for make in makers for path, page in make()}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fills the places `FOLDER/*` of the navigation."""
    _PAGES.clear()
    _PAGES.update(made_pages())
    config.nav = [_filled(item) for item in config.nav or []]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages."""
    for path, (_, text) in _PAGES.items():
        files.append(File.generated(config, path, content=text))
    return files


_PAGES: dict[str, tuple[str, str]] = {}


def _filled(item: Any) -> Any:
    if isinstance(item, dict):
        return {title: _filled(inner) for title, inner in item.items()}
    if isinstance(item, list):
        return [_filled(inner) for inner in item]
    return list(_within(item.removesuffix("*"))) if item.endswith("/*") else item


def _within(folder: str) -> Iterator[dict[str, str]]:
    for path, (title, _) in _PAGES.items():
        if path.rpartition("/")[0] == folder.rstrip("/"):
            yield {title: path}
