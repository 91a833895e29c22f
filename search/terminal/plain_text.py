"""Text for terminals that cannot show every character."""

from __future__ import annotations

import codecs
import io
from typing import TextIO

_IN_ASCII = {
    **{"≤": "<=", "≥": ">=", "×": "x", "–": "-", "—": "-", "−": "-", "…": "...", "→": "->"},
    **{"±": "+-", "·": "*", "α": "alpha", "λ": "lambda", "ρ": "rho", "σ": "sigma", "Δ": "delta"},
    **{"½": "1/2", "²": "^2", "³": "^3", "∞": "inf", "█": "#", "━": "-", "─": "-", "│": "|"},
}
_HANDLER = "espalier.ascii"


def make_printable(stream: TextIO) -> None:
    """Let the stream take any text; what its encoding lacks is written in ASCII, or as "?"."""
    if isinstance(stream, io.TextIOWrapper):
        codecs.register_error(_HANDLER, _replaced)
        stream.reconfigure(errors=_HANDLER)


def _replaced(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_IN_ASCII.get(character, "?") for character in lacking), error.end
