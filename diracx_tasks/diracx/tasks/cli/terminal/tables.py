"""How a list stands on a terminal: nothing in it that an operator types next is ever cut.

Where the columns fit side by side, a row is a line. Where they do not, the first columns that fit make the line, and
the rest stands below it, each cell behind its name. If only some rows are too long, only those look so. Prose is broken
between words, and nothing else is broken at all: an identifier that is wider than the terminal is left to the terminal,
which wraps it without a line break in what is copied.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from rich.cells import cell_len
from rich.text import Text

_GAP: Final = "  "
_INDENT: Final = "    "
_LEAST_PROSE: Final = 24
"""The fewest cells in which prose is readable beside other columns."""
_TOO_LONG: Final = 4
"""One row of so many may be too long before all are laid out as it is."""


@dataclass(frozen=True, slots=True)
class Prose:
    """A column that may be broken between words. One that is given by its name alone never is."""

    name: str


Columns = Sequence[str | Prose]
Row = Sequence[str]


def names_of(columns: Columns) -> list[str]:
    """What stands above them."""
    return [column.name if isinstance(column, Prose) else column for column in columns]


def laid_out(columns: Columns, rows: Sequence[Row], width: int) -> Iterator[Text]:
    """The lines of a table.

    Args:
        columns: The most important first, which is no prose.
        rows: At least one, of cells of one line each; an empty cell is left out where it would stand below.
        width: Of the terminal, in cells.
    """
    ordered = sorted(rows, key=lambda row: sum(map(cell_len, row)))
    usual = ordered[: len(rows) - len(rows) // _TOO_LONG]
    widths = _side_by_side(columns, rows, width) or _side_by_side(columns, usual, width) or _first(columns, rows, width)
    yield _line(names_of(columns)[: len(widths)], widths, style="bold")
    for row in rows:
        beside = _beside(columns, row, widths)
        yield from _lines(row[:beside], widths[:beside])
        yield from _below(columns[beside:], row[beside:], width)


def _side_by_side(columns: Columns, rows: Sequence[Row], width: int) -> list[int] | None:
    """The widths of all columns; None if they do not fit."""
    wanted = _natural(columns, rows)
    widths = [
        min(wants, max(_LEAST_PROSE, _longest_word(cells))) if isinstance(column, Prose) else wants
        for column, wants, cells in zip(columns, wanted, zip(*rows, strict=True), strict=True)
    ]
    left = width - _total(widths)
    if left < 0:
        return None
    for number, wants in enumerate(wanted):
        more = min(left, wants - widths[number])
        widths[number] += more
        left -= more
    return widths


def _first(columns: Columns, rows: Sequence[Row], width: int) -> list[int]:
    """The widths of the first columns, as far as they fit and up to any prose; at least one."""
    wanted = _natural(columns, rows)
    count = 1
    while count < len(columns) and not isinstance(columns[count], Prose) and _total(wanted[: count + 1]) <= width:
        count += 1
    return wanted[:count]


def _natural(columns: Columns, rows: Sequence[Row]) -> list[int]:
    return [max(map(cell_len, cells)) for cells in zip(names_of(columns), *rows, strict=True)]


def _longest_word(cells: Sequence[str]) -> int:
    return max((cell_len(word) for cell in cells for word in cell.split()), default=0)


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def _beside(columns: Columns, row: Row, widths: Sequence[int]) -> int:
    """How many cells of a row stand beside each other: all, or the first that need not be broken; at least one."""
    fitting = [
        (_longest_word([cell]) if isinstance(column, Prose) else cell_len(cell)) <= width
        for column, cell, width in zip(columns, row, widths, strict=False)
    ]
    if len(fitting) == len(row) and all(fitting):
        return len(row)
    count = 1
    while count < len(fitting) and fitting[0] and fitting[count] and not isinstance(columns[count], Prose):
        count += 1
    return count


def _lines(row: Row, widths: Sequence[int]) -> Iterator[Text]:
    broken = [_broken(cell, width) for cell, width in zip(row, widths, strict=True)]
    for number in range(max(map(len, broken))):
        yield _line([lines[number] if number < len(lines) else "" for lines in broken], widths)


def _line(cells: Row, widths: Sequence[int], style: str = "") -> Text:
    padded = [cell + " " * (width - cell_len(cell)) for cell, width in zip(cells, widths, strict=True)]
    return Text(_GAP.join(padded).rstrip(), style=style)


def _broken(cell: str, width: int) -> list[str]:
    """Lines of words; one that is wider than a line is left whole."""
    if cell_len(cell) <= width:
        return [cell]
    lines: list[str] = []
    for word in cell.split():
        if lines and cell_len(lines[-1]) + 1 + cell_len(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines or [""]


def _below(columns: Columns, row: Row, width: int) -> Iterator[Text]:
    """The cells of a row behind their names, as many on a line as fit; long prose has lines of its own."""
    line = Text()
    for column, cell in zip(columns, row, strict=True):
        if not cell:
            continue
        name = names_of([column])[0]
        named = Text.assemble((f"{name}: ", "dim"), cell)
        if line and line.cell_len + len(_GAP) + named.cell_len <= width:
            line = Text.assemble(line, _GAP, named)
            continue
        if line:
            yield line
        line = Text.assemble(_INDENT, named)
        if isinstance(column, Prose) and line.cell_len > width:
            yield from _long_prose(name, cell, width)
            line = Text()
    if line:
        yield line


def _long_prose(name: str, cell: str, width: int) -> Iterator[Text]:
    indent = len(_INDENT) + len(name) + 2
    first, *rest = _broken(cell, max(_LEAST_PROSE, width - indent))
    yield Text.assemble(_INDENT, (f"{name}: ", "dim"), first)
    yield from (Text(" " * indent + more) for more in rest)
