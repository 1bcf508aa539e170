"""What commands that list write on standard output: a table for people, or one JSON document.

On a terminal the table is rich's. Piped, it is aligned text without colours or frames, one row a line.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text


def print_document(value: object) -> None:
    """Write one JSON document; times become RFC 3339."""
    document = msgspec.json.format(msgspec.json.encode(value), indent=2)
    sys.stdout.buffer.write(document + b"\n")
    sys.stdout.buffer.flush()


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Write a table; None is an empty cell."""
    cells = [["" if cell is None else printable(str(cell)) for cell in row] for row in rows]
    console = Console()
    if not console.is_terminal:
        print("\n".join(aligned([list(columns), *cells])))
        return
    table = Table(*columns)
    for row in cells:
        # As text, since a reason may hold what rich takes for markup.
        table.add_row(*map(Text, row))
    console.print(table)


def printable(text: str) -> str:
    """The text with control characters escaped, but for line breaks and tabs: no task's words steer a terminal."""
    return "".join(each if each in "\n\t" or each.isprintable() else ascii(each)[1:-1] for each in text)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines whose cells stand below each other; at least one row."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
