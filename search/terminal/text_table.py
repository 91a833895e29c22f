"""The look of every table on a terminal."""

from __future__ import annotations

from collections.abc import Collection

from rich.table import Table
from rich.text import Text


def text_table(*headings: str, numbers: Collection[str] = ()) -> Table:
    """A table without lines and rows; columns of `numbers` stand to the right.

    On a narrow terminal words and numbers go on in the next line: nothing is left out.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        is_number = heading in numbers
        table.add_column(Text(heading), justify="right" if is_number else "left", overflow="fold")
    return table
