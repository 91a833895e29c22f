"""Lengths of time in words."""

from __future__ import annotations


def duration_text(seconds: float) -> str:
    """Such as "40 s", "5 min" or "2.5 h", rounded."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
