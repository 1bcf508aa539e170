"""The pages that `--help` shows, drawn in memory."""

from __future__ import annotations

import fcntl
import io
import os
import re
import struct
import sys
import termios

import click
import pytest

from diracx.tasks.cli.lazy import LazyCommand, LazyGroup
from diracx.tasks.cli.options import declared, namespace_option
from diracx.tasks.cli.terminal.help_page import FALLBACK_WIDTH, MAX_WIDTH, MIN_WIDTH, help_page
from diracx.tasks.cli.terminal.streams import in_colours

COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@declared("paint")
@click.argument("walls", metavar="WALL...", nargs=-1)
@namespace_option
@click.option("--colour", required=True, metavar="NAME", help="The colour, e.g. red, as --list-colours prints them.")
@click.option("--coats", type=int, default=2, show_default=True, envvar="COATS", show_envvar=True, help="The coats.")
@click.option("--wet", is_flag=True, help="Do not wait.")
@click.option("--secret", hidden=True)
def paint() -> None:
    """Paint some walls.

    The paint must be
    there.

    \b
    first: {a: 1}
      second: a line that is too long for the page and goes on
      third: a line that is too long for the page and so goes on

    It dries.
    """


PAINT = """
 Usage: diracx-task-run paint [OPTIONS] WALL...

 Paint some walls.

 The paint must be there.

 first: {a: 1}
   second: a line that is too long for the page and goes on
   third: a line that is too long for the page and so goes
     on

 It dries.

╭─ Arguments ──────────────────────────────────────────────╮
│ WALL...                                                  │
╰──────────────────────────────────────────────────────────╯
╭─ Options ────────────────────────────────────────────────╮
│ *  --colour  NAME     The colour, e.g. red, as           │
│                       --list-colours prints them.        │
│                       [required]                         │
│    --coats   INTEGER  The coats. [$COATS] [default: 2]   │
│    --wet              Do not wait.                       │
│    --help             Show this message and exit.        │
╰──────────────────────────────────────────────────────────╯
╭─ Server ─────────────────────────────────────────────────╮
│ --namespace  NAME  The namespace of the streams: lower   │
│                    case letters, digits and _.           │
│                    [$DIRACX_TASKS_NAMESPACE]             │
│                    [default: diracx]                     │
╰──────────────────────────────────────────────────────────╯"""

GROUP = """
 Usage: house [OPTIONS] COMMAND [ARGS]...

╭─ Rooms ──────────────────────────────────────────────────╮
│ kitchen  Cook.                                           │
│ hall     Wait.                                           │
╰──────────────────────────────────────────────────────────╯
╭─ Options ────────────────────────────────────────────────╮
│ --help, -h  Show this message and exit.                  │
╰──────────────────────────────────────────────────────────╯"""


class Output(io.StringIO):
    """Standard output with an encoding, on a terminal or not."""

    def __init__(self, encoding: str = "utf-8", on_terminal: bool = False) -> None:
        super().__init__()
        self._encoding, self._on_terminal = encoding, on_terminal

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding

    def isatty(self) -> bool:
        return self._on_terminal


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    for name in ("NO_COLOR", "FORCE_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)


def page_of(
    command: click.Command,
    name: str = "diracx-task-run paint",
    output: io.StringIO | None = None,
    error: io.TextIOBase | None = None,
    **settings: object,
) -> str:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "stdout", output or Output())
        patched.setattr(sys, "stderr", error or io.StringIO())
        patched.setattr(sys, "stdin", io.StringIO())
        return help_page(command, click.Context(command, info_name=name, **settings))  # type: ignore[arg-type]


def test_a_page_has_the_text_and_panels_of_arguments_options_and_server() -> None:
    assert page_of(paint) == PAINT


def test_a_group_lists_its_commands_in_panels_above_its_options() -> None:
    house = LazyGroup("house", panel="Buildings")
    for name, what in (("kitchen", "Cook."), ("hall", "Wait.")):
        house.add_command(LazyCommand(name, "nowhere:command", what, "Rooms"))
    assert page_of(house, "house", help_option_names=["-h", "--help"]) == GROUP


def test_colours_change_nothing_else() -> None:
    page = page_of(paint, color=True)
    assert COLOURS.sub("", page) == PAINT
    for styled in (
        "\x1b[1;36m--list-colours\x1b[0m prints",
        "\x1b[31m*\x1b[0m  \x1b[1;36m--colour\x1b[0m  \x1b[1;33mNAME   \x1b[0m  The",
        "\x1b[2;33m[$COATS]\x1b[0m \x1b[2m[default: 2]\x1b[0m",
        "\x1b[2;31m[required]\x1b[0m",
    ):
        assert styled in page
    assert "\x1b" not in page_of(paint, color=False)


def test_where_the_encoding_has_no_lines_the_panels_are_ascii() -> None:
    page = page_of(paint, output=Output("latin-1"))
    assert page.isascii()
    assert "+- Options -----" in page
    assert "|    --wet " in page


@pytest.mark.parametrize(
    ("columns", "width"),
    [("80", 80), ("140", MAX_WIDTH), ("20", MIN_WIDTH), ("", FALLBACK_WIDTH), ("wide", FALLBACK_WIDTH)],
)
def test_a_page_is_as_wide_as_the_terminal_within_bounds(
    monkeypatch: pytest.MonkeyPatch, columns: str, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert {len(line) for line in page_of(paint).splitlines() if line.startswith(("╭", "│", "╰"))} == {width}


def test_in_a_pipe_to_a_pager_the_terminal_of_standard_error_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS")
    ours, theirs = os.openpty()
    with open(ours, "wb"), open(theirs, "w") as terminal:
        for size, width in ((os.terminal_size((70, 24)), 70), (os.terminal_size((0, 0)), FALLBACK_WIDTH)):
            fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", size.lines, size.columns, 0, 0))
            assert max(map(len, page_of(paint, error=terminal).splitlines())) == width


@pytest.mark.parametrize(
    ("on_terminal", "variables", "coloured"),
    [
        (True, {}, True),
        (True, {"TERM": "xterm"}, True),
        (True, {"TERM": "dumb"}, False),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"NO_COLOR": "1", "FORCE_COLOR": "1"}, False),
        (False, {}, False),
        (False, {"FORCE_COLOR": "1"}, True),
        (False, {"FORCE_COLOR": ""}, False),
    ],
)
def test_colours_are_for_terminals_and_those_who_want_them(
    monkeypatch: pytest.MonkeyPatch, on_terminal: bool, variables: dict[str, str], coloured: bool
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "stdout", Output(on_terminal=on_terminal))
        assert in_colours() is coloured
