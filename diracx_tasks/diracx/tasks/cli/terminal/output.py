"""What commands that list write on standard output: a table for people, or one JSON document.

On a terminal the table is laid out for its width, see `tables`. Piped, it is aligned text without colours, one row a
line.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime

import msgspec
from rich.cells import cell_len
from rich.console import Console

from diracx.tasks.cli.terminal.tables import Columns, laid_out, names_of


def print_document(value: object) -> None:
    """Write one JSON document; times become RFC 3339."""
    document = msgspec.json.format(msgspec.json.encode(value), indent=2)
    sys.stdout.buffer.write(document + b"\n")
    sys.stdout.buffer.flush()


def print_table(columns: Columns, rows: Sequence[Sequence[object]]) -> None:
    """Write a table of at least one row; None is an empty cell, a time is shown to the second."""
    cells = [[_cell(each) for each in row] for row in rows]
    if not sys.stdout.isatty():
        print("\n".join(aligned([names_of(columns), *cells])))
        return
    console = Console(highlight=False)
    for line in laid_out(columns, cells, console.width):
        console.print(line, soft_wrap=True)


def _cell(value: object) -> str:
    """One line of text."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return seconds(value)
    return printable(str(value)).replace("\n", "\\n").replace("\t", "\\t")


def seconds(moment: datetime) -> str:
    """RFC 3339, to the second."""
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def printable(text: str) -> str:
    """The text with control characters escaped, but for line breaks and tabs: no task's words steer a terminal."""
    return "".join(each if each in "\n\t" or each.isprintable() else ascii(each)[1:-1] for each in text)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines whose cells stand below each other; at least one row."""
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
