"""Lists on standard output, for people.

A terminal that is wide enough shows a table, in which only prose is broken. A narrower one shows each row as its first
cell with named cells below. So an identifier, which an operator types or copies next, is whole at every width: one that
is wider than the terminal itself is left to the terminal, which wraps it without a line break in the copied text.

A pipe gets aligned text without colours, one row a line.

Commands that show no list, a worker above all, do without this module, and so without the time and memory of rich.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from diracx.tasks.cli.terminal.output import print_text
from diracx.tasks.cli.terminal.printable import one_line
from diracx.tasks.cli.terminal.streams import check_written
from diracx.tasks.plumbing.wire.times import readable_time

MIN_PROSE_WIDTH: Final = 24
GAP: Final = 2
INDENT: Final = 4


@dataclass(frozen=True, slots=True)
class Prose:
    """A column of prose, which may be broken. A column that is given as a plain name never is."""

    name: str


Columns = Sequence[str | Prose]


def print_table(columns: Columns, rows: Sequence[Sequence[object]]) -> None:
    """Print a table of at least one row. None is an empty cell; a time is shown to the second.

    Args:
        columns: The columns; the first one identifies a row.

    Raises:
        OutputLostError: It could not be written.
    """
    names = [column.name if isinstance(column, Prose) else column for column in columns]
    prose = [isinstance(column, Prose) for column in columns]
    cells = [[_cell(each) for each in row] for row in rows]
    if not sys.stdout.isatty():
        print_text("\n".join(aligned([names, *cells])))
        return
    console = Console(highlight=False)
    if _least_width([names, *cells], prose) <= console.width:
        console.print(_table(names, prose, cells))
    else:
        for row in cells:
            for line in _stacked(names, row, console):
                console.print(line, soft_wrap=True)
    check_written()


def _least_width(rows: Sequence[Sequence[str]], prose: Sequence[bool]) -> int:
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    least = [min(width, MIN_PROSE_WIDTH) if is_prose else width for width, is_prose in zip(widths, prose, strict=True)]
    return sum(least) + GAP * (len(least) - 1)


def _table(names: Sequence[str], prose: Sequence[bool], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="bold")
    for name, is_prose in zip(names, prose, strict=True):
        table.add_column(name, no_wrap=not is_prose, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _stacked(names: Sequence[str], row: Sequence[str], console: Console) -> Iterator[Text]:
    """Yield the first cell of a row, then indented lines with its other cells, each behind its name."""
    yield Text(row[0], style="bold")
    room = max(MIN_PROSE_WIDTH, console.width - INDENT)
    lines: list[Text] = []
    for name, cell in zip(names[1:], row[1:], strict=True):
        if cell:
            # "ignore" keeps a word whole that is wider than the terminal.
            named = Text.assemble((f"{name}: ", "dim"), cell, overflow="ignore")
            if lines and lines[-1].cell_len + GAP + named.cell_len <= room:
                lines[-1].append(" " * GAP).append(named)
            else:
                lines.append(named)
    for line in lines:
        for part in line.wrap(console, room):
            yield Text.assemble(" " * INDENT, part)


def _cell(value: object) -> str:
    """Return one line of text."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return readable_time(value)
    return one_line(str(value))


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return lines with the cells of at least one row aligned in columns."""
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
