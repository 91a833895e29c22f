"""What a check comes to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "problem"]
"""Warnings cost time or some of what there is; with a problem searches, or a part of them, fail."""


@dataclass(frozen=True)
class Finding:
    """What was looked at, what was found, and if something is wrong what, and the mend."""

    subject: str
    found: str
    state: State = "ok"
    wrong: str = ""
    mend: str = ""

    def __post_init__(self) -> None:
        assert (self.state == "ok") == (not self.wrong) == (not self.mend)


def size_text(num_bytes: float) -> str:
    """Such as "31.2 GB" or "64 MB"; a GB is 10⁹ bytes."""
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.0f} MB"
