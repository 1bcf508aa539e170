"""The page that `--help` shows: usage, text, and panels with rows of aligned cells; in colours on a terminal.

It looks as the pages of rich-click do. rich is not used, since to load it and to draw a page with it takes longer than
all the rest of the command.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import Final

import click

MAX_WIDTH: Final = 100
MIN_WIDTH: Final = 50
"""A narrower terminal breaks the lines itself."""
FALLBACK_WIDTH: Final = 80
_GAP: Final = "  "
_FIXED_SPACE: Final = "\xa0"
"""Stands for a space at which no line is broken."""

_BOX: Final = "╭─╮│╰╯"
_ASCII_BOX: Final = "+-+|++"

_BOLD, _DIM, _RED, _YELLOW, _CYAN = "1", "2", "31", "33", "1;36"
_METAVAR, _VARIABLE, _REQUIRED = "1;33", "2;33", "2;31"
_STYLES_OF_CELLS: Final = (_RED, _CYAN, _METAVAR, "")
_MARKED: Final = r"(?P<option>(?<![\w-])--[a-z][a-z-]*)|(?P<variable>\[\$\w+\])|\[(?:required|default:[^\]]*)\]"

_Row = tuple[str, str, str, str]
"""The mark of what is required, the name, what stands for the value, and the help."""


def help_page(command: click.Command, ctx: click.Context) -> str:
    """Return the page of a command or group, without the last line break.

    It is in colours if those of the context are on. An option or argument stands in the panel that its attribute
    `panel` names, a command in that of its own.
    """
    width = min(max(_columns(), MIN_WIDTH), MAX_WIDTH)
    usage = f"{ctx.command_path} {' '.join(command.collect_usage_pieces(ctx))}"
    lines = ["", f" {_styled('Usage:', _YELLOW)} {_styled(usage, _BOLD)}", "", *_text(command.help or "", width - 2)]
    for title, rows in _panels(command, ctx).items():
        lines += _panel(title, rows, width, _box())
    page = "\n".join(lines)
    return page if ctx.color else click.unstyle(page)


def _columns() -> int:
    """The width of the terminal, also where standard output is a pipe to a pager."""
    if (given := os.environ.get("COLUMNS", "")).isdecimal():
        return int(given)
    for stream in (sys.stdout, sys.stderr, sys.stdin):
        try:
            return os.get_terminal_size(stream.fileno()).columns or FALLBACK_WIDTH
        except (OSError, ValueError):  # it is no terminal, or has no descriptor, or is closed
            continue
    return FALLBACK_WIDTH


def _box() -> str:
    """The corners and lines of a panel."""
    try:
        _BOX.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return _ASCII_BOX
    return _BOX


def _styled(text: str, style: str) -> str:
    return f"\x1b[{style}m{text}\x1b[0m" if style and text else text


def _text(text: str, width: int) -> Iterator[str]:
    """The paragraphs, each with a blank line after it; those after the first are dim. `\\b` keeps lines as they are."""
    style = ""
    for paragraph in filter(None, inspect.cleandoc(text).split("\n\n")):
        kept = paragraph.startswith("\b\n")
        for line in paragraph.split("\n")[1:] if kept else [" ".join(paragraph.split())]:
            indent = " " * (len(line) - len(line.lstrip()) + 2 * kept)
            yield from (f" {_styled(part, style)}" for part in _wrapped(line, width, indent))
        yield ""
        style = _DIM


def _wrapped(text: str, width: int, indent: str = "") -> list[str]:
    """Break a line; an option is not broken at its hyphens."""
    return textwrap.wrap(
        text, width, subsequent_indent=indent, drop_whitespace=True, break_on_hyphens=False, replace_whitespace=False
    )


def _panels(command: click.Command, ctx: click.Context) -> dict[str, list[_Row]]:
    """The rows of each panel, by its title."""
    panels: dict[str, list[_Row]] = {}
    if isinstance(command, click.Group):
        for name in command.list_commands(ctx):
            each = command.get_command(ctx, name)
            assert each is not None
            row = ("", name, "", each.get_short_help_str(limit=MAX_WIDTH))
            panels.setdefault(getattr(each, "panel", None) or "Commands", []).append(row)
    panels |= {"Arguments": [], "Options": []}  # in this order, and before those that are named
    for parameter in command.get_params(ctx):
        if not isinstance(parameter, click.Option):
            panels["Arguments"].append(_argument_row(parameter, ctx))
        elif not parameter.hidden:
            panels.setdefault(getattr(parameter, "panel", None) or "Options", []).append(_option_row(parameter))
    return {title: rows for title, rows in panels.items() if rows}


def _argument_row(argument: click.Parameter, ctx: click.Context) -> _Row:
    (name,) = argument.get_usage_pieces(ctx)
    return "*" if argument.required else "", name, "", _with_notes(argument, getattr(argument, "help", None))


def _option_row(option: click.Option) -> _Row:
    value = "" if option.is_flag else option.metavar or option.type.name.upper()
    names = ", ".join(sorted(option.opts, key=len, reverse=True))
    return "*" if option.required else "", names, value, _with_notes(option, option.help)


def _with_notes(parameter: click.Parameter, text: str | None) -> str:
    notes = []
    if getattr(parameter, "show_envvar", False):
        notes.append(f"[${parameter.envvar}]")
    if getattr(parameter, "show_default", False):
        notes.append(f"[default: {parameter.default}]")
    if parameter.required:
        notes.append("[required]")
    return " ".join([text or "", *(note.replace(" ", _FIXED_SPACE) for note in notes)])


def _panel(title: str, rows: Sequence[_Row], width: int, box: str) -> Iterator[str]:
    top_left, line, top_right, side, bottom_left, bottom_right = [*box]
    side = _styled(side, _DIM)
    columns = [n for n in range(len(_STYLES_OF_CELLS) - 1) if any(row[n] for row in rows)]
    widths = [max(len(row[n]) for row in rows) for n in columns]
    room = width - 4 - sum(len(_GAP) + each for each in widths)
    yield _styled(f"{top_left}{line} {title} {line * (width - 5 - len(title))}{top_right}", _DIM)
    for row in rows:
        cells = [_styled(row[n].ljust(each), _STYLES_OF_CELLS[n]) for n, each in zip(columns, widths, strict=True)]
        for help_line in _wrapped(row[-1], room) or [""]:
            yield f"{side} {_GAP.join([*cells, _marked(help_line)])}{' ' * (room - len(help_line))} {side}"
            cells = [" " * each for each in widths]
    yield _styled(f"{bottom_left}{line * (width - 2)}{bottom_right}", _DIM)


def _marked(text: str) -> str:
    """Style the options and the notes in a line of help."""

    def style(match: re.Match[str]) -> str:
        if match["option"]:
            return _styled(match[0], _CYAN)
        return _styled(match[0], _VARIABLE if match["variable"] else _REQUIRED if "required" in match[0] else _DIM)

    return re.sub(_MARKED, style, text).replace(_FIXED_SPACE, " ")
