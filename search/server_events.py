"""Server-sent events, as the HTML standard has them, from the bytes of an answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class ServerEvent:
    """One event; `id` is empty where it carries none."""

    name: str
    data: str
    id: str


def server_events(parts: Iterable[bytes]) -> Iterator[ServerEvent]:
    """The whole events in a stream; one that is cut off at its end is dropped.

    Lines end in LF or CR LF: Espalier's service sends no others. Comments, which keep the
    connection alive, tell nothing.
    """
    fields: dict[str, list[str]] = {}
    for line in _lines(parts):
        if line:
            name, _, value = line.partition(":")
            fields.setdefault(name, []).append(value.removeprefix(" "))
            continue
        if "data" in fields:
            names, ids = fields.get("event", ["message"]), fields.get("id", [""])
            yield ServerEvent(names[-1], "\n".join(fields["data"]), ids[-1])
        fields = {}


def _lines(parts: Iterable[bytes]) -> Iterator[str]:
    """Whole lines. Not httpx's iter_lines, which also breaks at characters such as U+2028."""
    rest = b""
    for part in parts:
        *whole, rest = (rest + part).split(b"\n")
        for line in whole:
            yield line.removesuffix(b"\r").decode(errors="replace")
