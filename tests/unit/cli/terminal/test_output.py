"""Lists on terminals of several widths, and in a pipe."""

from __future__ import annotations

import io
import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from diracx.tasks.cli.terminal.tables import MIN_PROSE_WIDTH, Columns, Prose, print_table

DEAD: Columns = ["seq", "died", "task", "id", "attempts", Prose("reason")]
ID = "fbad372ddf92429dbadd9c2a131f1146"
DIED = "2026-12-01T06:00:00Z"
LONG_REASON = "no retry is left after 2 executions: ValueError: there is no owner of that name in the catalogue"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def dead(task: str = "acme:SyncOwnersTask", reason: str = "no retry is left") -> list[object]:
    return [7, datetime(2026, 12, 1, 6, tzinfo=UTC), task, ID, 2, reason]


def printed(columns: Columns, rows: list[list[object]], width: int | None) -> list[str]:
    """The lines on a terminal of this width, or in a pipe."""
    out = io.StringIO() if width is None else Terminal()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("sys.stdout", out)
        patched.setenv("TERM", "xterm")
        patched.setenv("COLUMNS", str(width))
        print_table(columns, rows)
    return [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in out.getvalue().splitlines()]


@pytest.mark.parametrize("width", [140, None])
def test_rows_that_fit_and_rows_in_a_pipe_are_lines_under_the_names_of_their_columns(width: int | None) -> None:
    assert printed(DEAD, [dead(), dead("acme:Other", "malformed")], width) == [
        "seq  died                  task                 id                                attempts  reason",
        f"7    {DIED}  acme:SyncOwnersTask  {ID}  2         no retry is left",
        f"7    {DIED}  acme:Other           {ID}  2         malformed",
    ]


def test_a_pipe_gets_one_line_a_row_however_long_it_is() -> None:
    assert printed(DEAD, [dead(reason=LONG_REASON)], None)[1].endswith(LONG_REASON)


def test_on_a_narrow_terminal_the_cells_stand_below_the_first_one_behind_their_names() -> None:
    assert printed(DEAD, [dead(reason=LONG_REASON)], 79) == [
        "7",
        f"    died: {DIED}  task: acme:SyncOwnersTask",
        f"    id: {ID}  attempts: 2",
        "    reason: no retry is left after 2 executions: ValueError: there is no owner",
        "    of that name in the catalogue",
    ]


def test_prose_is_broken_between_words_beside_other_columns() -> None:
    lines = printed(DEAD, [dead(reason="no retry is left after 2 executions: ValueError")], 125)
    assert [line[-30:].strip() for line in lines[1:]] == [
        "no retry is left after 2",
        "executions: ValueError",
    ]
    assert max(map(len, lines)) <= 125


def test_an_empty_cell_has_no_name_below() -> None:
    row = dead()
    row[3] = None
    assert printed(DEAD, [row], 50) == [
        "7",
        f"    died: {DIED}",
        "    task: acme:SyncOwnersTask  attempts: 2",
        "    reason: no retry is left",
    ]


def test_an_identifier_wider_than_the_terminal_is_one_line() -> None:
    key = f"mutex.job.{'x' * 90}"
    assert printed(["key", "expires in"], [[key, "3 s"]], 80) == [key, "    expires in: 3 s"]
    assert printed(["expires in", "key"], [["3 s", key]], 80) == ["3 s", "    key:", f"    {key}"]


def test_no_text_controls_the_terminal() -> None:
    assert printed(["key", Prose("reason")], [["a", "\x1b[31mred\x07\n[bold]b"]], 80)[1:] == [
        r"a    \x1b[31mred\x07\n[bold]b"
    ]


words = st.text("ab-:/é語", max_size=30)


@given(
    rows=st.lists(st.tuples(words, words, st.lists(words, max_size=8).map(" ".join)), min_size=1, max_size=9),
    width=st.integers(20, 160),
)
def test_every_identifier_and_every_word_that_fits_is_whole_at_every_width(
    rows: list[tuple[str, str, str]], width: int
) -> None:
    columns: Columns = ["key", "id", Prose("reason")]
    lines = printed(columns, [list(row) for row in rows], width)
    shown = "\n".join(lines)
    for key, identifier, reason in rows:
        assert key in shown
        assert identifier in shown
        assert all(word in shown for word in reason.split() if cell_len(word) <= MIN_PROSE_WIDTH)
    longest = max(cell_len(cell) for row in rows for cell in (*row[:2], *row[2].split(), "reason"))
    assert max(map(cell_len, lines)) <= max(width, longest + len("    reason: ") + MIN_PROSE_WIDTH)


@pytest.mark.parametrize("width", [11, 79])
def test_a_single_column_is_a_list(width: int) -> None:
    assert printed(["key"], [["mutex.job.8"], ["a"]], width) == ["key", "mutex.job.8", "a"]
