"""Output on terminals that cannot show every character, or not in one line."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from search.terminal.plain_text import make_printable
from search.terminal.text_table import text_table


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [("utf-8", "α ≤ 3×3 … 字"), ("latin-1", "alpha <= 3×3 ... ?"), ("ascii", "alpha <= 3x3 ... ?")],
)
def test_what_an_encoding_lacks_is_written_otherwise(encoding: str, expected: str) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    make_printable(stream)
    stream.write("α ≤ 3×3 … 字")
    stream.flush()
    assert raw.getvalue().decode(encoding) == expected


def test_a_stream_that_is_no_file_is_left_alone() -> None:
    stream = io.StringIO()
    make_printable(stream)
    stream.write("≤")
    assert stream.getvalue() == "≤"


@pytest.mark.parametrize("width", [20, 40, 60, 120])
def test_a_narrow_table_folds_and_leaves_nothing_out(width: int) -> None:
    numbers = ("FLOPs", "of base", "validation", "test")
    table = text_table("architecture", *numbers, numbers=numbers)
    row = ("fine-tuned-12-t50-s1", "12.3456M", "99.25%", "98.7654%", "97.6543%")
    table.add_row(*row)
    output = io.StringIO()
    Console(file=output, width=width).print(table)
    text = output.getvalue()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    everything = sorted("".join([*row, "architecture", *numbers]).replace(" ", ""))
    assert sorted("".join(text.split())) == everything
