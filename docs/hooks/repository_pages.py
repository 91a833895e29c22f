"""Pages of the site that are files elsewhere: experiments, benchmarks, examples, CONTRIBUTING …"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAPERS = ("rni", "copycat", "taylor", "scaling_factors")
_OUTSIDE = re.compile(r"(?<!!)\[([^\]]*)\]\((?!https?:|#)([^)]*)\)")


def pages() -> Iterator[tuple[str, tuple[str, str]]]:
    """Paths in docs/, each with title and Markdown."""
    yield "contributing.md", ("Contributing", _text("CONTRIBUTING.md"))
    yield "reference/changelog.md", ("Changelog", _text("CHANGELOG.md"))
    for file in sorted((ROOT / "benchmarks" / "results").glob("*.md")):
        yield f"reference/benchmarks/{file.name}", (file.stem.replace("_", " "), _page(file))
    for paper in PAPERS:
        for file in sorted((ROOT / "experiments" / paper).glob("*.md")):
            title = re.sub(r"(\D)(\d)", r"\1 \2", file.stem).capitalize()
            yield f"papers/{paper}/{file.name}", (title, _page(file))
    for file in sorted((ROOT / "examples").iterdir()):
        if file.suffix in (".py", ".toml"):
            yield f"how-to/examples/{file.stem}.md", (file.name, _source(file))


def _text(name: str) -> str:
    return _without_links((ROOT / name).read_text(encoding="utf-8"))


def _page(file: Path) -> str:
    return _without_links(file.read_text(encoding="utf-8"))


def _without_links(text: str) -> str:
    """Links to files that the site does not have become their words; pictures go."""
    text = re.sub(r"!\[[^\]]*\]\((?!https?:)[^)]*\)\n*", "", text)
    return _OUTSIDE.sub(lambda link: f"{link[1]} (`{link[2]}`)", text)


def _source(file: Path) -> str:
    """A page of an example: what it says of itself, then the file."""
    source = file.read_text(encoding="utf-8")
    about = (ast.get_docstring(ast.parse(source)) or "") if file.suffix == ".py" else ""
    first = about.partition("\n")[0] or "Settings of a search on handwritten digits."
    language = "python" if file.suffix == ".py" else "toml"
    return (
        f"# {file.name}\n\n{first}\n\n"
        f'```{language} title="examples/{file.name}"\n{source.rstrip()}\n```\n'
    )
