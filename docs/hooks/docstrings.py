"""A griffe extension: what docstrings say of arguments and attributes becomes a list.

Here a docstring names them in lines of their own, `name: what it is`, with the rest of a longer
text indented below.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_NAMED = re.compile(r"(?P<names>[a-z_]\w*(?:, [a-z_]\w*)*): (?P<text>.*)")
_NEXT = re.compile(r"\.  (?=[a-z_]\w*(?:, [a-z_]\w*)*: )")


class NamedValues(griffe.Extension):
    """Changes the docstring of every object that is read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = as_lists(obj.docstring.value)


def as_lists(docstring: str) -> str:
    """The docstring in Markdown."""
    lines: list[str] = []
    is_in_list = False
    for line in _NEXT.sub(".\n", docstring).splitlines():
        named = _NAMED.fullmatch(line)
        if named and lines:
            if not is_in_list and lines[-1]:
                lines.append("")
            lines.append(f"- **{named['names']}**: {named['text']}")
            is_in_list = True
        else:
            if is_in_list and line and not line.startswith(" "):
                lines.append("")
                is_in_list = False
            lines.append(line)
    return "\n".join(lines)
