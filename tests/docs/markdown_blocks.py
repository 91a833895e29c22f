"""Code blocks of the documentation, read from Markdown."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted(file for file in (ROOT / "docs").rglob("*.md") if file.parent.name != "hooks"),
]

_FENCE = re.compile(
    r"^```(?P<language>\w*)(?P<options>[^\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
_TITLE = re.compile(r'title="([^"]+)"')


@dataclass(frozen=True)
class Block:
    """One fenced block.

    title: the file that readers are told to put it into; empty if it is to be run.
    line: of the page, where its text begins.
    """

    page: Path
    language: str
    title: str
    text: str
    line: int

    @property
    def place(self) -> str:
        """Where it stands, for messages."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def commands(self) -> Iterator[list[str]]:
        """Of a shell block, the words of each command, comments left out."""
        for line in self.text.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield words


def blocks(page: Path) -> list[Block]:
    """All blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            page,
            found["language"],
            title[1] if (title := _TITLE.search(found["options"])) else "",
            found["text"],
            text.count("\n", 0, found.start()) + 2,
        )
        for found in _FENCE.finditer(text)
    ]
